// Connects the parts of the page: reads the bundle's metadata, asks for a key if the server needs one, then starts every part on one state.

import { showAnswers } from "./answer.js";
import { hasKey, keepKey, keepsUsers, tasks } from "./api.js";
import { startDrawing } from "./drawing/paper.js";
import { showLayers } from "./layers.js";
import { changeTask, choosePeople } from "./people.js";
import { showRevisions } from "./revisions.js";
import { showChart } from "./samples/chart.js";
import { takeIn } from "./samples/intake.js";
import { drawable } from "./samples/kinds.js";
import { showTray } from "./samples/tray.js";
import { State, attempt } from "./state.js";
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
  const keeps = await keepsUsers();
  const begun = new State({ tasks: names, keeps, user: null, version: 0, strokes: [], input: null });
  await changeTask(begun, names[0]);
  state = begun;
  at("main").hidden = false;
  choosePeople(at("#people"), state);
  showLayers(at("#layers"), state);
  state.on(["input", "words"], dress);
  startSamples();
  document.body.dataset.ready = "";
}

/** Show the parts that the kind of the task's samples has, with its words. */
function dress() {
  const [kind, shape, words] = ["kind", "shape", "words"].map((name) => state.get(name));
  at("#undrawable").hidden = kind !== null;
  at("#undrawable b").textContent = shape.map((size) => (size < 0 ? "any" : size)).join(" × ");
  for (const part of ["#draw", "#teach", "#tour"]) at(part).hidden = kind === null;
  if (!state.get("keeps")) at("#teach").hidden = true; // without a store, nothing learned could be kept
  for (const place of document.querySelectorAll("[data-word]")) place.textContent = words[place.dataset.word];
  const drawn = drawable(kind, shape);
  for (const part of ["#by-hand", "#keys", "#framed"]) at(part).hidden = !drawn;
  at(".skip").href = drawn ? "#paper" : "#files";
  at("#example").hidden = !words.digits;
}

function startSamples() {
  const { drawing, say } = startDrawing(at("#draw"), state);
  const { add, next } = showTray(at("#tray"), state);
  showChart(at("#chart"), state);
  takeIn(at("#intake"), state, add);
  showAnswers(at("#draw"), state);
  const { keep } = letTeach(at("#teach"), state, () => (state.get("chosen") ? next() : drawing.clear()));
  showRevisions(at("#teach"), state);
  giveTour(at("#tour"), state, drawing);
  at("#paper").addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !/^[0-9]$/.test(event.key)) return;
    if (keep(event.key)) say(`kept as a drawing of ${event.key}`);
  });
}

attempt("start", start);
