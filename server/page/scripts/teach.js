// Labelled drawings: collect them, learn from them, and compare the accuracy before and after.
//
// The drawings are in this tab alone; those that teach are sent for the time of learning. Every second drawing of a label can be kept
// back: it is never sent to learn from, so it says what the network makes of drawings that it was not taught.

import { cancel, infer, job, personalize } from "./api.js";
import { element, scores, share, thumbnail } from "./charts.js";
import { changeUser, wrongName } from "./people.js";
import { attempt } from "./state.js";

const POLL_MS = 250;
const OPEN = ["queued", "running"];

/** Collect and teach drawings in `place`; `drawing` is the canvas they are drawn on. Returns {keep}, which adds the current drawing. */
export function letTeach(place, state, drawing) {
  const find = (name) => place.querySelector(name);
  const [label, back, list, count, name] = [".label", ".keep-back", ".collected", ".count", ".name"].map(find);
  const [teach, stop, bar, outcome, results] = [".teach", ".cancel", ".progress", ".outcome", ".results"].map(find);
  let collected = [];
  let running = null; // the job
  let before = null;

  state.on(["labels"], () => label.replaceChildren(...state.get("labels").map((each) => element("option", {}, each))));
  state.on(["user", "task"], () => {
    name.value = state.get("user") ?? name.value;
    before = null;
    outcome.textContent = "";
    results.replaceChildren();
    change(collected.map((each) => ({ ...each, said: null })));
  });
  state.on(["pixels"], () => (find(".keep").disabled = !state.get("pixels")));
  find(".keep").addEventListener("click", () => keep(label.value));
  find(".forget").addEventListener("click", () => change([]));
  find("form").addEventListener("submit", (event) => {
    event.preventDefault();
    attempt("teach", learn);
  });
  stop.addEventListener("click", () => attempt("stop", () => running && cancel(running.id)));
  place.addEventListener("undone", () => attempt("teach", compareAgain));

  /** Add the current drawing with the label `text`. Returns whether there was one. */
  function keep(text) {
    const pixels = state.get("pixels");
    if (!pixels || !state.get("labels").includes(text)) return false;
    const same = collected.filter((each) => each.label === text).length;
    change([...collected, { label: text, pixels, checks: back.checked && same % 2 === 1, said: null }]);
    drawing.clear();
    const least = (each) => collected.filter((other) => other.label === each).length;
    const labels = state.get("labels");
    label.value = labels.reduce((a, b) => (least(b) < least(a) ? b : a));
    return true;
  }

  function change(drawings) {
    collected = drawings;
    list.replaceChildren(...collected.map(item));
    const checks = collected.filter((each) => each.checks).length;
    const taught = collected.length - checks;
    count.textContent = collected.length === 0 ? "No drawings yet." : `${taught} to teach${checks ? `, ${checks} kept back` : ""}.`;
    teach.disabled = running !== null || taught === 0;
    find(".forget").disabled = running !== null || collected.length === 0;
  }

  function item(each) {
    const role = each.checks ? "kept back" : "to teach";
    const right = each.said === each.label;
    const said = each.said === null ? "" : right ? " ✓" : ` ✗ ${each.said}`;
    const words = `a drawing of ${each.label}, ${role}${each.said === null ? "" : `, answered ${each.said}`}`;
    const remove = element("button", { type: "button", class: "plain", "aria-label": `Remove ${words}`, onclick: () => change(collected.filter((other) => other !== each)) }, "×");
    const shown = thumbnail(each.pixels, state.get("shape").slice(1), words);
    const kind = [each.checks ? "checks" : "teaches", each.said === null ? "" : right ? "right" : "wrong"].join(" ");
    return element("li", { class: kind }, shown, element("span", {}, element("b", {}, each.label), said), remove);
  }

  /** Score the current network on every drawing. Returns the numbers of right taught and held-out drawings, and the network's revision. */
  async function measure() {
    const network = state.get("exists") ? state.get("user") : null;
    const { whose, answers } = await infer(state.get("task"), network, collected.map((each) => each.pixels), state.get("shape"));
    change(collected.map((each, i) => ({ ...each, said: answers[i].label })));
    const counted = (some) => ({ right: some.filter((each) => each.said === each.label).length, of: some.length });
    const [taught, checks] = [counted(collected.filter((each) => !each.checks)), counted(collected.filter((each) => each.checks))];
    return { taught, checks, revision: whose.revision ?? 0 };
  }

  function show(after) {
    const shown = [scores("the drawings it was taught", before.taught, after?.taught)];
    if (before.checks.of) shown.push(scores("drawings kept back, never taught", before.checks, after?.checks));
    results.replaceChildren(...shown);
  }

  async function learn() {
    const user = name.value.trim();
    const wrong = wrongName(user);
    if (wrong) throw new Error(wrong);
    await changeUser(state, user);
    before = await measure();
    show(null);
    outcome.textContent = "Learning …";
    const taught = collected.filter((each) => !each.checks);
    const task = state.get("task");
    try {
      running = await personalize(task, user, taught.map((each) => each.pixels), taught.map((each) => each.label), state.get("shape"));
      busy(true);
      while (OPEN.includes(running.state)) {
        await new Promise((resolve) => setTimeout(resolve, POLL_MS));
        running = await job(running.id).catch(orAsBefore(running));
        if (running.steps) Object.assign(bar, { max: running.steps, value: running.step });
      }
    } catch (problem) {
      outcome.textContent = "";
      results.replaceChildren();
      throw problem;
    } finally {
      const ended = running;
      running = null;
      busy(false);
      if (ended?.state === "done" && ended.revision) arrived(task, user);
      if (ended) outcome.textContent = sentence(ended, before.revision);
    }
    if (state.get("user") === user && state.get("task") === task) show(await measure());
  }

  function arrived(task, user) {
    if (task !== state.get("task") || user !== state.get("user")) return;
    const known = state.get("known");
    state.set({ exists: true, known: known === null || known.includes(user) ? known : [...known, user].sort() });
    state.renew();
  }

  function busy(is) {
    bar.hidden = stop.hidden = !is;
    bar.removeAttribute("value");
    change(collected);
  }

  async function compareAgain() {
    if (collected.length === 0) return;
    const now = await measure();
    if (before) show(now);
    outcome.textContent = `Undone: ${share(now.taught)} of the taught drawings are right.`;
  }

  return { keep };
}

/** On a temporary error, keep the last known state of a job. */
const orAsBefore = (running) => (problem) => {
  if ([0, 429, 503].includes(problem.status)) return running;
  throw problem;
};

/** Describe the result of a job that started from revision `start`. */
function sentence({ state, revision, message }, start) {
  if (state === "cancelled") return "Stopped; nothing was changed.";
  if (state !== "done") return `Not learned: ${message}`;
  return revision !== start ? `Revision ${revision}: ${message}.` : `Nothing was changed: ${message}.`;
}
