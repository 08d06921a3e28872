// A recording of some seconds by the microphone: as it hears, without the browser's noise suppression and automatic gain.

import { resampled } from "./decode.js";
import { closeDevice, openDevice } from "./open.js";

/**
 * Record.
 *
 * seconds: at most so long; rate: samples per second of the result; signal: an AbortSignal that ends it early, with what was heard so far;
 * heard: told how many seconds were heard. Returns a Float32Array. Raises an Error with a line for the reader.
 */
export async function record(seconds, rate, { signal, heard }) {
  const stream = await openDevice("microphone", { audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false } });
  const context = new AudioContext(); // at the device's own rate: not every browser resamples a microphone
  try {
    await context.audioWorklet.addModule(new URL("capture.js", import.meta.url));
    await context.resume();
    const wanted = Math.round(seconds * context.sampleRate);
    const source = context.createMediaStreamSource(stream);
    const capture = new AudioWorkletNode(context, "capture", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
    const blocks = [];
    let count = 0;
    await new Promise((resolve, reject) => {
      capture.port.onmessage = ({ data }) => {
        blocks.push(data);
        count += data.length;
        heard(Math.min(seconds, count / context.sampleRate));
        if (count >= wanted) resolve();
      };
      capture.onprocessorerror = () => reject(new Error("the microphone’s recording was broken off by the browser; try again"));
      stream.getAudioTracks()[0].addEventListener("ended", resolve);
      signal.addEventListener("abort", resolve);
      source.connect(capture);
    });
    const samples = new Float32Array(Math.min(count, wanted));
    let at = 0;
    for (const block of blocks) {
      samples.set(block.subarray(0, samples.length - at), at);
      at = Math.min(samples.length, at + block.length);
    }
    if (samples.length === 0) throw new Error("the microphone was silent: nothing was recorded");
    return await resampled(samples, context.sampleRate, rate, "the recording");
  } finally {
    closeDevice(stream);
    await context.close();
  }
}
