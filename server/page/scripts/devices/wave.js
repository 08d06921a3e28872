// WAV files, to and from samples of -1 to 1. Numbers are those of libsndfile: whole numbers are divided by 2^(bits - 1), in every browser alike.

const [PCM, FLOAT, EXTENSIBLE] = [1, 3, 0xfffe];
const READERS = {
  [`${PCM} 8`]: (view, at) => (view.getUint8(at) - 128) / 2 ** 7,
  [`${PCM} 16`]: (view, at) => view.getInt16(at, true) / 2 ** 15,
  [`${PCM} 24`]: (view, at) => (view.getUint8(at) + view.getInt16(at + 1, true) * 2 ** 8) / 2 ** 23,
  [`${PCM} 32`]: (view, at) => view.getInt32(at, true) / 2 ** 31,
  [`${FLOAT} 32`]: (view, at) => view.getFloat32(at, true),
  [`${FLOAT} 64`]: (view, at) => view.getFloat64(at, true),
};
const text = (view, at) => String.fromCharCode(...new Uint8Array(view.buffer, at, 4));

/** The mean of a WAV file's channels: {samples, a Float32Array, rate}; null for other files, and for WAV of other encodings. */
export function read(bytes) {
  const view = new DataView(bytes);
  if (bytes.byteLength < 12 || text(view, 0) !== "RIFF" || text(view, 8) !== "WAVE") return null;
  let format = null;
  for (let at = 12; at + 8 <= bytes.byteLength; ) {
    const [name, size, start] = [text(view, at), view.getUint32(at + 4, true), at + 8];
    if (name === "fmt " && size >= 16 && start + size <= bytes.byteLength) format = formatAt(view, start, size);
    if (name === "data" && format) return samplesAt(view, start, Math.min(size, bytes.byteLength - start), format);
    at = start + size + (size % 2);
  }
  return null;
}

function formatAt(view, at, size) {
  const [code, channels, bits] = [view.getUint16(at, true), view.getUint16(at + 2, true), view.getUint16(at + 14, true)];
  const real = code === EXTENSIBLE && size >= 40 ? view.getUint16(at + 24, true) : code;
  return { reader: READERS[`${real} ${bits}`], channels, step: bits / 8, rate: view.getUint32(at + 4, true) };
}

function samplesAt(view, start, size, { reader, channels, step, rate }) {
  if (!reader || channels < 1 || rate < 1) return null;
  const samples = new Float32Array(Math.floor(size / (step * channels)));
  for (let i = 0, at = start; i < samples.length; i++) {
    let sum = 0;
    for (let c = 0; c < channels; c++, at += step) sum += reader(view, at);
    samples[i] = sum / channels;
  }
  return { samples, rate };
}

/** A WAV file of one channel, 32-bit floating point, as an ArrayBuffer. */
export function written(samples, rate) {
  const head = 44;
  const bytes = new ArrayBuffer(head + samples.byteLength);
  const view = new DataView(bytes);
  const letters = (at, word) => [...word].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  letters(0, "RIFF");
  view.setUint32(4, bytes.byteLength - 8, true);
  letters(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, FLOAT, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, 4 * rate, true);
  view.setUint16(32, 4, true);
  view.setUint16(34, 32, true);
  letters(36, "data");
  view.setUint32(40, samples.byteLength, true);
  new Float32Array(bytes, head).set(samples);
  return bytes;
}
