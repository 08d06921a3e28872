// Connects the parts of the page: reads the bundle's metadata, asks for a key if the server needs one, then starts every part on one state.

import { showAnswers } from "./answer.js";
import { hasKey, keepKey, keepsUsers, metadata, tasks } from "./api.js";
import { element } from "./charts.js";
import { DOMAINS } from "./domains.js";
import { EXAMPLES } from "./examples.js";
import { FRAMINGS } from "./framing.js";
import { showLayers } from "./layers.js";
import { changeTask, choosePeople } from "./people.js";
import { showRevisions } from "./revisions.js";
import { State, attempt } from "./state.js";
import { Drawing } from "./strokes.js";
import { letTeach } from "./teach.js";
import { giveTour } from "./tour.js";

const at = (name) => document.querySelector(name);
let state = null; // once it has begun

document.addEventListener("key-wanted", () => {
  at("#gate").hidden = false;
  at("#gate input").focus();
});

at("#gate").addEventListener("submit", (event) => {
  event.preventDefault();
  keepKey(at("#gate input").value.trim());
  at("#gate input").value = "";
  attempt("start", start);
});

at("#leave").addEventListener("click", () => {
  keepKey("");
  location.reload();
});

async function start() {
  const names = await tasks();
  at("#gate").hidden = true;
  at("#leave").hidden = !hasKey();
  if (state) return state.renew();
  if (names.length === 0) throw new Error("this server has no task that answers");
  const about = await metadata(names[0]);
  const keeps = await keepsUsers();
  const known = names.every((name) => name in DOMAINS);
  const begun = new State({ tasks: names, task: names[0], keeps, user: null, exists: false, known: null, version: 0, strokes: [], pixels: null, framing: framingFor(known, about.labels), ...about });
  await changeTask(begun, names[0]);
  state = begun;
  at("main").hidden = false;
  choosePeople(at("#people"), state);
  showLayers(at("#layers"), state);
  const drawable = about.shape[0] === 1;
  at("#undrawable").hidden = drawable;
  at("#undrawable b").textContent = about.shape.join(" × ");
  for (const part of ["#draw", "#teach", "#tour"]) at(part).hidden = !drawable;
  if (!keeps) at("#teach").hidden = true; // without a store, nothing learned could be kept
  if (drawable) startDrawing();
  document.body.dataset.ready = "";
}

/** Default framing of drawings: the most likely format of the training data. */
function framingFor(known, labels) {
  if (known) return "digits";
  return labels.join() === "0,1,2,3,4,5,6,7,8,9" ? "mnist" : "drawn";
}

function startDrawing() {
  const drawing = new Drawing(at("#paper"), { changed: (strokes) => state.set({ strokes }), say: (text) => (at("#said").textContent = text) });
  const framing = at("#framing");
  framing.replaceChildren(...Object.entries(FRAMINGS).map(([name, text]) => element("option", { value: name }, text)));
  framing.value = state.get("framing");
  framing.addEventListener("change", () => state.set({ framing: framing.value }));
  at("#clear").addEventListener("click", () => drawing.clear());
  at("#back").addEventListener("click", () => drawing.takeBack());
  let example = 2;
  at("#example").addEventListener("click", () => {
    example = (example + 1) % EXAMPLES.length;
    drawing.replace(EXAMPLES[example]);
    at("#said").textContent = `an example of ${example}`;
  });

  showAnswers(at("#draw"), state);
  const { keep } = letTeach(at("#teach"), state, drawing);
  showRevisions(at("#teach"), state);
  giveTour(at("#tour"), state, drawing);
  at("#paper").addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !/^[0-9]$/.test(event.key)) return;
    if (keep(event.key)) at("#said").textContent = `kept as a drawing of ${event.key}`;
  });
}

attempt("start", start);
