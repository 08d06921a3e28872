// Shows the network's answer and the signature that gave it; predicts again whenever the sample, task, user or revision changes.

import { infer } from "./api.js";
import { bars, element, percent } from "./charts.js";
import { sizeOf } from "./samples/kinds.js";
import { sketch } from "./samples/sketch.js";
import { attempt, latest } from "./state.js";

const PAUSE_MS = 60; // debounce: from the last movement to the request

/** Show answers in `place`, an element with .verdict, .bars, .whose and .seen. */
export function showAnswers(place, state) {
  const [verdict, list, whose, seen] = [".verdict", ".bars", ".whose", ".seen"].map((name) => place.querySelector(name));
  const once = latest();
  let pause = 0;

  state.on(["sample", "input"], () => {
    if (!state.get("kind")) return;
    const [kind, shape, sample] = ["kind", "shape", "sample"].map((name) => state.get(name));
    const text = sizeOf(kind, shape);
    const size = shape.reduce((a, b) => a * b, 1);
    seen.replaceChildren(sketch(kind, sample ?? new Float32Array(size), shape, text), element("span", {}, text));
  });

  state.on(["sample", "task", "user", "version", "labels"], () => {
    clearTimeout(pause);
    once(async () => {}); // cancels the request in flight: its answer is for an older sample
    list.ariaBusy = "true";
    if (state.get("sample")) {
      pause = setTimeout(() => attempt("answer", () => once(ask)), PAUSE_MS);
    } else {
      attempt("answer", empty);
    }
  });

  function empty() {
    bars(list, state.get("labels"), null);
    list.ariaBusy = "false";
    verdict.textContent = state.get("words").empty;
    whose.textContent = "";
  }

  async function ask(signal, still) {
    const [task, user, sample] = ["task", "user", "sample"].map((name) => state.get(name));
    const network = state.get("exists") ? user : null;
    const found = await infer(task, network, [sample], state.get("shape"), signal);
    if (!still()) return;
    const [{ label, probabilities }] = found.answers;
    const labels = state.get("labels").length === probabilities.length ? state.get("labels") : probabilities.map((_, i) => `class ${i + 1}`);
    bars(list, labels, probabilities);
    verdict.replaceChildren(element("strong", {}, label), ` ${percent(Math.max(...probabilities))}`);
    const { signature, revision, digest } = found.whose;
    const name = signature && revision ? `${signature}’s network, revision ${revision}` : `the base network of ${task}`;
    const note = user && !(signature && revision) ? `; ${user} has none yet` : "";
    whose.replaceChildren(`${name}${note} · `, element("code", { title: digest }, digest.slice(0, 12)));
    list.ariaBusy = "false";
  }
}
