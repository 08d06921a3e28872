// Picture files and video frames → samples, as runtime/samples/pictures does it: the whole picture, however long and wide, becomes the
// network's height × width; transparent pixels lie on black; colour profiles are ignored; values are 0 to 1, channels first.
//
// The browser only decodes. Grey and resizing are Pillow's own arithmetic, because a canvas interpolates differently in every browser; so an
// opaque PNG of 8 bits gives the runtime's numbers. JPEGs, half-transparent pixels and 16 bits differ by how the browser rounds, and pictures
// of more than 2^22 pixels a little more, because the runtime reduces them by whole factors first.

const MOST = 50_000_000; // pixels: 200 MB while it is read

/** One picture file as a sample of `shape`: channels (1 or 3), height, width. Raises an Error with a line for the reader. */
export async function readPicture(file, shape) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", imageOrientation: "from-image" });
  } catch {
    throw new Error(`${file.name} is not a picture that this browser can read; JPEG, PNG, WebP, GIF or BMP was expected`);
  }
  try {
    return pictured(bitmap, bitmap.width, bitmap.height, shape, file.name);
  } finally {
    bitmap.close();
  }
}

/** What a canvas can draw, `wide` × `high` pixels, as a sample. */
export function pictured(source, wide, high, [channels, height, width], name) {
  if (wide * high > MOST) throw new Error(`${name} has ${wide} × ${high} pixels, but at most ${MOST / 1e6} million are read; make it smaller`);
  const canvas = new OffscreenCanvas(wide, high);
  const context = canvas.getContext("2d", { willReadFrequently: true, colorSpace: "srgb" });
  context.fillStyle = "#000";
  context.fillRect(0, 0, wide, high);
  context.drawImage(source, 0, 0);
  const { data } = context.getImageData(0, 0, wide, high);
  const sample = new Float32Array(channels * height * width);
  for (let c = 0; c < channels; c++) {
    const plane = channels === 1 ? grey(data) : channelOf(data, c);
    sample.set(resized(plane, high, wide, height, width), c * height * width);
  }
  return sample;
}

/** Luma of ITU-R 601-2 in whole numbers, as Pillow converts RGB to L. */
function grey(data) {
  const plane = new Uint8Array(data.length / 4);
  for (let i = 0; i < plane.length; i++) plane[i] = (data[4 * i] * 19595 + data[4 * i + 1] * 38470 + data[4 * i + 2] * 7471 + 0x8000) >> 16;
  return plane;
}

function channelOf(data, c) {
  const plane = new Uint8Array(data.length / 4);
  for (let i = 0; i < plane.length; i++) plane[i] = data[4 * i + c];
  return plane;
}

/** A plane of 0 to 255 as height × width numbers of 0 to 1: bilinear, and where it shrinks, the mean of all pixels below the triangle. */
function resized(plane, high, wide, height, width) {
  const [across, down] = [weights(wide, width), weights(high, height)];
  const narrow = new Float32Array(high * width);
  for (let y = 0; y < high; y++) {
    for (let x = 0; x < width; x++) {
      const { from, parts } = across[x];
      let sum = 0;
      for (let k = 0; k < parts.length; k++) sum += parts[k] * plane[y * wide + from + k];
      narrow[y * width + x] = sum / 255;
    }
  }
  const made = new Float32Array(height * width);
  for (let y = 0; y < height; y++) {
    const { from, parts } = down[y];
    for (let x = 0; x < width; x++) {
      let sum = 0;
      for (let k = 0; k < parts.length; k++) sum += parts[k] * narrow[(from + k) * width + x];
      made[y * width + x] = sum;
    }
  }
  return made;
}

/** For every new pixel of a line, the old ones that it is made of, and their weights, which add up to 1. */
function weights(before, after) {
  const scale = before / after;
  const reach = Math.max(1, scale);
  return Array.from({ length: after }, (_, i) => {
    const centre = (i + 0.5) * scale;
    const from = Math.max(0, Math.trunc(centre - reach + 0.5));
    const to = Math.min(before, Math.trunc(centre + reach + 0.5));
    const parts = Float64Array.from({ length: to - from }, (_, k) => Math.max(0, 1 - Math.abs((from + k - centre + 0.5) / reach)));
    const sum = parts.reduce((a, b) => a + b, 0);
    return { from, parts: parts.map((part) => part / sum) };
  });
}
