// Samples from files, the camera and the microphone, by the kind that the network takes.

import { passFocus } from "../charts.js";
import { Camera } from "../devices/camera.js";
import { decoded } from "../devices/decode.js";
import { record } from "../devices/microphone.js";
import { attempt } from "../state.js";
import { extent } from "./kinds.js";
import { pictured, readPicture } from "./pictures.js";
import { readRecording } from "./recordings.js";
import { readSound } from "./sounds.js";
import { samplesOf } from "./spectrogram.js";

const [LEAST_SECONDS, MOST_SECONDS] = [1, 60];

/** Reader of a file, by kind: ({shape, reading}, file, the first recording's columns) → {samples: [{values, name, …}], more, notes}. */
const READERS = {
  pictures: async (about, file) => ({ samples: [{ values: await readPicture(file, about.shape), name: file.name }], more: 0, notes: "" }),
  recordings: (about, file, like) => readRecording(file, about, like),
  sounds: async (about, file) => readSound(await decoded(file, about.reading.sound.rate), file.name, about),
};

/** Take samples in `place`, which has #files, .photograph with the camera's parts, and .hear with the microphone's. `add` receives them. */
export function takeIn(place, state, add) {
  const find = (name) => place.querySelector(name);
  const about = () => ({ shape: state.get("shape"), reading: state.get("reading") });
  const files = find("#files");
  const first = new Map(); // input → {name, names} of the first recording, whose order of columns the others are to have

  files.addEventListener("click", () => (files.value = "")); // the same file may be given again
  files.addEventListener("change", () => attempt("files", readAll));
  usingCamera();
  usingMicrophone();
  state.on(["kind", "words"], () => {
    files.accept = state.get("words").accept;
    find(".photograph").hidden = state.get("kind") !== "pictures";
    find(".hear").hidden = state.get("kind") !== "sounds";
  });

  /** Read every file that can be read, and then say which could not. */
  async function readAll() {
    const [samples, notes, wrong] = [[], [], []];
    const [kind, input] = [state.get("kind"), state.get("input")];
    let more = 0;
    const focused = document.activeElement === files;
    files.disabled = true;
    files.ariaBusy = "true";
    try {
      for (const file of files.files) {
        let found = { samples: [], more: 0, notes: "" };
        try {
          found = await READERS[kind](about(), file, first.get(input));
        } catch (problem) {
          wrong.push(problem.message);
        }
        if (input !== state.get("input")) return; // another task was chosen, which takes other samples
        samples.push(...found.samples);
        const whole = found.samples[0]?.whole;
        if (whole && !first.has(input)) first.set(input, { name: whole.name, names: whole.names });
        more += found.more;
        if (found.notes) notes.push(found.notes);
      }
    } finally {
      files.disabled = false;
      files.ariaBusy = "false";
      if (focused && document.activeElement === document.body) files.focus(); // which it lost when it was disabled
    }
    if (samples.length) add(samples, notes.slice(0, 2).join("; "), more);
    if (wrong.length) throw new Error(wrong.length === 1 ? wrong[0] : `${wrong[0]} (and ${wrong.length - 1} more)`);
  }

  function usingCamera() {
    const [on, viewer, shutter, off] = [".on", ".viewer", ".shutter", ".off"].map(find);
    const camera = new Camera(find("video"), (running) => {
      const [shown, hidden] = running ? [viewer, on] : [on, viewer];
      shown.hidden = false;
      passFocus(hidden, running ? shutter : on);
      hidden.hidden = true;
    });
    let count = 0;
    state.on(["input"], () => camera.stop());
    on.addEventListener("click", () => attempt("camera", () => camera.start()));
    off.addEventListener("click", () => camera.stop());
    shutter.addEventListener("click", () =>
      attempt("camera", () => {
        count += 1;
        const name = `photograph ${count}`;
        add([{ values: pictured(...camera.frame, about().shape, name), name }]);
      }),
    );
  }

  function usingMicrophone() {
    const [start, stop, seconds, bar] = [".start", ".stop-recording", ".seconds", ".recording"].map(find);
    let [ended, count] = [null, 0];
    Object.assign(seconds, { min: LEAST_SECONDS, max: MOST_SECONDS });
    state.on(["input"], () => {
      ended?.abort();
      if (state.get("kind") !== "sounds") return;
      const { sound } = state.get("reading");
      const long = Math.ceil(samplesOf(extent(state.get("shape"))[2], sound) / sound.rate); // of a window
      seconds.value = Math.min(MOST_SECONDS, Math.max(LEAST_SECONDS, long));
    });
    start.addEventListener("click", () => attempt("microphone", hear));
    stop.addEventListener("click", () => ended?.abort());

    async function hear() {
      const long = Number(seconds.value);
      const range = `${LEAST_SECONDS} to ${MOST_SECONDS}`;
      if (!(long >= LEAST_SECONDS && long <= MOST_SECONDS)) throw new Error(`a recording lasts ${range} seconds; type a number from ${range}`);
      const [input, { rate }] = [state.get("input"), state.get("reading").sound];
      ended = new AbortController();
      stop.hidden = bar.hidden = false;
      passFocus(start, stop);
      start.hidden = true;
      Object.assign(bar, { max: long, value: 0 });
      try {
        const samples = await record(long, rate, { signal: ended.signal, heard: (now) => (bar.value = now) });
        if (input !== state.get("input")) return;
        count += 1;
        const found = readSound(samples, `recording ${count}`, about());
        add(found.samples, found.notes, found.more);
      } finally {
        start.hidden = false;
        passFocus(stop, start);
        stop.hidden = bar.hidden = true;
      }
    }
  }
}
