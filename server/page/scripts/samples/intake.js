// Samples from files, the camera and the microphone, by the kind that the network takes.

import { Camera } from "../devices/camera.js";
import { decoded } from "../devices/decode.js";
import { record } from "../devices/microphone.js";
import { attempt } from "../state.js";
import { extent } from "./kinds.js";
import { pictured, readPicture } from "./pictures.js";
import { readRecording } from "./recordings.js";
import { readSound } from "./sounds.js";
import { samplesOf } from "./spectrogram.js";

/** Reader of a file, by kind: ({shape, reading}, file) → {samples: [{values, name, …}], more, notes}. */
const READERS = {
  pictures: async (about, file) => ({ samples: [{ values: await readPicture(file, about.shape), name: file.name }], more: 0, notes: "" }),
  recordings: (about, file) => readRecording(file, about),
  sounds: async (about, file) => readSound(await decoded(file, about.reading.sound.rate), file.name, about),
};

/** Take samples in `place`, which has #files, .photograph with the camera's parts, and .hear with the microphone's. `add` receives them. */
export function takeIn(place, state, words, add) {
  const find = (name) => place.querySelector(name);
  const kind = state.get("kind");
  const about = () => ({ shape: state.get("shape"), reading: state.get("reading") });
  const files = find("#files");

  files.accept = words.accept;
  files.addEventListener("click", () => (files.value = "")); // the same file may be given again
  files.addEventListener("change", () => attempt("files", readAll));
  find(".photograph").hidden = kind !== "pictures";
  find(".hear").hidden = kind !== "sounds";
  if (kind === "pictures") usingCamera();
  if (kind === "sounds") usingMicrophone();

  /** Read every file that can be read, and then say which could not. */
  async function readAll() {
    const [samples, notes, wrong] = [[], [], []];
    let more = 0;
    files.disabled = true;
    files.ariaBusy = "true";
    try {
      for (const file of files.files) {
        try {
          const found = await READERS[kind](about(), file);
          samples.push(...found.samples);
          more += found.more;
          if (found.notes) notes.push(found.notes);
        } catch (problem) {
          wrong.push(problem.message);
        }
      }
    } finally {
      files.disabled = false;
      files.ariaBusy = "false";
    }
    if (samples.length) add(samples, notes.slice(0, 2).join("; "), more);
    if (wrong.length) throw new Error(wrong.length === 1 ? wrong[0] : `${wrong[0]} (and ${wrong.length - 1} more files)`);
  }

  function usingCamera() {
    const [on, viewer, shutter, off] = [".on", ".viewer", ".shutter", ".off"].map(find);
    const camera = new Camera(find("video"), (running) => {
      viewer.hidden = !running;
      on.hidden = running;
      (running ? shutter : on).focus();
    });
    let count = 0;
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
    const { sound } = state.get("reading");
    let [ended, count] = [null, 0];
    seconds.value = Math.max(1, Math.ceil(samplesOf(extent(state.get("shape"))[2], sound) / sound.rate));
    start.addEventListener("click", () => attempt("microphone", hear));
    stop.addEventListener("click", () => ended?.abort());

    async function hear() {
      const long = Number(seconds.value);
      if (!(long > 0 && long <= 60)) throw new Error("a recording lasts up to 60 seconds; type a number from 1 to 60");
      ended = new AbortController();
      start.hidden = true;
      stop.hidden = bar.hidden = false;
      stop.focus();
      Object.assign(bar, { max: long, value: 0 });
      try {
        const samples = await record(long, sound.rate, { signal: ended.signal, heard: (now) => (bar.value = now) });
        count += 1;
        const found = readSound(samples, `recording ${count}`, about());
        add(found.samples, found.notes, found.more);
      } finally {
        start.hidden = false;
        stop.hidden = bar.hidden = true;
        start.focus();
      }
    }
  }
}
