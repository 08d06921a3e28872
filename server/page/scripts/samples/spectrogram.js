// Log-mel spectrograms, as runtime/samples/sounds/spectrogram.py has them, in the same symbols:
//
//    power_t(f) = |Σ_n h(n) s(t · hop + n) e^(-2πi f n / N)|²      h: periodic Hann window;  N: the power of two from `window`
//    mel(f)     = 2595 log10(1 + f / 700)                            f in Hz
//    x(b, t)    = ln max(10^-6, Σ_f w_b(f) power_t(f))               w_b: triangle of height 1, from one centre to the next

const FLOOR = 1e-6;

/** Whole frames in so many samples. */
export const framesIn = (samples, sound) => Math.max(0, 1 + Math.floor((samples - sound.window) / sound.hop));

/** Samples that so many frames take. */
export const samplesOf = (frames, sound) => (frames - 1) * sound.hop + sound.window;

/**
 * The spectrogram of a sound.
 *
 * samples: Float32Array, -1 to 1, at sound.rate; sound: {rate, window, hop, bands, low, high}.
 * Returns one Float32Array per band, a number for every frame.
 */
export function logMel(samples, sound) {
  const { window, hop, bands } = sound;
  const count = framesIn(samples.length, sound);
  const size = 2 ** Math.ceil(Math.log2(window));
  const hann = Float64Array.from({ length: window }, (_, n) => 0.5 - 0.5 * Math.cos((2 * Math.PI * n) / window));
  const filters = melFilters(sound, size);
  const transform = fourier(size);
  const found = Array.from({ length: bands }, () => new Float32Array(count));
  const power = new Float64Array(size / 2 + 1);
  for (let t = 0; t < count; t++) {
    const [real, imaginary] = transform((n) => (n < window ? hann[n] * samples[t * hop + n] : 0));
    for (let f = 0; f < power.length; f++) power[f] = real[f] ** 2 + imaginary[f] ** 2;
    filters.forEach(({ from, parts }, b) => {
      let sum = 0;
      for (let k = 0; k < parts.length; k++) sum += parts[k] * power[from + k];
      found[b][t] = Math.log(Math.max(FLOOR, sum));
    });
  }
  return found;
}

/** For every band, the first frequency with a weight and the weights from there on; none if the triangle lies between two frequencies. */
function melFilters({ rate, bands, low, high }, size) {
  const [first, last] = [low, high || rate / 2].map((f) => 2595 * Math.log10(1 + f / 700));
  const points = Array.from({ length: bands + 2 }, (_, i) => 700 * (10 ** ((first + ((last - first) * i) / (bands + 1)) / 2595) - 1));
  return Array.from({ length: bands }, (_, b) => {
    const [left, centre, right] = points.slice(b, b + 3);
    const weight = (f) => Math.max(0, Math.min((f - left) / (centre - left), (right - f) / (right - centre)));
    const all = Array.from({ length: size / 2 + 1 }, (_, k) => weight((k * rate) / size));
    const from = Math.max(0, all.findIndex((each) => each > 0));
    return { from, parts: all.slice(from, all.findLastIndex((each) => each > 0) + 1) };
  });
}

/** A fast Fourier transform (radix 2, in place) of `size` real numbers. Returns a function of (n) => number that gives [real, imaginary]. */
function fourier(size) {
  const [real, imaginary] = [new Float64Array(size), new Float64Array(size)];
  const cosines = Float64Array.from({ length: size / 2 }, (_, k) => Math.cos((2 * Math.PI * k) / size));
  const sines = Float64Array.from({ length: size / 2 }, (_, k) => -Math.sin((2 * Math.PI * k) / size));
  const places = new Uint32Array(size); // every index with its bits in the opposite order
  for (let i = 1; i < size; i++) places[i] = (places[i >> 1] >> 1) | (i & 1 ? size >> 1 : 0);
  return (value) => {
    for (let i = 0; i < size; i++) real[places[i]] = value(i);
    imaginary.fill(0);
    for (let half = 1; half < size; half *= 2) {
      const turn = size / (2 * half);
      for (let start = 0; start < size; start += 2 * half) {
        for (let k = 0; k < half; k++) {
          const [a, b] = [start + k, start + k + half];
          const [c, s] = [cosines[k * turn], sines[k * turn]];
          const x = real[b] * c - imaginary[b] * s;
          const y = real[b] * s + imaginary[b] * c;
          real[b] = real[a] - x;
          imaginary[b] = imaginary[a] - y;
          real[a] += x;
          imaginary[a] += y;
        }
      }
    }
    return [real, imaginary];
  };
}
