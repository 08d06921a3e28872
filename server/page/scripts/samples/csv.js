// Lines and records of CSV text, as Python's csv module reads them: a field in quotes may hold separators, line ends and doubled quotes.

const LONGEST = 131_072; // characters of a field

/** The lines of a text with their ends, each as [number, line]; numbers begin at 1. */
export function* linesOf(text) {
  const end = /\r\n|\r|\n/g;
  let number = 1;
  for (let at = 0; at < text.length; number++) {
    const to = end.exec(text) ? end.lastIndex : text.length;
    yield [number, text.slice(at, to)];
    at = to;
  }
}

/**
 * Records, each as {line, cells} with the number of its first line; an empty line is a record of one empty cell.
 *
 * lines: of `linesOf`. strict: whether text behind a quoted field, and quotes without an end, raise an Error, which has the record's `line`.
 * spaces: whether those at the beginning of a field are a part of it. skip: told every line that a record could begin with; true leaves it out.
 */
export function* recordsOf(lines, separator, { strict = false, spaces = false, skip = () => false } = {}) {
  let [cells, open, first] = [[], null, 0]; // open: the text so far of a field in quotes
  const wrong = (problem) => Object.assign(new Error(problem), { line: first });
  const keep = (cell) => {
    if (cell.length > LONGEST) throw wrong(`a field has more than ${LONGEST} characters`);
    cells.push(cell);
  };
  for (const [number, line] of lines) {
    if (first === 0) {
      if (skip(line)) continue;
      first = number;
    }
    const stop = line.length - /(\r\n|\r|\n)?$/.exec(line)[0].length;
    let at = 0;
    let ended = false;
    while (!ended) {
      if (open === null) {
        while (!spaces && line[at] === " ") at += 1;
        if (line[at] === '"') [open, at] = ["", at + 1];
      }
      if (open !== null) {
        const quote = line.indexOf('"', at);
        open += line.slice(at, quote < 0 ? line.length : quote);
        if (quote < 0) break; // goes on in the next line
        at = quote + 1;
        if (line[at] === '"') {
          [open, at] = [`${open}"`, at + 1];
          continue;
        }
        if (strict && at < stop && line[at] !== separator) throw wrong(`${JSON.stringify(separator)} expected after '"'`);
      }
      const found = line.indexOf(separator, at);
      const to = found < 0 || found > stop ? stop : found;
      keep((open ?? "") + line.slice(at, to));
      [open, at, ended] = [null, to + 1, to === stop];
    }
    if (open !== null) continue;
    yield { line: first, cells };
    [cells, first] = [[], 0];
  }
  if (open === null) return;
  if (strict) throw wrong("its last field in quotes has no closing quote");
  keep(open);
  yield { line: first, cells };
}
