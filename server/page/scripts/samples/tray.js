// The samples that were given, each with the network's answer; one of them is chosen, and that is what the page asks about, keeps and tours.

import { infer } from "../api.js";
import { element, percent } from "../charts.js";
import { attempt, latest } from "../state.js";
import { sketch } from "./sketch.js";
import { MOST } from "./windows.js";

/** Show the samples in `place`, an element with .about, .samples and .empty (a button). Returns {add, next}. */
export function showTray(place, state) {
  const [about, list, empty] = [".about", ".samples", ".empty"].map((name) => place.querySelector(name));
  const once = latest();

  empty.addEventListener("click", () => clear());
  list.addEventListener("change", (event) => choose(state.get("given")[Number(event.target.value)]));
  state.on(["words"], () => (list.ariaLabel = `${state.get("words").many} that were given`));
  state.on(["input"], () => (about.textContent = ""));
  state.on(["given"], draw);
  state.on(["chosen"], mark);
  state.on(["given", "task", "user", "version"], () => attempt("given", () => once(ask)));

  /** Add samples and choose the first of them; `notes` is said in words, and that `more` were not made. */
  function add(samples, notes = "", more = 0) {
    const all = [...state.get("given"), ...samples];
    const given = all.slice(0, MOST);
    const left = all.length - given.length + more;
    state.set({ given });
    if (given.includes(samples[0])) choose(samples[0]);
    about.textContent = [notes, left ? `${left} more left out: at most ${MOST} are shown` : ""].filter(Boolean).join("; ");
  }

  function clear() {
    about.textContent = "";
    state.set({ given: [], chosen: null, ...(state.get("chosen") ? { sample: null } : {}) });
  }

  function choose(each) {
    state.set({ chosen: each, sample: each.values });
  }

  /** Choose the sample after the chosen one, if there is one. */
  function next() {
    const given = state.get("given");
    const after = given[given.indexOf(state.get("chosen")) + 1];
    if (after) choose(after);
  }

  function draw() {
    const given = state.get("given");
    place.hidden = given.length === 0;
    list.replaceChildren(...given.map(item));
    mark();
  }

  function item(each, i) {
    const radio = element("input", { type: "radio", name: "given", value: String(i) });
    const picture = sketch(state.get("kind"), each.values, state.get("shape"), "");
    picture.ariaHidden = "true"; // its name stands below
    return element("li", {}, element("label", { title: each.name }, radio, picture, element("span", { class: "called" }, each.name), element("b", { class: "said" })));
  }

  function mark() {
    const at = state.get("given").indexOf(state.get("chosen"));
    [...list.children].forEach((row, i) => (row.querySelector("input").checked = i === at));
  }

  async function ask(signal, still) {
    const given = state.get("given");
    if (given.length === 0) return;
    list.ariaBusy = "true";
    const network = state.get("exists") ? state.get("user") : null;
    const { answers } = await infer(state.get("task"), network, given.map((each) => each.values), state.get("shape"), signal);
    if (!still()) return;
    answers.forEach(({ label, probabilities }, i) => {
      list.children[i].querySelector(".said").replaceChildren(label, element("small", {}, ` ${percent(Math.max(...probabilities))}`));
    });
    list.ariaBusy = "false";
  }

  return { add, next };
}
