// Text of a CSV or TSV file → header and rows, as runtime/samples/tables.py reads it: columns are separated by commas, semicolons, tabs or
// bars, whichever splits the first rows into equally many; blank lines, comments (#) and a first line "sep=;" are skipped.

const SEPARATORS = [",", ";", "\t", "|"];
const PROBED = 50; // rows that the separator is found by
const MOST = 200_000_000; // bytes

/** Read a file: {header: [names], rows: [{line, cells}], separator}. Raises an Error with a line for the reader. */
export async function readTable(file) {
  if (file.size > MOST) throw new Error(`${file.name} has ${Math.ceil(file.size / 1e6)} MB, but at most ${MOST / 1e6} are read here; cut it, or use 'isoform predict'`);
  const text = decoded(new Uint8Array(await file.arrayBuffer()), file.name);
  const named = /^"?sep=(.)"?[\r\n]/.exec(text)?.[1];
  const separator = named ?? separatorOf(text, file.name);
  const records = [...recordsOf(named ? text.replace(/^[^\n]*\n?/, "") : text, separator, Infinity)];
  if (named) for (const record of records) record.line += 1;
  const [first, ...rows] = records;
  if (!first) throw new Error(`${file.name} is empty, but a header and at least one row were expected`);
  const header = first.cells.map((name) => name.trim().normalize("NFC"));
  if (header.some((name) => name !== "" && Number.isFinite(Number(name)))) {
    throw new Error(`${file.name} has no header: its first line holds ${header.join(", ").slice(0, 60)}; add a line with the names of the columns`);
  }
  const twice = header.find((name, i) => name !== "" && header.indexOf(name) !== i);
  if (twice !== undefined) throw new Error(`${file.name} has two columns named ${twice}; give them different names`);
  const filledRows = rows.filter(({ cells }) => cells.some((cell) => cell.trim()));
  const odd = filledRows.find(({ cells }) => cells.length !== header.length);
  if (odd) throw new Error(`${file.name}, line ${odd.line}, has ${odd.cells.length} fields, but the header has ${header.length}`);
  if (filledRows.length === 0) throw new Error(`${file.name} has a header, but no rows`);
  return { header, rows: filledRows, separator };
}

function decoded(bytes, name) {
  const [a, b] = bytes;
  const encoding = a === 0xff && b === 0xfe ? "utf-16le" : a === 0xfe && b === 0xff ? "utf-16be" : "utf-8";
  try {
    return new TextDecoder(encoding, { fatal: true }).decode(bytes); // without its byte order mark
  } catch {
    throw new Error(`${name} is not ${encoding.toUpperCase()} text; save it as UTF-8`);
  }
}

function separatorOf(text, name) {
  const found = SEPARATORS.map((separator) => ({ separator, widths: [...recordsOf(text, separator, PROBED)].map(({ cells }) => cells.length) }));
  const fitting = found.filter(({ widths }) => widths[0] > 1 && widths.every((width) => width === widths[0]));
  if (/\.tsv$/i.test(name) && (fitting.length === 0 || fitting.some(({ separator }) => separator === "\t"))) return "\t";
  if (fitting.length > 1) throw new Error(`the columns of ${name} could be separated by ${fitting.map(({ separator }) => JSON.stringify(separator)).join(" or ")}; use only one of them`);
  // none fits: the one that splits the header most, so that reading names the first row that differs
  return fitting[0]?.separator ?? found.reduce((best, each) => ((each.widths[0] ?? 0) > (best.widths[0] ?? 0) ? each : best)).separator;
}

/** Records with the number of their first line; a field in quotes may hold separators, line ends and doubled quotes. */
function* recordsOf(text, separator, most) {
  let [at, line, given] = [0, 1, 0];
  while (at < text.length && given < most) {
    const start = line;
    const comment = /^ *#/.test(text.slice(at, at + 80));
    const cells = [];
    let ended = false;
    while (!ended) {
      while (text[at] === " ") at += 1;
      let cell = "";
      if (text[at] === '"' && !comment) {
        for (at += 1; at < text.length; at += 1) {
          if (text[at] === "\n") line += 1;
          if (text[at] !== '"') cell += text[at];
          else if (text[at + 1] === '"') cell += text[(at += 1)];
          else break;
        }
        at += 1;
      }
      let to = at;
      while (to < text.length && text[to] !== "\n" && text[to] !== "\r" && (comment || text[to] !== separator)) to += 1;
      cells.push(cell + text.slice(at, to));
      ended = text[to] !== separator || comment;
      at = to + 1;
      if (text[to] === "\r" && text[at] === "\n") at += 1;
    }
    line += 1;
    if (comment || (cells.length === 1 && !cells[0].trim())) continue;
    given += 1;
    yield { line: start, cells };
  }
}
