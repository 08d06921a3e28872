// A tour of the domains: the drawing in every domain, and the answer of every task's base network to it.
//
// Rows are domains, columns are tasks. For bundles with other tasks there is one row, with the sample as it is, and columns are the tasks
// that take such samples.

import { infer, metadata } from "./api.js";
import { element, percent } from "./charts.js";
import { DOMAINS } from "./drawing/domains.js";
import { EXAMPLES } from "./drawing/examples.js";
import { drawable, inputOf } from "./samples/kinds.js";
import { sketch } from "./samples/sketch.js";
import { attempt, latest } from "./state.js";

const STOPS = [
  ["One drawing, several cameras", "Each row shows your drawing through another camera. The pixels have little in common; the digit is the same.", "rows"],
  ["Several networks of the same templates", "Each column is one task’s network. All are put together from the same few blocks; a signature says which block each layer uses.", "columns"],
  ["At home on the diagonal", "Trained for just that camera, each network should know the digit there.", "diagonal"],
  ["Lost elsewhere", "Off the diagonal the same pixels meet somebody else’s signature. Nothing else is different, and the answer often is.", "others"],
];

const NUMBERS = { 2: "two", 3: "three", 4: "four" }; // of domains

/** Show the tour in `place`, an element with .grid, .stop, .next and .example; examples are drawn on `drawing`. */
export function giveTour(place, state, drawing) {
  const [grid, stop, next, example] = [".grid", ".stop", ".next", ".example"].map((name) => place.querySelector(name));
  const once = latest();
  const names = state.get("tasks");
  const inputs = new Map(); // task → its input as a text, where it is known
  let known = false; // whether every task is a domain
  let at = 0;
  let visible = false; // nobody is asked for what nobody sees
  let stale = false; // whether the sample is another than what is shown

  next.addEventListener("click", () => go((at + 1) % STOPS.length));
  example.addEventListener("click", () => drawing.replace(EXAMPLES[Math.floor(Math.random() * EXAMPLES.length)]));
  state.on(["input", "words"], () => {
    known = drawable(state.get("kind"), state.get("shape")) && names.length > 1 && names.every((name) => name in DOMAINS);
    place.querySelector(".title").textContent = known ? `A tour of the ${NUMBERS[names.length]} domains` : "What every task says";
    next.hidden = !known;
    go(at);
  });
  state.on(["sample", "input", "words"], refresh);
  new IntersectionObserver((entries) => seen(entries.at(-1).isIntersecting), { rootMargin: "200px" }).observe(place);

  function refresh() {
    stale = !visible;
    if (visible) attempt("tour", () => once(show));
  }

  function seen(is) {
    visible = is;
    if (visible && (stale || grid.childElementCount === 0)) refresh();
  }

  function go(to) {
    at = to;
    const [title, text, mark] = STOPS[at];
    grid.dataset.mark = known ? mark : "";
    stop.replaceChildren(...(known ? [element("b", {}, `${at + 1} / ${STOPS.length} · ${title}. `), text] : [`Every task’s own network, asked about the ${state.get("words").one} as it is.`]));
    next.textContent = at + 1 < STOPS.length ? "Next" : "From the start";
  }

  async function show(signal, still) {
    const [kind, sample, shape, words] = ["kind", "sample", "shape", "words"].map((name) => state.get(name));
    if (kind === null) return;
    grid.ariaBusy = "true";
    example.hidden = !words.digits || sample !== null;
    const asked = await alike();
    if (!still()) return;
    const shown = known ? names : ["drawn"];
    const views = shown.map((name) => (sample && known ? DOMAINS[name].render(sample, shape[1], shape[2]) : sample));
    if (sample) await new Promise((resolve) => setTimeout(resolve, 150));
    if (!still()) return;
    const columns = sample ? await Promise.all(asked.map((name) => infer(name, null, views, shape, signal))) : [];
    if (!still()) return;
    const head = element("tr", {}, element("td", {}, element("span", { class: "hidden" }, "what is shown")), ...asked.map((name) => element("th", { scope: "col" }, name)));
    const rows = shown.map((name, r) => {
      const picture = sketch(kind, views[r] ?? new Float32Array(shape.reduce((a, b) => a * b, 1)), shape, known ? `${name}: ${DOMAINS[name].about}` : `the ${words.one}`);
      const cells = asked.map((task, c) => cell(columns[c]?.answers[r], known && name === task));
      return element("tr", {}, element("th", { scope: "row" }, picture, element("span", {}, known ? name : "")), ...cells);
    });
    grid.ariaBusy = "false";
    grid.classList.toggle("named", state.get("labels").some((label) => label.length > 3));
    grid.replaceChildren(element("thead", {}, head), element("tbody", {}, ...rows));
  }

  /** The tasks that take the samples of the one that is asked. */
  async function alike() {
    for (const name of names.filter((each) => !inputs.has(each))) inputs.set(name, inputOf(await metadata(name)));
    return names.filter((name) => inputs.get(name) === state.get("input"));
  }

  function cell(answer, home) {
    if (!answer) return element("td", { class: home ? "home" : null }, "·");
    const sure = Math.max(...answer.probabilities);
    const made = element("td", { class: home ? "home" : null }, element("b", {}, answer.label), element("small", {}, percent(sure)));
    made.style.setProperty("--sure", sure);
    return made;
  }
}
