// A user's revisions, and undo. The history is read from the server and not kept here, so undo works after a reload, and for revisions
// of other clients.

import { forget, revisions, rollback } from "./api.js";
import { element } from "./charts.js";
import { attempt, latest } from "./state.js";

/**
 * What undoing would do.
 *
 * newestFirst: revisions as the server lists them; complete: whether that is all of them.
 * Returns {revision} to go back to; {} to delete what there is, because nothing was there before; null if that cannot be known.
 *
 * Every revision is a step on a path, and a rollback goes back along it: its digest is looked for where the path came from.
 */
export function undoOf(newestFirst, complete) {
  const path = [];
  for (const made of [...newestFirst].reverse()) {
    const before = made.action === "rollback" ? path.findLastIndex((step) => step.digest === made.digest) : -1;
    if (before >= 0) path.length = before;
    path.push(made);
  }
  if (path.length > 1) {
    const target = path.at(-2);
    return target.kept ? { revision: target.revision } : null;
  }
  return path.length === 1 && complete ? {} : null;
}

const WORDS = { put: "uploaded as a file", adapt: "adapted without labels", rollback: "rolled back" };

/** Show the newest revisions, and the button that undoes. `place` has .undo (a button), .undoes and .history. */
export function showRevisions(place, state) {
  const [undo, undoes, history] = [".undo", ".undoes", ".history"].map((name) => place.querySelector(name));
  const once = latest();
  let newest = null;
  let target = null;

  state.on(["task", "user", "version", "exists"], () => attempt("revisions", () => once(show)));
  undo.addEventListener("click", () => attempt("undo", goBack));

  async function show(_, still) {
    const [task, user] = [state.get("task"), state.get("user")];
    const found = user && state.get("exists") ? await revisions(task, user).catch(refusedIsEmpty) : { revisions: [], next: null };
    if (!still()) return;
    newest = found.revisions[0] ?? null;
    target = undoOf(found.revisions, found.next === null);
    undo.disabled = target === null;
    undoes.textContent = !newest ? "" : target === null ? "What was there before is no longer kept." : target.revision ? `Back to revision ${target.revision}.` : `Back to the base: ${user}’s signature is deleted.`;
    history.replaceChildren(...found.revisions.slice(0, 6).map(row));
  }

  function row(made) {
    const what = made.action === "personalize" ? `learned from labelled ${state.get("words").many}` : (WORDS[made.action] ?? made.action);
    const when = new Date(made.created).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
    return element("li", {}, element("b", {}, String(made.revision)), ` ${what}`, element("time", { datetime: made.created }, `, ${when}`), " · ", element("code", { title: made.digest }, made.digest.slice(0, 12)));
  }

  async function goBack() {
    const [task, user, before, to] = [state.get("task"), state.get("user"), newest, target];
    const here = state.here();
    undo.disabled = true;
    try {
      if (to.revision) {
        await rollback(task, user, to.revision, before);
      } else {
        await forget(task, user, before);
        if (task === state.get("task")) state.set({ exists: state.get("exists") && !here(), known: state.get("known")?.filter((name) => name !== user) ?? null });
      }
    } finally {
      state.renew();
    }
    if (here()) place.dispatchEvent(new CustomEvent("undone"));
  }
}

/** A key that may only predict with a user's signature may not read its history. */
function refusedIsEmpty(problem) {
  if (problem.status === 403 || problem.status === 404) return { revisions: [], next: null };
  throw problem;
}
