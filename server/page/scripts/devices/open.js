// The camera or the microphone as a stream, and in a line why there is none.

const REASONS = {
  NotAllowedError: "was not allowed; allow it for this page in the browser’s settings",
  NotFoundError: "was not found; connect one, or give files",
  NotReadableError: "cannot be used; perhaps another program uses it",
};

/** Open a device; `what` is "camera" or "microphone", `wanted` what getUserMedia is asked for. Raises an Error with a line for the reader. */
export async function openDevice(what, wanted) {
  // browsers offer devices to pages from https and from this machine alone
  if (!navigator.mediaDevices?.getUserMedia) throw new Error(`the ${what} needs an https address, or this server on localhost; give files instead`);
  try {
    return await navigator.mediaDevices.getUserMedia(wanted);
  } catch (problem) {
    throw new Error(`the ${what} ${REASONS[problem.name] ?? `cannot be used: ${problem.message || problem.name}`}`);
  }
}

/** Switch a device off. */
export function closeDevice(stream) {
  for (const track of stream?.getTracks() ?? []) track.stop();
}
