// A table → windows of the network's width, as runtime/samples/recordings reads them: one row per time step, one column per channel, in the
// order of training where the bundle has the names, else all columns but times and row numbers, in the order of the first file that was
// given. Columns `label` and `group` are no channels; where they change, another recording begins, and no window lies across.

import { extent } from "./kinds.js";
import { Names, normal, strip } from "./names.js";
import { lineOf, readTable } from "./table.js";
import { MOST, covered, cut, starts } from "./windows.js";

const NO_CHANNEL =
  /^(|unnamed: \p{Nd}+|index|(milli|micro|nano)?seconds?|(seconds?[ _])?elapsed([ _](time|seconds?|m?s))?|(unix|epoch|utc|local)?[ _]?(date|time|date[ _]?time|time[ _]?stamp)[ _]?[numµ]?(s|sec|seconds)?([ _]?[[(][^\n]*[\])])?)$/iu;
const LABEL_LIKE = ["labels", "class", "classes"]; // as a channel, such a column would give the answer away
const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;
const THOUSANDS = /^[+-]?[1-9]\d{0,2},\d{3}$/;
const COMMA = /^[+-]?\d*,\d+(e[+-]?\d+)?$/i;
const LARGEST = (2 - 2 ** -23) * 2 ** 127; // of float32

/**
 * The windows of a recording.
 *
 * like: {name, names} of a recording that was given before, whose order of channels this one is to have; null if there is none.
 *
 * Returns {samples: [{values, name, label, group, from, to, whole}], more, notes}; `more` is how many there are beyond the first 200. Raises
 * an Error with a line for the reader.
 */
export async function readRecording(file, { shape, reading }, like = null) {
  const table = await readTable(file);
  const [channels, , width] = extent(shape);
  const given = { label: columnOf(table, "label", file.name), group: columnOf(table, "group", file.name) };
  if (columnOf(table, "file", file.name) >= 0) throw new Error(`${file.name} has a column file, so it names other files and is not a recording; give those files`);
  const places = reading.columns ? named(table, reading.columns, file.name) : others(table, given, channels, { file: file.name, like });
  if (places.length !== channels) throw new Error(`the bundle names ${places.length} columns, but the network has ${channels} channels`);
  const said = namesOf(table, given, file.name);
  const numbers = numbersOf(table, places, file.name);
  const names = places.map((place) => normal(table.header[place]));
  const whole = { name: file.name, kind: "recordings", rows: table.rows.length, channels: numbers, names, unit: "rows" };
  const found = runs(said).flatMap(([from, to]) => starts(to - from, width, reading.stride).map((start) => from + start));
  if (found.length === 0) throw new Error(`${file.name} has no recording of at least ${width} rows, the length of a window; it has ${whole.rows} rows`);
  const left = whole.rows - covered(found, width);
  return {
    samples: found.slice(0, MOST).map((from) => ({
      values: cut(numbers, from, width), name: `${file.name}, rows ${from + 1} to ${from + width}`, from, to: from + width, whole, ...said[from],
    })),
    more: Math.max(0, found.length - MOST),
    notes: left ? `${left} of ${whole.rows} rows of ${file.name} left out: too few for a window` : "",
  };
}

/** The place of the column of that name, in capital letters or not; -1 if there is none. */
function columnOf({ header }, name, file) {
  const found = header.flatMap((column, place) => (column.toLowerCase() === name ? [place] : []));
  if (found.length > 1) throw new Error(`${file} has columns ${found.map((place) => header[place]).join(" and ")}, but one named ${name} was expected; rename the others`);
  return found[0] ?? -1;
}

function named({ header }, columns, file) {
  const names = header.map(normal);
  return columns.map((name) => {
    const place = names.indexOf(normal(name));
    if (place < 0) throw new Error(`${file} has no column ${name}, which the network was trained with; it has ${header.join(", ").slice(0, 150)}`);
    return place;
  });
}

function others({ header }, { label, group }, channels, { file, like }) {
  const other = header.find((name) => LABEL_LIKE.includes(name.toLowerCase()));
  if (other !== undefined) throw new Error(`${file} has a column ${other}, which is not a channel; name it label, or remove or rename it`);
  const places = header.flatMap((name, place) => (place === label || place === group || NO_CHANNEL.test(name) ? [] : [place]));
  if (places.length !== channels) {
    throw new Error(`${file} has ${places.length} column${places.length === 1 ? "" : "s"} of numbers, but the network has ${channels} channels: ${header.join(", ").slice(0, 99)}`);
  }
  const names = places.map((place) => normal(header[place]));
  if (!like) return places;
  if (!like.names.every((name) => names.includes(name))) {
    throw new Error(`${file} has the columns ${names.join(", ")}, but ${like.name} has ${like.names.join(", ")}; use the same names for the same channels, or reload this page, which forgets both`);
  }
  return like.names.map((name) => places[names.indexOf(name)]);
}

/** Label and group of every row; null where the table has none. */
function namesOf({ rows, header }, { label, group }, file) {
  const [labels, groups] = [new Names("label"), new Names("group")];
  const at = (names, row, place) => (place < 0 ? null : names.add(row.cells[place], () => `${file}, line ${lineOf(row, place)}, column ${header[place]},`));
  return rows.map((row) => ({ label: at(labels, row, label), group: at(groups, row, group) }));
}

/** The numbers of every column; with decimal commas, where commas do not separate columns. */
function numbersOf({ rows, separator, header }, places, file) {
  const met = { point: null, comma: null, decimal: false }; // where the first are, and whether a comma is none between thousands
  const columns = places.map((place) =>
    Float32Array.from(rows, (row) => {
      const cell = strip(row.cells[place]);
      const comma = separator !== "," && COMMA.test(cell);
      const text = comma ? cell.replace(",", ".") : cell;
      const value = NUMBER.test(text) ? Number(text) : NaN;
      const where = () => `${file}, line ${lineOf(row, place)}, column ${header[place]}, holds ${JSON.stringify(cell.slice(0, 40))}`;
      if (!(Math.abs(value) <= LARGEST)) throw new Error(`${where()}, but a finite number was expected; ${remedyFor(cell, header)}`);
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
    const mixed = "but other numbers have a decimal point; use a decimal point, or a decimal comma, throughout";
    throw new Error(`${met.comma}, ${met.point ? mixed : "which could be thousands; write decimal points"}`);
  }
  return columns;
}

/** What to do about a field that is no number. */
function remedyFor(cell, header) {
  if (!COMMA.test(cell)) return "fill the gap or cut the recording there";
  return `write decimal points, or ${header.length === 1 ? "put a line sep=; before the header" : "separate the columns by semicolons"}`;
}

/** Runs of rows with equal labels and groups, each [from, to). */
function runs(said) {
  const begins = said.flatMap(({ label, group }, i) => (i === 0 || label !== said[i - 1].label || group !== said[i - 1].group ? [i] : []));
  return begins.map((from, i) => [from, begins[i + 1] ?? said.length]);
}
