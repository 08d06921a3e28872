// A sound → windows of its spectrogram, as runtime/samples/sounds cuts them: a sound that is shorter than a window gets silence on both
// sides, a longer one is cut, and frames at its end that do not fill a window are left out.

import { extent } from "./kinds.js";
import { framesIn, logMel, samplesOf } from "./spectrogram.js";
import { MOST, covered, cut, starts } from "./windows.js";

/**
 * The windows of a sound.
 *
 * samples: Float32Array at the network's rate. Returns {samples: [{values, name, from, to, whole}], more, notes}; `more` is how many there are beyond the first 200.
 */
export function readSound(samples, name, { shape, reading }) {
  const frames = extent(shape)[2];
  if (samples.length === 0) throw new Error(`${name} holds no sound`);
  const short = framesIn(samples.length, reading.sound) < frames;
  const channels = logMel(short ? filled(samples, samplesOf(frames, reading.sound)) : samples, reading.sound);
  const whole = { name, kind: "sounds", rows: channels[0].length, channels, unit: "frames" };
  const found = starts(whole.rows, frames, reading.stride);
  const seconds = (frame) => ((frame * reading.sound.hop) / reading.sound.rate).toFixed(2);
  const named = (from) => (found.length === 1 ? name : `${name}, from ${seconds(from)} s`);
  const rest = whole.rows - covered(found, frames);
  return {
    samples: found.slice(0, MOST).map((from) => ({ values: cut(channels, from, frames), name: named(from), from, to: from + frames, whole })),
    more: Math.max(0, found.length - MOST),
    notes: short ? "shorter than a window: silence was added on both sides" : rest ? `${rest} of ${whole.rows} frames of ${name} left out: too few for a window` : "",
  };
}

/** The sound in the middle of silence; of an odd number of zeros the last is at the end. */
function filled(samples, length) {
  const longer = new Float32Array(length);
  longer.set(samples, Math.floor((length - samples.length) / 2));
  return longer;
}
