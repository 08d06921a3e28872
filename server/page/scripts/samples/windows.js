// Windows of a recording or a spectrogram, as runtime/samples/recordings/windows.py cuts them.

/** Samples that the page shows at once: more are no help, and each is asked about. */
export const MOST = 200;

/** Where windows of `width` rows begin, `stride` rows apart; null: they follow each other. */
export function starts(rows, width, stride) {
  const step = stride ?? width;
  return Array.from({ length: rows < width ? 0 : 1 + Math.floor((rows - width) / step) }, (_, i) => i * step);
}

/** Rows `from` to `from + width` of every channel, one channel after the other: a Float32Array. */
export function cut(channels, from, width) {
  const window = new Float32Array(channels.length * width);
  channels.forEach((numbers, c) => window.set(numbers.subarray(from, from + width), c * width));
  return window;
}

/** Rows that lie in a window; `found` are beginnings in their order. */
export const covered = (found, width) => found.reduce((sum, from, i) => sum + (i === 0 ? width : Math.min(width, from - found[i - 1])), 0);
