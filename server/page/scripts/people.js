// Choice of the network: a task, and one of its users or the base signature.

import { metadata, templates, users } from "./api.js";
import { element } from "./charts.js";
import { framingFor } from "./drawing/paper.js";
import { inputOf, kindOf, wordsFor } from "./samples/kinds.js";
import { attempt } from "./state.js";

const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;

/** Validate a user's name: returns an error message, or an empty text if it is valid. */
export const wrongName = (name) => (NAME.test(name) ? "" : "a name has 1 to 64 letters, digits, dots, dashes or underscores, and begins with a letter or digit");

/** Let tasks and users be chosen in `place`, an element with the selects .task and .user, and the form .other with .name in it. */
export function choosePeople(place, state) {
  const [task, user, other, name, note] = [".task", ".user", ".other", ".name", ".note"].map((each) => place.querySelector(each));

  task.replaceChildren(...state.get("tasks").map((each) => element("option", { value: each }, each)));
  task.addEventListener("change", () => attempt("people", () => changeTask(state, task.value)));
  user.addEventListener("change", () => attempt("people", () => changeUser(state, user.value || null)));
  other.addEventListener("submit", (event) => {
    event.preventDefault();
    attempt("people", async () => {
      const wanted = name.value.trim();
      const wrong = wrongName(wanted);
      if (wrong) throw new Error(wrong);
      await changeUser(state, wanted);
      name.value = "";
    });
  });

  user.parentElement.hidden = other.hidden = !state.get("keeps");

  state.on(["task", "user", "known"], () => {
    task.value = state.get("task");
    const known = state.get("known") ?? [];
    const names = state.get("user") && !known.includes(state.get("user")) ? [...known, state.get("user")] : known;
    user.replaceChildren(element("option", { value: "" }, "nobody: the base"), ...names.map((each) => element("option", { value: each }, each)));
    user.value = state.get("user") ?? "";
    note.textContent = !state.get("keeps") ? "This server has no store, so it has no users." : state.get("known") === null ? "This server does not list its users here; type a name." : "";
  });
}

let changed = Promise.resolve();
const inTurn = (work) => (changed = changed.then(work, work)); // two at a time would mix one's task with the other's user

/** Switch to another task, with the same user. If it takes another input, samples of the former one are put away. */
export const changeTask = (state, task) => inTurn(() => setTask(state, task));

/** Switch to another user; null for the task's base signature. */
export const changeUser = (state, user) => inTurn(() => setUser(state, user));

async function setTask(state, task) {
  const about = await metadata(task);
  const known = state.get("keeps") ? await listed(task) : null;
  const user = state.get("user");
  const exists = user !== null && (known ? known.includes(user) : await isThere(task, user));
  const [kind, input] = [kindOf(about), inputOf(about)];
  const words = wordsFor(kind, about.shape, about.labels);
  const { shape, labels, reading } = about;
  const fitting = framingFor(state.get("tasks"), labels);
  const framing = fitting === state.get("fitting") ? {} : { fitting, framing: fitting };
  const others = input === state.get("input") ? {} : { given: [], chosen: null, sample: null };
  state.set({ task, known, exists, kind, input, words, shape, labels, reading, ...framing, ...others });
}

async function setUser(state, user) {
  const known = state.get("known");
  const exists = user !== null && ((known?.includes(user) ?? false) || (await isThere(state.get("task"), user, known)));
  state.set({ user, exists });
}

/** List the names of a task's users; null if the key may not list them. */
async function listed(task) {
  try {
    const found = await users(task);
    return found.next === null ? found.signatures.map((each) => each.signature) : null;
  } catch (problem) {
    if (problem.status === 403 || problem.status === 404) return null;
    throw problem;
  }
}

/** Whether a user has a signature; false without a request if all users are known and this is not one of them. */
async function isThere(task, user, known = null) {
  if (known !== null && !known.includes(user)) return false;
  try {
    return (await templates(task, user)).revision > 0;
  } catch (problem) {
    if (problem.status === 404) return false;
    throw problem;
  }
}
