// Labelled samples: collect them, learn from them, and compare the accuracy before and after.
//
// They are in this tab alone; those that teach are sent for the time of learning. Every second sample of a label can be kept
// back: it is never sent to learn from, so it says what the network makes of samples that it was not taught.

import { cancel, infer, job, personalize } from "./api.js";
import { element, scores, share } from "./charts.js";
import { changeUser, wrongName } from "./people.js";
import { sketch } from "./samples/sketch.js";
import { attempt } from "./state.js";

const POLL_MS = 250;
const OPEN = ["queued", "running"];

/** Collect and teach samples in `place`; `kept` is called after one was kept, for the next. Returns {keep}, which adds the current sample. */
export function letTeach(place, state, words, kept) {
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
  state.on(["sample"], () => {
    find(".keep").disabled = !state.get("sample");
    const named = state.get("chosen")?.label; // the file's own
    if (state.get("labels").includes(named)) label.value = named;
  });
  state.on(["given"], () => (find(".keep-all").hidden = state.get("given").length < 2));
  find(".keep").addEventListener("click", () => keep(label.value));
  find(".keep-all").addEventListener("click", keepAll);
  find(".forget").addEventListener("click", () => change([]));
  find("form").addEventListener("submit", (event) => {
    event.preventDefault();
    attempt("teach", learn);
  });
  stop.addEventListener("click", () => attempt("stop", () => running && cancel(running.id)));
  place.addEventListener("undone", () => attempt("teach", compareAgain));

  /** Add the current sample with the label `text`. Returns whether there was one. */
  function keep(text) {
    const sample = state.get("sample");
    if (!sample || !state.get("labels").includes(text)) return false;
    const drawn = state.get("chosen") === null;
    collect(sample, text);
    change(collected);
    kept();
    const least = (each) => collected.filter((other) => other.label === each).length;
    if (drawn) label.value = state.get("labels").reduce((a, b) => (least(b) < least(a) ? b : a));
    return true;
  }

  /** Add every sample that was given and is not kept yet, with its file's label where it has one, else with the label that is selected. */
  function keepAll() {
    const known = state.get("labels");
    for (const { values, label: named } of state.get("given")) {
      if (!collected.some((each) => each.sample === values)) collect(values, known.includes(named) ? named : label.value);
    }
    change(collected);
  }

  function collect(sample, text) {
    const same = collected.filter((each) => each.label === text).length;
    collected = [...collected, { label: text, sample, checks: back.checked && same % 2 === 1, said: null }];
  }

  function change(samples) {
    collected = samples;
    list.replaceChildren(...collected.map(item));
    const checks = collected.filter((each) => each.checks).length;
    const taught = collected.length - checks;
    count.textContent = collected.length === 0 ? `No ${words.many} yet.` : `${taught} to teach${checks ? `, ${checks} kept back` : ""}.`;
    teach.disabled = running !== null || taught === 0;
    find(".forget").disabled = running !== null || collected.length === 0;
  }

  function item(each) {
    const role = each.checks ? "kept back" : "to teach";
    const right = each.said === each.label;
    const said = each.said === null ? "" : right ? " ✓" : ` ✗ ${each.said}`;
    const text = `a ${words.one} of ${each.label}, ${role}${each.said === null ? "" : `, answered ${each.said}`}`;
    const remove = element("button", { type: "button", class: "plain", "aria-label": `Remove ${text}`, onclick: () => change(collected.filter((other) => other !== each)) }, "×");
    const shown = sketch(state.get("kind"), each.sample, state.get("shape"), text);
    const kind = [each.checks ? "checks" : "teaches", each.said === null ? "" : right ? "right" : "wrong"].join(" ");
    return element("li", { class: kind }, shown, element("span", {}, element("b", {}, each.label), said), remove);
  }

  /** Score the current network on every sample. Returns the numbers of right taught and held-out samples, and the network's revision. */
  async function measure() {
    const network = state.get("exists") ? state.get("user") : null;
    const { whose, answers } = await infer(state.get("task"), network, collected.map((each) => each.sample), state.get("shape"));
    change(collected.map((each, i) => ({ ...each, said: answers[i].label })));
    const counted = (some) => ({ right: some.filter((each) => each.said === each.label).length, of: some.length });
    const [taught, checks] = [counted(collected.filter((each) => !each.checks)), counted(collected.filter((each) => each.checks))];
    return { taught, checks, revision: whose.revision ?? 0 };
  }

  function show(after) {
    const shown = [scores(`the ${words.many} it was taught`, before.taught, after?.taught)];
    if (before.checks.of) shown.push(scores(`${words.many} kept back, never taught`, before.checks, after?.checks));
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
      running = await personalize(task, user, taught.map((each) => each.sample), taught.map((each) => each.label), state.get("shape"));
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
    outcome.textContent = `Undone: ${share(now.taught)} of the taught ${words.many} are right.`;
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
