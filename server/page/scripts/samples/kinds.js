// Which kind of samples a network takes, and the page's words for it.
//
//   pictures     grey or RGB images; grey ones can be drawn, too
//   recordings   windows of one row: channels over time
//   sounds       spectrograms of one channel
//
// Vectors, tokens, open lengths and images of other channels are no kind: nothing on the page makes such samples.

/** Channels, height and width of a sample; windows (channels, steps) are images of one row. */
export const extent = (shape) => (shape.length === 2 ? [shape[0], 1, shape[1]] : shape);

/** The kind of samples of a task's metadata; null for others. */
export function kindOf({ what, shape, reading }) {
  if (!["image", "window"].includes(what) || shape.some((size) => size < 1)) return null;
  const [channels, height, width] = extent(shape);
  if (reading.sound) return channels === 1 && height === reading.sound.bands ? "sounds" : null;
  if (height === 1) return width > 1 ? "recordings" : null;
  return [1, 3].includes(channels) ? "pictures" : null;
}

/** The input of a task as a text: tasks whose texts are equal take the same samples. */
export const inputOf = (about) => JSON.stringify([kindOf(about), about.what, about.shape, about.reading]);

/** Whether samples can be drawn. */
export const drawable = (kind, shape) => kind === "pictures" && shape[0] === 1;

// `digits` is whether what is drawn is digits, of which the page has examples
const DRAWN = {
  digits: true, title: "Draw a digit", empty: "Draw a digit", one: "drawing", many: "drawings", skip: "To the drawing",
  files: "Pictures", accept: "image/*",
  teachTitle: "Teach it your hand",
  teach: "Draw, say what it is, and keep it: ten drawings are enough. Teach it your slanted 7, or that your 3 is called 8. The drawings stay in this tab, and are sent only to be answered and to learn from.",
  back: "Every second drawing of a digit is kept back, to check with",
};

const given = (one, many, held = one) => ({
  digits: false, one, many, skip: `To the ${many}`, empty: "Nothing is given yet", teachTitle: `Teach it your ${many}`,
  teach: `Choose a ${one}, say what it is, and keep it; ten are often enough. They stay in this tab, and are sent only to be answered and to learn from.`,
  back: `Every second ${held} of a class is kept back, to check with`,
});

const WORDS = {
  pictures: { ...given("photograph", "photographs"), title: "Give it photographs", files: "Photographs", accept: "image/*" },
  recordings: { ...given("window", "windows", "file"), teachTitle: "Teach it your recordings", title: "Give it recordings", files: "Recordings: CSV or TSV, columns by name", accept: ".csv,.tsv,.txt,text/csv,text/tab-separated-values" },
  sounds: { ...given("sound", "sounds", "file or recording"), title: "Give it sounds", files: "Sounds: WAV, or what else this browser reads", accept: "audio/*" },
};

// drawings of other things than digits
const SKETCHED = {
  ...DRAWN, digits: false, title: "Draw, or give pictures", empty: "Nothing is drawn yet",
  teach: WORDS.pictures.teach.replace("photograph", "drawing"), back: WORDS.pictures.back.replace("photograph", "drawing"),
};

const OTHERS = { ...given("sample", "samples"), title: "", files: "", accept: "" }; // where the page makes none

/** The page's words for a network's samples. */
export function wordsFor(kind, shape, labels) {
  if (kind === null) return OTHERS;
  if (!drawable(kind, shape)) return WORDS[kind];
  return labels.every((label) => /^[0-9]$/.test(label)) ? DRAWN : SKETCHED;
}

/** Describe the shape of a sample. */
export function sizeOf(kind, shape) {
  const [channels, height, width] = extent(shape);
  if (kind === "recordings") return `${channels} × ${width} numbers, channels and rows, as the network gets them`;
  if (kind === "sounds") return `${height} × ${width} numbers, bands and frames, as the network gets them`;
  return `${height} × ${width} pixels, as the network gets them`;
}
