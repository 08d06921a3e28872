// Shows the network's answer and the signature that gave it; predicts again whenever the drawing, task, user or revision changes.

import { infer } from "./api.js";
import { bars, element, percent, thumbnail } from "./charts.js";
import { frame } from "./framing.js";
import { attempt, latest } from "./state.js";

const PAUSE_MS = 60; // debounce: from the last movement to the request

/** Show answers in `place`, an element with .verdict, .bars, .whose and .seen. */
export function showAnswers(place, state) {
  const [verdict, list, whose, seen] = [".verdict", ".bars", ".whose", ".seen"].map((name) => place.querySelector(name));
  const once = latest();
  let pause = 0;

  state.on(["strokes", "framing", "shape"], () => {
    const pixels = frame(state.get("strokes"), state.get("shape").slice(1), state.get("framing"));
    state.set({ pixels });
    const [, height, width] = state.get("shape");
    const text = `${height} × ${width} pixels, as the network gets them`;
    seen.replaceChildren(thumbnail(pixels ?? new Float32Array(height * width), [height, width], text), element("span", {}, text));
  });

  state.on(["pixels", "task", "user", "version"], () => {
    clearTimeout(pause);
    once(async () => {}); // cancels the request in flight: its answer is for an older drawing
    list.ariaBusy = "true";
    if (state.get("pixels")) {
      pause = setTimeout(() => attempt("answer", () => once(ask)), PAUSE_MS);
    } else {
      attempt("answer", () => once(async () => empty()));
    }
  });

  function empty() {
    bars(list, state.get("labels"), null);
    list.ariaBusy = "false";
    verdict.textContent = "Draw a digit";
    whose.textContent = "";
  }

  async function ask(signal, still) {
    const [task, user, pixels] = ["task", "user", "pixels"].map((name) => state.get(name));
    const network = state.get("exists") ? user : null;
    const found = await infer(task, network, [pixels], state.get("shape"), signal);
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
