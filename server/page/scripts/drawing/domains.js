// The four domains of the quickstart: the same drawing seen through another camera, as train/data/domains.py does it.
//
// Pure functions of (pixels, height, width): Float32Array in 0..1, row by row, to a fresh one. Lengths are stated for a height of 32.

/** The drawing as it is. */
const plain = (pixels) => Float32Array.from(pixels);

/** 1 - x: the ink becomes the paper. */
const inverted = (pixels) => pixels.map((ink) => 1 - ink);

/** Gaussian blur, σ = 2, edges repeated, cut at 4 σ. */
function blurred(pixels, height, width) {
  const sigma = (2 * height) / 32;
  const reach = Math.floor(4 * sigma + 0.5);
  const weights = Array.from({ length: 2 * reach + 1 }, (_, i) => Math.exp(-((i - reach) ** 2) / (2 * sigma ** 2)));
  const sum = weights.reduce((a, b) => a + b, 0);
  const pass = (read) => {
    const out = new Float64Array(height * width);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        let value = 0;
        for (let k = -reach; k <= reach; k++) value += weights[k + reach] * read(y, x, k);
        out[y * width + x] = value / sum;
      }
    }
    return out;
  };
  const down = pass((y, x, k) => pixels[clamp(y + k, height) * width + x]);
  return Float32Array.from(pass((y, x, k) => down[y * width + clamp(x + k, width)]));
}

/** Sobel gradient magnitude, divided by 4 and clipped, edges repeated. */
function edges(pixels, height, width) {
  const at = (y, x) => pixels[clamp(y, height) * width + clamp(x, width)];
  return pixels.map((_, i) => {
    const [y, x] = [Math.floor(i / width), i % width];
    let [across, down] = [0, 0];
    for (const [k, weight] of [[-1, 1], [0, 2], [1, 1]]) {
      across += weight * (at(y + k, x + 1) - at(y + k, x - 1));
      down += weight * (at(y + 1, x + k) - at(y - 1, x + k));
    }
    return Math.min(1, Math.hypot(across, down) / 4);
  });
}

const clamp = (value, size) => Math.min(size - 1, Math.max(0, value));

/** Name → function, and what it is in a few words. */
export const DOMAINS = {
  plain: { render: plain, about: "as drawn" },
  inverted: { render: inverted, about: "ink and paper change places" },
  blurred: { render: blurred, about: "out of focus" },
  edges: { render: edges, about: "outlines alone" },
};
