// A recording of some seconds by the microphone: as it hears, without the browser's noise suppression and automatic gain.

import { resampled } from "./decode.js";
import { closeDevice, openDevice } from "./open.js";

/**
 * Record.
 *
 * seconds: at most so long; rate: samples per second of the result; signal: an AbortSignal that ends it early, with what was heard so far;
 * heard: told how many seconds were heard. Returns a Float32Array. Raises an Error with a line for the reader, and an AbortError if it is
 * ended before anything was heard.
 */
export async function record(seconds, rate, { signal, heard }) {
  const stream = await openDevice("microphone", { audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false } });
  let context = null;
  try {
    signal.throwIfAborted();
    context = await contextOf(signal);
    const samples = await captured(context, stream, seconds, { signal, heard });
    if (samples.length === 0) {
      signal.throwIfAborted();
      throw new Error("the microphone was silent: nothing was recorded");
    }
    return await resampled(samples, context.sampleRate, rate, "the recording");
  } finally {
    closeDevice(stream);
    await context?.close();
  }
}

/** An AudioContext that runs, at the device's own rate: not every browser resamples a microphone. */
async function contextOf(signal) {
  let context = null;
  try {
    context = new AudioContext();
    const aborted = new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason), { once: true }));
    await Promise.race([context.audioWorklet.addModule(new URL("capture.js", import.meta.url)), aborted]);
    await Promise.race([context.resume(), aborted]);
    return context;
  } catch (problem) {
    await context?.close();
    if (signal.aborted) throw problem;
    throw new Error(`this browser cannot record: ${problem.message || problem.name}`);
  }
}

/** Samples at the context's rate, until there are enough, the signal is aborted, or the device ends. */
async function captured(context, stream, seconds, { signal, heard }) {
  const wanted = Math.round(seconds * context.sampleRate);
  const source = context.createMediaStreamSource(stream);
  const capture = new AudioWorkletNode(context, "capture", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
  const [track] = stream.getAudioTracks();
  const blocks = [];
  let count = 0;
  await new Promise((resolve, reject) => {
    capture.port.onmessage = ({ data }) => {
      blocks.push(data);
      count += data.length;
      heard(Math.min(seconds, count / context.sampleRate));
      if (count >= wanted) resolve();
    };
    capture.onprocessorerror = () => reject(new Error("the browser broke off the recording; try again"));
    track.addEventListener("ended", resolve);
    signal.addEventListener("abort", resolve);
    if (track.readyState === "ended" || signal.aborted) resolve();
    else source.connect(capture);
  });
  const samples = new Float32Array(Math.min(count, wanted));
  let at = 0;
  for (const block of blocks) {
    samples.set(block.subarray(0, samples.length - at), at);
    at = Math.min(samples.length, at + block.length);
  }
  return samples;
}
