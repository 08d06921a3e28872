// Names of labels, groups and columns, as runtime/samples/names.py compares them: in Unicode's composed form, without spaces or invisible
// characters at either end, one space for several.

const LONGEST = 256; // characters
const SPACE = "\\t-\\r\\x1c- \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000"; // Python's; trim() has others
const INVISIBLE = "\\ufeff\\u200b\\u200e\\u200f\\u2060";
const SPACES = new RegExp(`[${SPACE}]+`, "g");
const ENDS = new RegExp(`^[${SPACE}]+|[${SPACE}]+$`, "g");
const EDGES = new RegExp(`^[${SPACE}${INVISIBLE}]+|[${SPACE}${INVISIBLE}]+$`, "g");
const MISSING = ["nan", "NaN", "<NA>", "NA"]; // how numpy, pandas and R write a missing value

/** A text without the spaces at its ends, as Python's str.strip. */
export const strip = (text) => text.replace(ENDS, "");

/** The parts of a text between its spaces, as Python's str.split. */
export const split = (text) => text.split(SPACES).filter((part) => part !== "");

/** The form of a name in which names are compared. */
export const normal = (name) => split(name.replace(EDGES, "").normalize("NFC")).join(" ");

/** A label in the spelling of the one class that it matches; unchanged if it matches none, or more than one. */
export function asKnown(label, classes) {
  const found = classes.includes(label) ? [] : classes.filter((name) => normal(name) === normal(label));
  return found.length === 1 ? found[0] : label;
}

/** Labels, or groups, of one file. */
export class Names {
  #what;
  #spelt = new Map(); // normal form → [spelling, where]
  #known = new Map(); // spelling → normal form

  /** what: "label" or "group", for messages. */
  constructor(what) {
    this.#what = what;
  }

  /** The normal form of a name found at `where()`. Raises an Error if it is empty, missing or too long, or was spelt otherwise before. */
  add(name, where) {
    if (this.#known.has(name)) return this.#known.get(name);
    const found = normal(name);
    if (MISSING.includes(found)) {
      const renamed = this.#what === "label" ? "class" : this.#what;
      throw new Error(`${where()} has the ${this.#what} ${found}, which means a missing value; fill it in, or rename the ${renamed}`);
    }
    if (found === "" || [...found].length > LONGEST) {
      throw new Error(`${where()} has the ${this.#what} ${JSON.stringify(name.slice(0, 40))}, but 1 to ${LONGEST} characters were expected; rename it`);
    }
    const [spelling, place] = this.#spelt.get(found) ?? [name, where()];
    if (spelling !== name) {
      const both = `${JSON.stringify(spelling)} of ${place} and ${JSON.stringify(name)} of ${where()}`;
      throw new Error(`the ${this.#what}s ${both} differ only in spaces, accents or invisible characters; rename one`);
    }
    this.#spelt.set(found, [name, place]);
    this.#known.set(name, found);
    return found;
  }
}
