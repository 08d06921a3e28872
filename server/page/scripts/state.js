// Shared state of the page, with subscriptions to its changes. It is lost when the tab is closed.
//
//   tasks      names of the tasks                    shape, labels   of the task that is asked
//   task       the task that is asked                user            whose network; null for the task's own
//   kind       which kind of samples it takes; null for one that the page makes none of
//   input      kind, shape and reading as a text: another one where the task takes other samples
//   words      the page's words for its samples
//   reading    how samples are read from files
//   strokes    the drawing                           framing         how it is shown to the network
//   fitting    the framing that fits the task's data; another one may be chosen
//   given      samples from files and devices        chosen          one of them; null while it is the drawing that is asked about
//   sample     what is asked about; null for nothing
//   keeps      whether the server has a store for users
//   known      users of this task; null where the server does not tell
//   version    counts up whenever a user's network may be another than before

/** A store of values. `on` calls the listener at once, and whenever one of the named values changes. */
export class State {
  #values;
  #listeners = [];

  constructor(values) {
    this.#values = values;
  }

  get(name) {
    return this.#values[name];
  }

  set(changes) {
    const changed = Object.keys(changes).filter((name) => this.#values[name] !== changes[name]);
    Object.assign(this.#values, changes);
    for (const { names, call } of [...this.#listeners]) {
      if (names.some((name) => changed.includes(name))) call();
    }
  }

  on(names, call) {
    this.#listeners.push({ names, call });
    call();
  }

  /** Returns a function that tells whether the task and the user are still those of now. */
  here() {
    const [task, user] = [this.get("task"), this.get("user")];
    return () => task === this.get("task") && user === this.get("user");
  }

  /** Note that a user's signature may have changed. */
  renew() {
    this.set({ version: this.get("version") + 1 });
  }
}

/** Run one async function at a time: a later call cancels the earlier one, whose result is dropped. Returns a function of an async function. */
export function latest() {
  let running = null;
  return async (work) => {
    running?.abort();
    const mine = (running = new AbortController());
    const still = () => running === mine;
    try {
      await work(mine.signal, still);
    } catch (problem) {
      if (still() && problem.name !== "AbortError") throw problem;
    }
  };
}

const problems = new Map();

function complain(topic, text) {
  problems.delete(topic);
  if (text) problems.set(topic, text);
  const line = document.querySelector("#problem");
  line.textContent = [...problems.values()].at(-1) ?? "";
  line.hidden = problems.size === 0;
}

/**
 * Do something, and show in a line what went wrong, until the same thing goes well.
 *
 * Returns whether it went well. Where the server needs a key, the page is told so.
 */
export async function attempt(topic, work) {
  try {
    await work();
    complain(topic, "");
    return true;
  } catch (problem) {
    if (problem.name === "AbortError") return false;
    complain(topic, problem.message);
    if (problem.status === 401) document.dispatchEvent(new CustomEvent("key-wanted"));
    return false;
  }
}
