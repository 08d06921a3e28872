// A whole recording, a line per channel, or a whole sound's spectrogram, with its windows marked; a click chooses the window there.

import { COLOURS, range, upright } from "./sketch.js";

const LANE = 34; // height of a channel, in CSS pixels
const NAME = 11;
const ON_BLACK = "#ffc857"; // marks on a spectrogram, whose silence is black in the light and in the dark

/** Show the chosen sample's recording in `place`, a <figure> with a canvas and a caption. */
export function showChart(place, state) {
  const [canvas, caption] = ["canvas", "figcaption"].map((name) => place.querySelector(name));
  let whole = null;
  let windows = [];

  state.on(["given", "chosen"], () => {
    whole = state.get("chosen")?.whole ?? null;
    windows = state.get("given").filter((each) => each.whole === whole);
    place.hidden = whole === null;
    if (whole) describe();
    paint();
  });
  canvas.addEventListener("click", (event) => {
    const row = (event.offsetX / canvas.clientWidth) * whole.rows;
    const there = windows.findLast(({ from, to }) => from <= row && row < to);
    if (there) state.set({ chosen: there, sample: there.values });
  });
  new ResizeObserver(() => paint()).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => paint());

  function describe() {
    const at = windows.indexOf(state.get("chosen")) + 1;
    const channels = whole.names ? `${whole.channels.length} channels: ${whole.names.join(", ")}` : `${whole.channels.length} bands`;
    const count = windows.length === 1 ? "one window" : `${windows.length} windows, of which number ${at} is chosen`;
    caption.textContent = `${whole.name}: ${whole.rows} ${whole.unit}, ${count}`;
    canvas.ariaLabel = `${caption.textContent}; ${channels}`;
  }

  function paint() {
    if (!whole) return;
    const lanes = whole.kind === "recordings" ? whole.channels.length : 3;
    canvas.style.height = `${Math.min(400, LANE * lanes)}px`;
    const [wide, high] = [canvas.clientWidth, canvas.clientHeight];
    canvas.width = Math.max(1, Math.round(wide * devicePixelRatio));
    canvas.height = Math.max(1, Math.round(high * devicePixelRatio));
    const context = canvas.getContext("2d");
    context.scale(devicePixelRatio, devicePixelRatio);
    const style = getComputedStyle(canvas);
    const [text, ground, accent] = ["--text", "--soft", "--accent"].map((name) => style.getPropertyValue(name));
    if (whole.kind === "recordings") {
      lines(context, wide, high);
      mark(context, wide, high, accent);
      names(context, high, text, ground);
    } else {
      spectrogram(context, wide, high);
      mark(context, wide, high, ON_BLACK);
    }
  }

  /** One lane per channel, from its least to its largest number. */
  function lines(context, wide, high) {
    const lane = high / whole.channels.length;
    whole.channels.forEach((numbers, c) => {
      const [low, largest] = range(numbers);
      const y = (value) => lane * (c + 1) - 2 - ((lane - 4) * (value - low)) / (largest - low);
      Object.assign(context, { strokeStyle: COLOURS[c % COLOURS.length], lineWidth: 1.25, lineJoin: "round" });
      context.beginPath();
      const step = Math.max(1, numbers.length / (2 * wide)); // of more rows than half pixels, the extremes
      for (let from = 0; from < numbers.length; from += step) {
        const part = numbers.subarray(Math.floor(from), Math.max(Math.floor(from) + 1, Math.floor(from + step)));
        const x = (wide * (from + 0.5)) / numbers.length;
        if (part.length === 1) context.lineTo(x, y(part[0]));
        else for (const value of [Math.min(...part), Math.max(...part)]) context.lineTo(x, y(value));
      }
      context.stroke();
    });
  }

  /** The channels' names, where there is room for them, on a ground that keeps them apart from the lines. */
  function names(context, high, text, ground) {
    const lane = high / whole.channels.length;
    if (lane < NAME + 4) return;
    Object.assign(context, { fillStyle: text, strokeStyle: ground, lineWidth: 4, lineJoin: "round", font: `600 ${NAME}px system-ui, sans-serif`, textBaseline: "top" });
    whole.names.forEach((name, c) => {
      context.strokeText(name, 6, lane * c + 4);
      context.fillText(name, 6, lane * c + 4);
    });
  }

  function spectrogram(context, wide, high) {
    const [bands, frames] = [whole.channels.length, whole.rows];
    const all = new Float32Array(bands * frames);
    whole.channels.forEach((numbers, b) => all.set(numbers, b * frames));
    const image = new OffscreenCanvas(Math.min(frames, 4096), bands);
    const small = image.getContext("2d");
    const pixels = small.createImageData(image.width, bands);
    const shades = upright(all, bands, frames);
    for (let i = 0; i < image.width * bands; i++) {
      const [row, x] = [Math.floor(i / image.width), i % image.width];
      const shade = 255 * shades[row * frames + Math.floor((x * frames) / image.width)];
      pixels.data.set([shade, shade, shade, 255], 4 * i);
    }
    small.putImageData(pixels, 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(image, 0, 0, wide, high);
  }

  function mark(context, wide, high, accent) {
    const x = (row) => (wide * row) / whole.rows;
    for (const each of windows) {
      const chosen = each === state.get("chosen");
      Object.assign(context, { strokeStyle: accent, fillStyle: accent, lineWidth: chosen ? 3 : 1, globalAlpha: chosen ? 1 : 0.55 });
      context.setLineDash(chosen ? [] : [3, 3]);
      context.strokeRect(x(each.from) + 1.5, 1.5, x(each.to) - x(each.from) - 3, high - 3);
      if (!chosen) continue;
      context.globalAlpha = 0.12;
      context.fillRect(x(each.from), 0, x(each.to) - x(each.from), high);
    }
    context.globalAlpha = 1;
    context.setLineDash([]);
  }
}
