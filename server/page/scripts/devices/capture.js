// Runs beside the page, in the browser's audio thread: passes on what the microphone hears, 128 samples at a time.

registerProcessor(
  "capture",
  class extends AudioWorkletProcessor {
    process([channels]) {
      if (channels.length) this.port.postMessage(channels[0].slice());
      return true;
    }
  },
);
