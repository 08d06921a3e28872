// Client of the server's API. A refused request throws a Refused with the server's message, or with an empty one if the server needs a
// key and none was sent: then the page asks for one.
//
// The key, if the server needs one, is kept for this tab (sessionStorage) and sent in a header, never in a URL.
// Samples are sent as binary tensors: the JSON first, then float32, little-endian, which is the byte order of every browser's machine.

const STORED = "isoform-key";

/** A refused request, with the server's one-line message. */
export class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.name = "Refused";
    this.status = status;
  }
}

/** Whether a key is kept. */
export const hasKey = () => sessionStorage.getItem(STORED) !== null;

/** Keep a key for this tab; an empty text forgets it. */
export function keepKey(text) {
  if (text) sessionStorage.setItem(STORED, text);
  else sessionStorage.removeItem(STORED);
}

async function ask(path, { method = "GET", body, headers = {}, signal } = {}) {
  const key = sessionStorage.getItem(STORED);
  const sent = { ...headers, ...(key === null ? {} : { Authorization: `Bearer ${key}` }) };
  let answer;
  try {
    answer = await fetch(new URL(path, document.baseURI), { method, body, headers: sent, signal, redirect: "error", cache: "no-store" });
  } catch (problem) {
    if (problem.name === "AbortError") throw problem;
    throw new Refused(0, "the server does not answer; is it still running?");
  }
  if (answer.ok) return answer.status === 204 ? null : answer.json();
  if (answer.status === 401) throw new Refused(401, key === null ? "" : "this server does not know that key, or it was revoked; type another");
  const told = await answer.json().catch(() => ({}));
  throw new Refused(answer.status, told.error ?? `the server answered ${answer.status}`);
}

const json = (value) => ({ body: JSON.stringify(value), headers: { "Content-Type": "application/json" } });
const model = (task) => `v1/models/${encodeURIComponent(task)}`;
const one = (task, user) => `${model(task)}/signatures/${encodeURIComponent(user)}`;

/** List the loaded tasks, by name. */
export async function tasks() {
  const found = await ask("v2/repository/index", { method: "POST", ...json({ ready: true }) });
  return found.map((entry) => entry.name);
}

const names = new Map(); // task → name of its input

/** Metadata of a task: {shape, of one sample; what, the type of its input; labels; reading, how samples are read from files}. */
export async function metadata(task) {
  const { inputs, parameters } = await ask(`v2/models/${encodeURIComponent(task)}`);
  names.set(task, inputs[0].name);
  return { shape: inputs[0].shape.slice(1), what: parameters.what, labels: JSON.parse(parameters.labels), reading: JSON.parse(parameters.reading) };
}

async function inputOf(task) {
  if (!names.has(task)) await metadata(task);
  return names.get(task);
}

/** The mixture of every layer; of the task's base signature if no user is named. */
export const templates = (task, user) => ask(`${model(task)}/templates${user ? `?signature=${encodeURIComponent(user)}` : ""}`);

/** Whether the server has a store for users' signatures. */
export const keepsUsers = async () => (await ask("v2")).extensions.includes("signatures");

/** Users of a task: {signatures, next}. Only an administrator may ask. */
export const users = (task) => ask(`${model(task)}/signatures?limit=200`);

/** A user's revisions, newest first: {revisions, next}. */
export const revisions = (task, user) => ask(`${one(task, user)}/revisions?limit=100`);

const MOST_BYTES = Number(document.querySelector("meta[name=max-body-bytes]").content); // of a request, as this server was told
const BATCH_BYTES = Math.min(4 << 20, MOST_BYTES / 2);

/** A request with samples. Raises an Error with a line for the reader if one is of another size, or all are more than a server reads. */
function tensors(name, samples, shape, more) {
  const count = samples.length;
  const size = shape.reduce((a, b) => a * b, 1);
  const odd = samples.find((sample) => sample.length !== size);
  if (odd) throw new Error(`a sample has ${odd.length} numbers, but the network takes ${shape.join(" × ")}; give it again`);
  const tensor = { name, datatype: "FP32", shape: [count, ...shape], parameters: { binary_data_size: 4 * count * size } };
  const { inputs = [], ...rest } = more;
  const head = new TextEncoder().encode(JSON.stringify({ ...rest, inputs: [tensor, ...inputs] }));
  const room = Math.max(0, Math.floor((MOST_BYTES - head.length) / (4 * size)));
  if (count > room) throw new Error(`at most ${room} samples of this size fit into a request of ${MOST_BYTES >> 20} MiB, but there are ${count}; remove some`);
  const body = new Uint8Array(head.length + 4 * count * size);
  body.set(head);
  samples.forEach((sample, i) => body.set(new Uint8Array(sample.buffer, sample.byteOffset, sample.byteLength), head.length + 4 * i * size));
  return {
    method: "POST",
    body,
    headers: { "Content-Type": "application/octet-stream", "Inference-Header-Content-Length": String(head.length) },
  };
}

/**
 * Predict; many samples by several requests.
 *
 * samples: an array of Float32Array, each one sample as `shape`; user: null for the task's own network.
 * Returns {whose: {signature?, revision?, digest}, answers: [{label, probabilities}]}; of no samples, {whose: {}, answers: []}.
 */
export async function infer(task, user, samples, shape, signal) {
  const size = Math.max(1, Math.floor(BATCH_BYTES / (4 * shape.reduce((a, b) => a * b, 1))));
  let found = { whose: {}, answers: [] };
  for (let from = 0; from < samples.length; from += size) {
    const { whose, answers } = await inferBatch(task, user, samples.slice(from, from + size), shape, signal);
    found = { whose, answers: [...found.answers, ...answers] };
  }
  return found;
}

async function inferBatch(task, user, samples, shape, signal) {
  const wanted = { outputs: [{ name: "probabilities" }, { name: "label" }], ...(user ? { parameters: { signature: user } } : {}) };
  const found = await ask(`v2/models/${encodeURIComponent(task)}/infer`, { ...tensors(await inputOf(task), samples, shape, wanted), signal });
  const [probabilities, labels] = found.outputs;
  const classes = probabilities.shape[1];
  const answers = labels.data.map((label, i) => ({ label, probabilities: probabilities.data.slice(i * classes, (i + 1) * classes) }));
  return { whose: found.parameters, answers };
}

/** Prepare a job that learns from samples and their labels. Returns a function that starts it. Raises an Error as `tensors` does. */
export async function lesson(task, user, samples, labels, shape) {
  const label = { name: "label", datatype: "BYTES", shape: [labels.length], data: labels };
  const request = tensors(await inputOf(task), samples, shape, { inputs: [label] });
  return () => ask(`${one(task, user)}/personalize`, request);
}

/** State and progress of a job. */
export const job = (id) => ask(`v1/jobs/${id}`);

/** Cancel a job. */
export const cancel = (id) => ask(`v1/jobs/${id}`, { method: "DELETE" });

const tag = (revision) => ({ "If-Match": `"${revision.revision}-${revision.digest.slice(0, 16)}"` });

/** Roll back to revision `number`, if `newest` is still the newest. */
export function rollback(task, user, number, newest) {
  const { body, headers } = json({ revision: number });
  return ask(`${one(task, user)}/rollback`, { method: "POST", body, headers: { ...headers, ...tag(newest) } });
}

/** Delete a user's signature with all its revisions, if `newest` still is the newest. */
export const forget = (task, user, newest) => ask(one(task, user), { method: "DELETE", headers: tag(newest) });
