// A table → windows of the network's width, as runtime/samples/recordings reads them: one row per time step, one column per channel, in the
// order of training where the bundle has the names, else all columns but times and row numbers. Columns `label` and `group` are no channels;
// where they change, another recording begins, and no window lies across.

import { extent } from "./kinds.js";
import { readTable } from "./table.js";
import { MOST, covered, cut, starts } from "./windows.js";

const NO_CHANNEL =
  /^(|unnamed: \d+|index|(seconds?[ _])?elapsed([ _](time|seconds?|m?s))?|(unix|epoch|utc|local)?[ _]?(date|time|date[ _]?time|time[ _]?stamp)[ _]?[numµ]?(s|sec|seconds)?([ _]?[[(].*[\])])?)$/i;
const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;
const THOUSANDS = /^[+-]?[1-9]\d{0,2},\d{3}$/;
const COMMA = /^[+-]?\d*,\d+(e[+-]?\d+)?$/i;

/**
 * The windows of a recording.
 *
 * Returns {samples: [{values, name, label, from, to, whole}], more, notes}; `more` is how many there are beyond the first 200. Raises an Error with a line for the reader.
 */
export async function readRecording(file, { shape, reading }) {
  const table = await readTable(file);
  const [channels, , width] = extent(shape);
  const [label, group] = ["label", "group"].map((name) => table.header.findIndex((column) => column.toLowerCase() === name));
  const places = reading.columns ? named(table, reading.columns, file.name) : others(table, [label, group], channels, file.name);
  if (places.length !== channels) throw new Error(`the bundle names ${places.length} columns, but the network has ${channels} channels`);
  const numbers = numbersOf(table, places, file.name);
  const whole = { name: file.name, kind: "recordings", rows: table.rows.length, channels: numbers, names: places.map((place) => table.header[place]), unit: "rows" };
  const found = runs(table.rows, [label, group]).flatMap(([from, to]) => starts(to - from, width, reading.stride).map((start) => from + start));
  if (found.length === 0) throw new Error(`${file.name} has no recording of at least ${width} rows, which is a window; it has ${whole.rows} rows`);
  const left = whole.rows - covered(found, width);
  return {
    samples: found.slice(0, MOST).map((from) => ({
      values: cut(numbers, from, width), name: `${file.name}, rows ${from + 1} to ${from + width}`, from, to: from + width, whole,
      label: label < 0 ? null : table.rows[from].cells[label].trim(),
    })),
    more: Math.max(0, found.length - MOST),
    notes: left ? `${left} rows of ${file.name} fill no window` : "",
  };
}

function named(table, columns, file) {
  return columns.map((name) => {
    const place = table.header.indexOf(name.normalize("NFC"));
    if (place < 0) throw new Error(`${file} has no column ${name}, which the network was trained with; it has ${table.header.join(", ").slice(0, 150)}`);
    return place;
  });
}

function others(table, left, channels, file) {
  const places = table.header.flatMap((name, i) => (left.includes(i) || NO_CHANNEL.test(name) ? [] : [i]));
  if (places.length !== channels) {
    throw new Error(`${file} has ${places.length} columns of numbers, but the network has ${channels} channels: ${table.header.join(", ").slice(0, 99)}`);
  }
  return places;
}

/** The numbers of every column; with decimal commas, where commas do not separate columns. */
function numbersOf({ rows, separator, header }, places, file) {
  const met = { point: null, comma: null, decimal: false }; // where the first are, and whether a comma is none between thousands
  const columns = places.map((place) =>
    Float32Array.from(rows, ({ line, cells }) => {
      const cell = cells[place].trim();
      const comma = separator !== "," && COMMA.test(cell);
      const text = comma ? cell.replace(",", ".") : cell;
      const value = NUMBER.test(text) ? Math.fround(Number(text)) : NaN;
      const where = () => `${file}, line ${line}, column ${header[place]}, holds ${JSON.stringify(cell.slice(0, 40))}`;
      if (!Number.isFinite(value)) throw new Error(`${where()}, but a finite number was expected`);
      if (comma) {
        met.comma ??= where();
        met.decimal ||= !THOUSANDS.test(cell);
      } else if (cell.includes(".")) {
        met.point ??= where();
      }
      return value;
    }),
  );
  if (met.comma && (met.point || !met.decimal)) {
    throw new Error(met.point ? `${met.comma}, but a point stands elsewhere; use a decimal point, or a decimal comma, throughout` : `${met.comma}, which could be thousands; write decimal points`);
  }
  return columns;
}

/** Runs of rows with equal labels and groups, each [from, to). */
function runs(rows, places) {
  const keys = rows.map(({ cells }) => JSON.stringify(places.map((place) => cells[place]?.trim())));
  const begins = keys.flatMap((key, i) => (i === 0 || key !== keys[i - 1] ? [i] : []));
  return begins.map((from, i) => [from, begins[i + 1] ?? rows.length]);
}
