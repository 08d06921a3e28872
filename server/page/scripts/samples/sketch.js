// A small picture of one sample: pixels, the lines of a window, or a spectrogram with its low frequencies at the bottom.

import { element, thumbnail } from "../charts.js";
import { extent } from "./kinds.js";

/** Colours of channels, in turn; each can be told from a light ground and from a dark one. */
export const COLOURS = ["#4a74d8", "#b8741a", "#2f9e44", "#b0487a", "#0f8f9e", "#8a63d2"];
const [WIDE, HIGH] = [120, 72];

/** A picture of a sample, named `text` for those who do not see it. */
export function sketch(kind, values, shape, text) {
  const [channels, height, width] = extent(shape);
  if (kind === "recordings") return lines(values, channels, width, text);
  return thumbnail(kind === "sounds" ? upright(values, height, width) : values, [height, width], text);
}

/** Least and largest of some numbers, a little apart if they are the same. */
export function range(numbers) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of numbers) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return high > low ? [low, high] : [low - 0.5, low + 0.5];
}

/** A spectrogram, shape (bands, frames), as pixels of 0 to 1: its least number is black, its largest white, the first band at the bottom. */
export function upright(values, bands, frames) {
  const [low, high] = range(values);
  const pixels = new Float32Array(values.length);
  for (let b = 0; b < bands; b++) {
    for (let t = 0; t < frames; t++) pixels[(bands - 1 - b) * frames + t] = (values[b * frames + t] - low) / (high - low);
  }
  return pixels;
}

function lines(values, channels, width, text) {
  const canvas = element("canvas", { width: WIDE, height: HIGH, class: "sample smooth", role: "img", "aria-label": text });
  const context = canvas.getContext("2d");
  const [low, high] = range(values);
  for (let c = 0; c < channels; c++) {
    Object.assign(context, { strokeStyle: COLOURS[c % COLOURS.length], lineWidth: 1.5, lineJoin: "round" });
    context.beginPath();
    for (let t = 0; t < width; t++) {
      context.lineTo((WIDE * (t + 0.5)) / width, 2 + (HIGH - 4) * (1 - (values[c * width + t] - low) / (high - low)));
    }
    context.stroke();
  }
  return canvas;
}
