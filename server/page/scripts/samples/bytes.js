// Bytes of a file that is not too large, and its text.

const MOST = 200_000_000;
const UTF_8 = "utf-8";
const MARKS = [[[0xef, 0xbb, 0xbf], UTF_8], [[0xff, 0xfe, 0, 0], "utf-32le"], [[0, 0, 0xfe, 0xff], "utf-32be"], [[0xff, 0xfe], "utf-16le"], [[0xfe, 0xff], "utf-16be"]];

/** The bytes of a file, an ArrayBuffer. Raises an Error with a line for the reader if it is too large. */
export async function bytesOf(file) {
  if (file.size > MOST) throw new Error(`${file.name} has ${Math.ceil(file.size / 1e6)} MB, but at most ${MOST / 1e6} are read here; cut it, or use 'isoform predict'`);
  return file.arrayBuffer();
}

/** The text of a file's bytes, without its byte order mark: UTF-8, or UTF-16 or UTF-32 with a mark, or UTF-16 that begins like a table. */
export function textOf(bytes, name) {
  const head = [...new Uint8Array(bytes, 0, Math.min(4, bytes.byteLength))];
  const encoding = MARKS.find(([mark]) => mark.every((byte, i) => byte === head[i]))?.[1] ?? unmarked(head);
  try {
    return encoding.startsWith("utf-32") ? wide(new DataView(bytes), encoding === "utf-32le") : new TextDecoder(encoding, { fatal: true }).decode(bytes);
  } catch {
    throw new Error(`${name} is not ${encoding.toUpperCase()} text; save it as UTF-8`);
  }
}

/** Text has no NUL characters: two NUL bytes in four are UTF-16 without a mark. */
function unmarked(head) {
  const zeros = head.filter((byte) => byte === 0).length;
  return head.length === 4 && zeros === 2 ? (head[0] === 0 ? "utf-16be" : "utf-16le") : UTF_8;
}

/** UTF-32, which TextDecoder does not know. Raises a RangeError where there is no character. */
function wide(view, little) {
  const parts = [];
  for (let at = 4; at < view.byteLength; at += 4) {
    const code = view.getUint32(at, little);
    if (code >= 0xd800 && code < 0xe000) throw new RangeError("a surrogate is no character");
    parts.push(String.fromCodePoint(code));
  }
  return parts.join("");
}
