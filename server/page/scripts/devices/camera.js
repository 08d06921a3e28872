// A camera's preview, and photographs of what it shows. It is off when the page is out of sight.

import { closeDevice, openDevice } from "./open.js";

/** The camera behind a <video>. `changed` is told whether it is on. */
export class Camera {
  #video;
  #changed;
  #stream = null;

  constructor(video, changed) {
    this.#video = video;
    this.#changed = changed;
    document.addEventListener("visibilitychange", () => document.hidden && this.stop());
  }

  /** Switch it on. Raises an Error with a line for the reader. */
  async start() {
    if (this.#stream) return;
    this.#stream = await openDevice("camera", { video: { facingMode: "environment" }, audio: false });
    this.#stream.getVideoTracks()[0].addEventListener("ended", () => this.stop());
    this.#video.srcObject = this.#stream;
    await this.#video.play();
    this.#changed(true);
  }

  /** Switch it off. */
  stop() {
    if (!this.#stream) return;
    closeDevice(this.#stream);
    this.#stream = this.#video.srcObject = null;
    this.#changed(false);
  }

  /** What it shows now: a source for a canvas, its width and its height. */
  get frame() {
    return [this.#video, this.#video.videoWidth, this.#video.videoHeight];
  }
}
