// Labelled samples: collect them, learn from them, and compare the accuracy before and after.
//
// They are kept in this tab; all are sent to be answered, and those that teach to be learned from. Every second drawing, picture or file of a label can be
// kept back: it is never learned from, so it says what the network makes of samples that it was not taught.

import { cancel, infer, job, lesson, templates } from "./api.js";
import { element, passFocus, scores, share } from "./charts.js";
import { twinOf, withSample } from "./collected.js";
import { changeUser, wrongName } from "./people.js";
import { asKnown } from "./samples/names.js";
import { sketch } from "./samples/sketch.js";
import { attempt } from "./state.js";

const POLL_MS = 250;
const OPEN = ["queued", "running"];

/** Collect and teach samples in `place`; `kept` is called after one was kept, for the next. Returns {keep}, which adds the current sample. */
export function letTeach(place, state, kept) {
  const find = (name) => place.querySelector(name);
  const [label, back, list, count, told, name] = [".label", ".keep-back", ".collected", ".count", ".told", ".name"].map(find);
  const [teach, stop, bar, outcome, results] = [".teach", ".cancel", ".progress", ".outcome", ".results"].map(find);
  const aside = new Map(); // input → samples that were kept for it, of all inputs but this
  let input = state.get("input");
  let collected = [];
  let learning = false; // from the click until the answers are compared
  let running = null; // the job
  let before = null;

  const words = () => state.get("words");
  const tell = (text) => (told.textContent = text);

  state.on(["labels"], () => {
    const selected = label.value;
    label.replaceChildren(...state.get("labels").map((each) => element("option", {}, each)));
    if (state.get("labels").includes(selected)) label.value = selected;
  });
  state.on(["user", "task", "input"], () => {
    name.value = state.get("user") ?? name.value;
    before = null;
    outcome.textContent = "";
    results.replaceChildren();
    aside.set(input, collected);
    input = state.get("input");
    tell("");
    change((aside.get(input) ?? []).map((each) => ({ ...each, said: null })));
  });
  state.on(["sample", "labels"], () => {
    find(".keep").disabled = !state.get("sample");
    const given = state.get("chosen")?.label; // the file's own
    const [named, known] = [given ? asKnown(given, state.get("labels")) : null, state.get("labels")];
    const foreign = named !== null && !known.includes(named);
    if (foreign) label.selectedIndex = -1; // none is selected: a wrong one would be kept unnoticed
    else label.value = named ?? (label.value || known[0]);
    tell(foreign ? `Its file says ${named}, which is not a class of this network.` : "");
  });
  state.on(["given"], () => (find(".keep-all").hidden = state.get("given").length < 2));
  find(".keep").addEventListener("click", () => keep(label.value));
  find(".keep-all").addEventListener("click", keepAll);
  find(".forget").addEventListener("click", () => change([]));
  find("form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (learning) return;
    learning = true;
    attempt("teach", learn).then(() => (learning = false));
  });
  stop.addEventListener("click", () => attempt("stop", () => running && cancel(running.id)));
  place.addEventListener("undone", () => attempt("teach", compareAgain));

  /** Add the current sample with the label `text`. Returns whether that was done. */
  function keep(text) {
    const [sample, chosen] = [state.get("sample"), state.get("chosen")];
    if (!sample) return false;
    const twin = twinOf(collected, sample);
    if (twin) tell(`This ${words().one} is already kept as ${twin.label}; to change that, remove it first.`);
    else if (text === "") tell(`First select what the ${words().one} is.`);
    if (twin || !state.get("labels").includes(text)) return false;
    const origin = chosen ? { group: chosen.group, whole: chosen.whole } : { strokes: JSON.stringify(state.get("strokes")) };
    tell("");
    change(withSample(collected, { sample, label: text, origin }, back.checked));
    kept();
    const least = (each) => collected.filter((other) => other.label === each).length;
    if (chosen === null) label.value = state.get("labels").reduce((a, b) => (least(b) < least(a) ? b : a));
    return true;
  }

  /** Add every sample that was given and is not kept yet, with its file's label where it has one, else with the label that is selected. */
  function keepAll() {
    const known = state.get("labels");
    const foreign = [];
    let [all, twins, unlabelled] = [collected, 0, 0];
    for (const { values, label: given, group, whole } of state.get("given")) {
      const text = given ? asKnown(given, known) : label.value;
      if (twinOf(all, values)) twins += 1;
      else if (text === "") unlabelled += 1;
      else if (!known.includes(text)) foreign.push(text);
      else all = withSample(all, { sample: values, label: text, origin: { group, whole } }, back.checked);
    }
    change(all);
    const left = [
      foreign.length && `${foreign.length} left out, because this network has no class ${few(foreign)}`,
      unlabelled && `${unlabelled} left out: first select what they are`,
      twins && `${twins} already kept`,
    ].filter(Boolean);
    tell(left.length ? `${left.join("; ")}.` : "");
  }

  function change(samples) {
    collected = samples;
    list.replaceChildren(...collected.map(item));
    const checks = collected.filter((each) => each.checks).length;
    const taught = collected.length - checks;
    count.textContent = collected.length === 0 ? `No ${words().many} yet.` : `${taught} to teach${checks ? `, ${checks} kept back` : ""}.`;
    teach.disabled = running !== null || taught === 0;
    find(".forget").disabled = running !== null || collected.length === 0;
  }

  function item(each) {
    const role = each.checks ? "kept back" : "to teach";
    const right = each.said === each.label;
    const said = each.said === null ? "" : right ? " ✓" : ` ✗ ${each.said}`;
    const text = `a ${words().one} of ${each.label}, ${role}${each.said === null ? "" : `, answered ${each.said}`}`;
    const remove = element("button", { type: "button", class: "plain", "aria-label": `Remove ${text}`, onclick: () => change(collected.filter((other) => other !== each)) }, "×");
    const shown = sketch(state.get("kind"), each.sample, state.get("shape"), text);
    const kind = [each.checks ? "checks" : "teaches", each.said === null ? "" : right ? "right" : "wrong"].join(" ");
    return element("li", { class: kind }, shown, element("span", {}, element("b", {}, each.label), said), remove);
  }

  /** The network that answers now, and what is kept for it. */
  const current = () => ({ task: state.get("task"), network: state.get("exists") ? state.get("user") : null, shape: state.get("shape"), kept: collected });

  /** Score a network on every sample. Returns the numbers of right taught and held-out samples, and the network's revision. */
  async function measure({ task, network, shape, kept } = current()) {
    const { whose, answers } = await infer(task, network, kept.map((each) => each.sample), shape);
    const said = new Map(kept.map((each, i) => [each, { ...each, said: answers[i].label }]));
    change(collected.map((each) => said.get(each) ?? each)); // some may be others by now
    const counted = (checks) => {
      const some = [...said.values()].filter((each) => each.checks === checks);
      return { right: some.filter((each) => each.said === each.label).length, of: some.length };
    };
    return { taught: counted(false), checks: counted(true), revision: whose.revision ?? 0 };
  }

  function show(after) {
    const shown = [scores(`the ${words().many} it was taught`, before.taught, after?.taught)];
    if (before.checks.of) shown.push(scores(`${words().many} kept back, never taught`, before.checks, after?.checks));
    results.replaceChildren(...shown);
  }

  async function learn() {
    const user = name.value.trim();
    const wrong = wrongName(user);
    if (wrong) throw new Error(wrong);
    await changeUser(state, user);
    const [asked, here] = [current(), state.here()];
    const start = await prepared(asked, user); // before anything is measured
    const first = await measure(asked);
    if (here()) {
      before = first;
      show(null);
      outcome.textContent = "Learning …";
    }
    try {
      running = await start();
      busy(true);
      while (OPEN.includes(running.state)) {
        await new Promise((resolve) => setTimeout(resolve, POLL_MS));
        running = await job(running.id).catch(orAsBefore(running));
        if (running.steps) Object.assign(bar, { max: running.steps, value: running.step });
      }
    } catch (problem) {
      if (here()) {
        outcome.textContent = "";
        results.replaceChildren();
      }
      throw problem;
    } finally {
      const ended = running;
      running = null;
      busy(false);
      if (ended?.state === "done" && ended.revision) arrived(asked.task, user);
      if (ended && here()) outcome.textContent = sentence(ended, first.revision);
    }
    const after = here() ? await measure() : null;
    if (after && before === first) show(after);
  }

  /** A job that learns, not started yet. Raises an Error with a line for the reader if what is kept cannot be taught. */
  async function prepared({ task, network, shape, kept }, user) {
    const taught = kept.filter((each) => !each.checks);
    const { labels } = await templates(task, network);
    const foreign = kept.filter((each) => !labels.includes(each.label)).map((each) => each.label);
    if (foreign.length) throw new Error(`${foreign.length} of ${kept.length} ${words().many} are kept as ${few(foreign)}, which ${user}’s network has no class for; remove them first`);
    return lesson(task, user, taught.map((each) => each.sample), taught.map((each) => each.label), shape);
  }

  function arrived(task, user) {
    if (task !== state.get("task")) return;
    const known = state.get("known");
    state.set({ exists: state.get("exists") || user === state.get("user"), known: known === null || known.includes(user) ? known : [...known, user].sort() });
    state.renew();
  }

  function busy(is) {
    bar.hidden = !is;
    bar.removeAttribute("value");
    stop.hidden = false;
    if (is) passFocus(teach, stop);
    change(collected); // disables or enables `teach`
    if (!is) passFocus(stop, teach);
    stop.hidden = !is;
  }

  async function compareAgain() {
    if (collected.length === 0) return;
    const here = state.here();
    const now = await measure();
    if (!here()) return;
    if (before) show(now);
    outcome.textContent = `Undone: ${share(now.taught)} of the taught ${words().many} are right.`;
  }

  return { keep };
}

/** Names in a list, the first three of them. */
function few(names) {
  const found = [...new Set(names)];
  return `${found.slice(0, 3).join(", ")}${found.length > 3 ? ", …" : ""}`;
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
