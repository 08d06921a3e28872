// Sound files → samples at one rate. WAV is read here; the browser decodes other files, and resamples.

import { bytesOf } from "../samples/bytes.js";
import { read, written } from "./wave.js";

/** Samples of a sound file, -1 to 1, at `rate` samples per second: a Float32Array. Raises an Error with a line for the reader. */
export async function decoded(file, rate) {
  const bytes = await bytesOf(file);
  const wave = read(bytes);
  const samples = wave ? await resampled(wave.samples, wave.rate, rate, file.name) : await decodedByBrowser(bytes, rate, file.name);
  if (!samples.every(Number.isFinite)) throw new Error(`${file.name} holds a sample that is not finite; repair or remove it`);
  return samples;
}

/** Samples at another rate. A file is what browsers resample well; what they play they interpolate. */
export async function resampled(samples, from, rate, name) {
  return from === rate || samples.length === 0 ? samples : decodedByBrowser(written(samples, from), rate, name);
}

async function decodedByBrowser(bytes, rate, name) {
  let context;
  try {
    context = new OfflineAudioContext(1, 1, rate);
  } catch {
    throw new Error(`this browser cannot turn sounds into ${rate} samples per second, which the network takes; give WAV files of that rate`);
  }
  let found;
  try {
    found = await context.decodeAudioData(bytes);
  } catch {
    throw new Error(`${name} is not a sound that this browser can read; convert it to WAV`);
  }
  const channels = Array.from({ length: found.numberOfChannels }, (_, c) => found.getChannelData(c));
  return channels[0].map((_, i) => channels.reduce((sum, channel) => sum + channel[i], 0) / channels.length);
}
