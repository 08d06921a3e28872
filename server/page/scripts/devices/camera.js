// A camera's preview, and photographs of what it shows. It is off when the page is out of sight.

import { closeDevice, openDevice } from "./open.js";

/** The camera behind a <video>. `changed` is told whether it is on. */
export class Camera {
  #video;
  #changed;
  #opening = null; // {stream} of the one start that still counts
  #stream = null;

  constructor(video, changed) {
    this.#video = video;
    this.#changed = changed;
    document.addEventListener("visibilitychange", () => document.hidden && this.stop());
  }

  /** Switch it on, unless it is on or about to be. Raises an Error with a line for the reader, and then it is off. */
  async start() {
    if (this.#stream || this.#opening) return;
    const mine = (this.#opening = { stream: null });
    try {
      mine.stream = await openDevice("camera", { video: { facingMode: "environment" }, audio: false });
      if (this.#opening === mine) await this.#show(mine);
    } catch (problem) {
      if (this.#opening === mine) throw problem; // else it was stopped, which breaks off what began
    } finally {
      if (this.#opening === mine) this.#opening = null;
      if (mine.stream !== this.#stream) this.#release(mine.stream);
    }
  }

  async #show(mine) {
    const { stream } = mine;
    this.#video.srcObject = stream;
    try {
      await this.#video.play();
    } catch (problem) {
      throw new Error(`the camera’s picture cannot be shown: ${problem.message || problem.name}`);
    }
    if (this.#opening !== mine) return;
    this.#stream = stream;
    stream.getVideoTracks()[0].addEventListener("ended", () => stream === this.#stream && this.stop());
    this.#changed(true);
  }

  /** Switch it off, also if it is only about to be on. */
  stop() {
    const [shown, opening] = [this.#stream, this.#opening?.stream];
    this.#stream = this.#opening = null;
    this.#release(shown ?? opening); // at once: a video that waits to play may never do so
    if (shown) this.#changed(false);
  }

  #release(stream) {
    closeDevice(stream);
    if (this.#video.srcObject === stream) this.#video.srcObject = null;
  }

  /** What it shows now: a source for a canvas, its width and its height. */
  get frame() {
    return [this.#video, this.#video.videoWidth, this.#video.videoHeight];
  }
}
