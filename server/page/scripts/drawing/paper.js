// The paper: what is drawn on it is the sample, until something else is given or chosen.

import { element } from "../charts.js";
import { drawable } from "../samples/kinds.js";
import { DOMAINS } from "./domains.js";
import { EXAMPLES } from "./examples.js";
import { FRAMINGS, frame } from "./framing.js";
import { Drawing } from "./strokes.js";

/** Default framing of drawings: the most likely format of the training data. */
export function framingFor(tasks, labels) {
  if (tasks.every((name) => name in DOMAINS)) return "digits";
  return labels.join() === "0,1,2,3,4,5,6,7,8,9" ? "mnist" : "drawn";
}

/** Let drawings be made in `place`, which has #paper, its buttons and #framing. Returns {drawing, say}. */
export function startDrawing(place, state) {
  const find = (name) => place.querySelector(name);
  const say = (text) => (find("#said").textContent = text);
  const drawing = new Drawing(find("#paper"), { changed: (strokes) => state.set({ strokes }), say });
  const framing = find("#framing");
  framing.replaceChildren(...Object.entries(FRAMINGS).map(([name, text]) => element("option", { value: name }, text)));
  framing.addEventListener("change", () => state.set({ framing: framing.value }));
  find("#clear").addEventListener("click", () => drawing.clear());
  find("#back").addEventListener("click", () => drawing.takeBack());
  let example = 2;
  find("#example").addEventListener("click", () => {
    example = (example + 1) % EXAMPLES.length;
    drawing.replace(EXAMPLES[example]);
    say(`an example of ${example}`);
  });

  state.on(["framing"], () => (framing.value = state.get("framing")));
  state.on(["strokes", "framing", "input"], () => {
    const strokes = state.get("strokes");
    if (!drawable(state.get("kind"), state.get("shape")) || (strokes.length === 0 && state.get("chosen"))) return;
    state.set({ chosen: null, sample: frame(strokes, state.get("shape").slice(1), state.get("framing")) });
  });
  state.on(["chosen"], () => state.get("chosen") && drawing.clear());
  return { drawing, say };
}
