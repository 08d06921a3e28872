// Drawing by mouse, pen, finger and keyboard. What is drawn is strokes, [[x, y], …] in 0..1; pixels are made elsewhere (framing.js).
//
// Keyboard: the arrows move the pen (with Shift: finely), Space puts it down or lifts it, Backspace takes the last stroke back,
// Delete clears.

import { PEN } from "./framing.js";

const STEP = 1 / 16;
const FINE = 1 / 64;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/**
 * A canvas that is drawn on.
 *
 * canvas: a square canvas that can have the focus. say: told in words what the keyboard did.
 * changed: told of every change of `strokes`, a fresh array each time.
 */
export class Drawing {
  strokes = [];
  #canvas;
  #changed;
  #say;
  #pen = [0.5, 0.25];
  #down = false; // whether the keyboard's pen is on the paper
  #pointer = null;
  #keyboard = false;

  constructor(canvas, { changed, say }) {
    this.#canvas = canvas;
    this.#changed = changed;
    this.#say = say;
    canvas.addEventListener("pointerdown", (event) => this.#begin(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => this.#end(event));
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("blur", () => this.#leave());
    canvas.addEventListener("focus", () => {
      this.#keyboard = canvas.matches(":focus-visible");
      this.paint();
    });
    new ResizeObserver(() => this.paint()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.paint());
  }

  /** Replace the strokes. */
  replace(strokes) {
    this.#down = false;
    this.#set(strokes.map((stroke) => stroke.map((point) => [...point])));
  }

  /** Clear the drawing. */
  clear() {
    if (this.strokes.length) this.replace([]);
    this.#down = false;
  }

  /** Undo the last stroke. */
  takeBack() {
    this.#down = false;
    if (this.strokes.length) this.#set(this.strokes.slice(0, -1));
  }

  #set(strokes) {
    this.strokes = strokes;
    this.paint();
    this.#changed(strokes);
  }

  #extend(points) {
    this.#set([...this.strokes.slice(0, -1), [...this.strokes.at(-1), ...points]]);
  }

  #place(event) {
    const box = this.#canvas.getBoundingClientRect();
    return [clamp((event.clientX - box.left) / box.width), clamp((event.clientY - box.top) / box.height)];
  }

  #begin(event) {
    if (this.#pointer !== null || event.button !== 0) return;
    this.#pointer = event.pointerId;
    this.#keyboard = this.#down = false;
    this.#canvas.setPointerCapture(event.pointerId);
    this.#set([...this.strokes, [this.#place(event)]]);
  }

  #move(event) {
    if (event.pointerId !== this.#pointer) return;
    const events = event.getCoalescedEvents?.() ?? [];
    this.#extend((events.length ? events : [event]).map((each) => this.#place(each)));
  }

  #end(event) {
    if (event.pointerId === this.#pointer) this.#pointer = null;
  }

  #leave() {
    this.#keyboard = this.#down = false;
    this.paint();
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const arrow = ARROWS[event.key];
    if (arrow) {
      const step = event.shiftKey ? FINE : STEP;
      this.#pen = [clamp(this.#pen[0] + arrow[0] * step), clamp(this.#pen[1] + arrow[1] * step)];
      this.#keyboard = true;
      if (this.#down) this.#extend([this.#pen]);
      else this.paint();
    } else if (event.key === " ") {
      this.#keyboard = true;
      this.#down = !this.#down;
      if (this.#down) this.#set([...this.strokes, [this.#pen]]);
      else this.paint();
      this.#say(`pen ${this.#down ? "down" : "up"}, ${percent(this.#pen[0])} across, ${percent(this.#pen[1])} down`);
    } else if (event.key === "Backspace") {
      this.takeBack();
      this.#say("last stroke taken back");
    } else if (event.key === "Delete") {
      this.clear();
      this.#say("cleared");
    } else {
      return;
    }
    event.preventDefault();
  }

  /** Redraw the strokes. */
  paint() {
    const canvas = this.#canvas;
    const size = Math.max(1, Math.round(canvas.clientWidth * devicePixelRatio));
    if (canvas.width !== size) canvas.width = canvas.height = size;
    const context = canvas.getContext("2d");
    const style = getComputedStyle(canvas);
    const [ink, mark] = [style.getPropertyValue("--ink"), style.getPropertyValue("--mark")];
    context.clearRect(0, 0, size, size);
    Object.assign(context, { lineWidth: 2 * PEN * size, lineCap: "round", lineJoin: "round", strokeStyle: ink });
    for (const stroke of this.strokes) {
      context.beginPath();
      const [x, y] = stroke[0];
      context.moveTo(x * size, y * size);
      for (const point of stroke.length > 1 ? stroke.slice(1) : stroke) context.lineTo(point[0] * size, point[1] * size);
      context.stroke();
    }
    if (this.#keyboard) {
      const [x, y] = this.#pen.map((value) => value * size);
      context.beginPath();
      context.arc(x, y, PEN * size, 0, 2 * Math.PI);
      Object.assign(context, { lineWidth: 2 * devicePixelRatio, strokeStyle: mark, fillStyle: mark });
      context.stroke();
      if (this.#down) context.fill();
    }
  }
}

const clamp = (value) => Math.min(1, Math.max(0, value));
const percent = (value) => `${Math.round(100 * value)} %`;
