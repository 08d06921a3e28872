// A CSV or TSV file → header and rows, as runtime/samples/tables.py reads it: columns are separated by commas, semicolons, tabs or bars,
// whichever splits the first rows into equally many; blank lines, comments (#) and a first line "sep=;" are skipped. If the first row has
// numbers only, the comment before it is the header, as numpy.savetxt writes it.

import { bytesOf, textOf } from "./bytes.js";
import { linesOf, recordsOf } from "./csv.js";
import { normal, split, strip } from "./names.js";

const SEPARATORS = [",", ";", "\t", "|"];
const PROBED = 50; // rows that the separator is found by
const LONG = 1 << 16; // characters of a line that are looked at for it
const NUMBER = /^[+-]?((\d+(_\d+)*(\.(\d+(_\d+)*)?)?|\.\d+(_\d+)*)(e[+-]?\d+(_\d+)*)?|inf(inity)?|nan)$/i;
const SAVETXT = "numpy.savetxt(path, x, delimiter=',', header='x,y', comments='')";

/** Whether a field holds what Python takes for a number, perhaps with a decimal comma. */
const isNumber = (text) => NUMBER.test(strip(text).replaceAll(",", "."));
const isComment = (line) => /^ *#/.test(line);
const isBlank = (cells) => cells.every((cell) => !strip(cell));

/** The separator that a spreadsheet's first line "sep=;" names; undefined for any other line. */
const namedBy = (line) => /^\ufeff?"?sep=(.)"?$/u.exec(line.replace(/[\r\n]+$/, ""))?.[1];

/** Read a file: {header: [names], rows: [{line, cells}], separator}. Raises an Error with a line for the reader. */
export async function readTable(file) {
  const text = textOf(await bytesOf(file), file.name);
  const separator = separatorOf(text, file.name);
  try {
    return { separator, ...contentOf(text, separator, file.name) };
  } catch (problem) {
    throw problem.line ? new Error(`${file.name}, line ${problem.line}, is not a CSV file: ${problem.message}`) : problem;
  }
}

/** The line of a field, which comes later than its row's where fields before it hold line ends. */
export const lineOf = ({ line, cells }, place) => line + cells.slice(0, place).reduce((sum, cell) => sum + (cell.match(/\r\n|\r|\n/g)?.length ?? 0), 0);

function contentOf(text, separator, name) {
  let [header, comment, empty] = [null, "", 0];
  const rows = [];
  const skip = (line) => {
    if (isComment(line)) comment = strip(strip(line.slice(0, LONG)).slice(1));
    return isComment(line);
  };
  for (const record of recordsOf(linesOf(text), separator, { strict: true, skip })) {
    const { line, cells } = record;
    if (cells.length === 1 && isBlank(cells)) continue;
    if (!header) {
      if (cells[0].startsWith("#") || namedBy(cells.join(separator))) continue; // in quotes
      const first = cells.map((cell) => strip(strip(cell).replace(/^\ufeff+|\ufeff+$/g, ""))); // some files have two byte order marks
      const commented = first.every(isNumber) ? namesIn(comment, separator, first.length) : null;
      header = commented ?? first;
      checkHeader(header, name);
      if (!commented) continue;
    }
    if (cells.length !== header.length) {
      const decimal = header.length === 1 ? "; for decimal commas, put a line sep=; before the header" : "";
      throw new Error(`${name}, line ${line}, has ${cells.length} field${cells.length === 1 ? "" : "s"}, but the header has ${header.length}${decimal}`);
    }
    if (isBlank(cells)) {
      empty ||= line; // spreadsheets add such rows at the end, where they are harmless
    } else if (empty) {
      throw new Error(`${name}, line ${empty}, is a row of empty fields between others; fill or remove it`);
    } else {
      rows.push(record);
    }
  }
  if (!header) throw new Error(`${name} is empty, but a header and at least one row were expected`);
  if (rows.length === 0) throw new Error(`${name} has a header, but no rows`);
  return { header, rows };
}

/** The names of `count` columns in a comment; null if it holds something else. */
function namesIn(comment, separator, count) {
  const [record] = recordsOf([[1, comment]], separator);
  const names = record.cells.map(strip);
  return names.length === count && names.every((name) => name && !isNumber(name)) ? names : null;
}

function checkHeader(header, file) {
  const numbers = header.filter(isNumber);
  const names = header.filter((name) => name);
  // pandas names unnamed columns 0, 1, …, after an empty name for the index or next to named columns
  const counted = numbers.every((name, i) => name === String(i)) && (header.includes("") || names.length > numbers.length);
  if (numbers.length && !counted) {
    throw new Error(`${file} has no header: its first line holds ${header.join(", ").slice(0, 60)}; add a line with the names of the columns, as ${SAVETXT} does`);
  }
  const met = new Map();
  for (const name of names) {
    const other = met.get(normal(name));
    const differ = other === name ? "" : ", which differ only in spaces or the encoding of accents";
    if (other !== undefined) throw new Error(`${file} has two columns named ${name}${differ}; give them different names`);
    met.set(normal(name), name);
  }
}

function separatorOf(text, name) {
  const lines = [];
  for (const [number, whole] of linesOf(text)) {
    if (number > 4 * PROBED) break; // more lines than rows, because fields in quotes may hold line ends
    const line = whole.slice(0, LONG);
    if (strip(line) && !isComment(line)) lines.push([number, line]);
  }
  const named = lines.length ? namedBy(lines[0][1]) : undefined;
  if (named) return named;
  const found = SEPARATORS.map((separator) => ({ separator, widths: widthsOf(lines, separator) })).filter(({ widths }) => widths);
  if (found.every(({ widths }) => widths[0] === 1) && isSpaced(lines.slice(0, PROBED))) {
    throw new Error(`${name} has columns separated by spaces; use commas or tabs, as ${SAVETXT} does, and in R write.csv(x, path)`);
  }
  const fitting = found.filter(({ widths }) => widths[0] > 1 && widths.every((width) => width === widths[0]));
  if (/\.tsv$/i.test(name) && (fitting.length === 0 || fitting.some(({ separator }) => separator === "\t"))) return "\t";
  if (fitting.length > 1) {
    const several = fitting.map(({ separator }) => JSON.stringify(separator)).join(" or ");
    throw new Error(`the columns of ${name} could be separated by ${several}; use only one of them`);
  }
  // none fits: the one that splits the header most, so that reading names the first row that differs
  const most = found.reduce((best, each) => ((each.widths[0] ?? 0) > (best?.widths[0] ?? -1) ? each : best), null);
  return fitting[0]?.separator ?? most?.separator ?? ",";
}

/** Numbers of fields of the first rows; null if a field is too long. */
function widthsOf(lines, separator) {
  const widths = [];
  try {
    for (const { cells } of recordsOf(lines, separator)) if (widths.push(cells.length) === PROBED) break;
  } catch {
    return null;
  }
  return widths;
}

/** Whether columns are separated by spaces, as by numpy.savetxt and R's write.table, whose header has no name for the row numbers. */
function isSpaced(lines) {
  const [first, ...others] = [...recordsOf(lines.map(([number, line]) => [number, split(line).join(" ")]), " ", { spaces: true })].map(({ cells }) => cells);
  if (!first) return false;
  const fitting = others.every((row) => [0, 1].includes(row.length - first.length)) && Math.max(first.length, ...others.map((row) => row.length)) > 1;
  return fitting && ((first.length > 1 && others.length > 0) || (others.length ? others : [first]).flat().every(isNumber));
}
