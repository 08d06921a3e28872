// Strokes → pixels, in the format of the training data: a pure function without a canvas, so that every browser gives the same numbers.
//
//   digits   the quickstart's: the ink fills the height, is at most 0.7 as wide, is scanned on 8 rows of cells (means), and enlarged by
//            cubic splines, as train/data/digits.py does with its 8×8 scans
//   mnist    the ink in a box of 20/28, centred by its mass
//   drawn    where it was drawn, as large as it was drawn
//
// A stroke is [[x, y], …] in 0..1, y downwards. A pixel is how much of it is ink: 0 to 1. The pen is a disc of `pen` × height.

const KINDS = {
  digits: { pen: 0.07, box: 1, wide: 0.7, stretch: 1.5, rows: 8 },
  mnist: { pen: 0.045, box: 20 / 28, wide: 1, stretch: 1, mass: true },
  drawn: { pen: 0.05 },
};

/** What can be chosen. */
export const FRAMINGS = { digits: "scanned on 8 rows, like the quickstart's digits", mnist: "in a box of 20 in 28, like MNIST", drawn: "as it was drawn" };

/** Radius of the pen on a canvas of height 1. */
export const PEN = 0.05;

/**
 * The pixels of a drawing.
 *
 * Returns a Float32Array of height × width numbers, row by row; null if nothing is drawn.
 */
export function frame(strokes, [height, width], kind) {
  if (!strokes.some((stroke) => stroke.length)) return null;
  const { pen, box, wide, stretch, rows, mass } = KINDS[kind];
  let placed = box ? fitted(strokes, { room: box - 2 * pen, wide, stretch, pen, aspect: width / height }) : scaled(strokes, width / height);
  let pixels = rasterised(placed, height, width, pen);
  if (mass) {
    placed = moved(placed, ...towardsCentre(pixels, height, width));
    pixels = rasterised(placed, height, width, pen);
  }
  const cell = rows ? Math.round(height / rows) : 1;
  return cell > 1 && height % cell === 0 && width % cell === 0 ? scanned(pixels, height, width, cell) : pixels;
}

const scaled = (strokes, aspect) => strokes.map((stroke) => stroke.map(([x, y]) => [x * aspect, y]));
const moved = (strokes, dx, dy) => strokes.map((stroke) => stroke.map(([x, y]) => [x + dx, y + dy]));

/** Strokes scaled into a box of the frame and centred; a dot does not become a blot. Units are the frame's height. */
function fitted(strokes, { room, wide, stretch, pen, aspect }) {
  const points = strokes.flat();
  const xs = points.map((point) => point[0]);
  const ys = points.map((point) => point[1]);
  const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const across = Math.max(right - left, 1e-6);
  const down = Math.max(bottom - top, 1e-6);
  const least = 0.15; // smaller drawings are enlarged no further
  const even = Math.min(room / Math.max(down, least), (room * aspect) / Math.max(across, least));
  const kx = Math.min((room * wide * aspect) / across, even * stretch);
  const ky = Math.min(room / down, even * stretch);
  return strokes.map((stroke) => stroke.map(([x, y]) => [(x - (left + right) / 2) * kx + aspect / 2, (y - (top + bottom) / 2) * ky + 0.5]));
}

/** How much of every pixel lies within `radius` of a stroke: by the distance of its middle, which is right to a few hundredths. */
function rasterised(strokes, height, width, radius) {
  const pixels = new Float32Array(height * width);
  const reach = radius * height;
  for (const stroke of strokes) {
    for (let i = 0; i < stroke.length; i++) {
      const [ax, ay] = stroke[Math.max(0, i - 1)].map((v) => v * height);
      const [bx, by] = stroke[i].map((v) => v * height);
      const [dx, dy] = [bx - ax, by - ay];
      const long = dx * dx + dy * dy;
      const from = (a, b) => Math.max(0, Math.floor(Math.min(a, b) - reach - 1));
      const to = (a, b, most) => Math.min(most - 1, Math.ceil(Math.max(a, b) + reach + 1));
      for (let y = from(ay, by); y <= to(ay, by, height); y++) {
        for (let x = from(ax, bx); x <= to(ax, bx, width); x++) {
          const [px, py] = [x + 0.5 - ax, y + 0.5 - ay];
          const t = long ? Math.min(1, Math.max(0, (px * dx + py * dy) / long)) : 0;
          const ink = Math.min(1, Math.max(0, reach - Math.hypot(px - t * dx, py - t * dy) + 0.5));
          if (ink > pixels[y * width + x]) pixels[y * width + x] = ink;
        }
      }
    }
  }
  return pixels;
}

function towardsCentre(pixels, height, width) {
  let [sum, x, y] = [0, 0, 0];
  pixels.forEach((ink, i) => {
    sum += ink;
    x += ink * ((i % width) + 0.5);
    y += ink * (Math.floor(i / width) + 0.5);
  });
  return sum ? [(width / 2 - x / sum) / height, (height / 2 - y / sum) / height] : [0, 0];
}

/** Means of cells, enlarged again by interpolating cubic splines, edges repeated: scipy.ndimage.zoom(order=3, mode="nearest", grid_mode=True). */
export function scanned(pixels, height, width, cell) {
  const [rows, columns] = [height / cell, width / cell];
  const small = new Float64Array(rows * columns);
  pixels.forEach((ink, i) => {
    const [row, column] = [Math.floor(i / width / cell), Math.floor((i % width) / cell)];
    small[row * columns + column] += ink / cell ** 2;
  });
  const wide = new Float64Array(rows * width);
  for (let r = 0; r < rows; r++) wide.set(enlarged(small.subarray(r * columns, (r + 1) * columns), cell), r * width);
  const large = new Float32Array(height * width);
  for (let x = 0; x < width; x++) {
    const column = enlarged(Float64Array.from({ length: rows }, (_, r) => wide[r * width + x]), cell);
    column.forEach((value, y) => (large[y * width + x] = Math.min(1, Math.max(0, value))));
  }
  return large;
}

/** One line of samples, `times` as many, by a cubic B-spline through them. */
function enlarged(values, times) {
  const pad = 12; // the spline's memory of what is so far away is 0.27^12
  const n = values.length + 2 * pad;
  const c = Float64Array.from({ length: n }, (_, i) => 6 * values[Math.min(values.length - 1, Math.max(0, i - pad))]);
  const pole = Math.sqrt(3) - 2;
  c[0] /= 1 - pole;
  for (let i = 1; i < n; i++) c[i] += pole * c[i - 1];
  c[n - 1] *= -pole / (1 - pole);
  for (let i = n - 2; i >= 0; i--) c[i] = pole * (c[i + 1] - c[i]);
  return Float64Array.from({ length: values.length * times }, (_, i) => {
    const at = (i + 0.5) / times - 0.5 + pad;
    const k = Math.floor(at);
    const t = at - k;
    return ((1 - t) ** 3 * c[k - 1] + (3 * t ** 3 - 6 * t ** 2 + 4) * c[k] + (-3 * t ** 3 + 3 * t ** 2 + 3 * t + 1) * c[k + 1] + t ** 3 * c[k + 2]) / 6;
  });
}
