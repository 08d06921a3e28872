"""Learning over HTTP: a few labelled samples, or unlabelled ones, make a user's next revision.

    POST    /v1/models/<task>/signatures/<user>/personalize     samples and labels; ?parts=… of ``Kind.moves``
    POST    /v1/models/<task>/signatures/<user>/adapt           samples alone; ?method=auto
    GET     /v1/models/<task>/signatures/<user>/jobs            a user's jobs, newest first
    GET     /v1/jobs/<id>                                       how one is
    DELETE  /v1/jobs/<id>                                       cancel it

A body is what ``infer`` takes, JSON or binary, with a second input ``label`` where there are labels. The answer is 202 and a job;
``Prefer: wait=10`` (RFC 7240) waits so many seconds for it to end first, unless too many wait already. Samples are held in memory until
they are learned from or the job is cancelled, and nowhere else.
"""

from __future__ import annotations

import re
import time
from typing import Any

import numpy as np
from flask import Blueprint, Response, jsonify, request

from isoform.runtime.adapt.registry import METHODS
from isoform.runtime.arrays import Array
from isoform.runtime.errors import ConflictError, InputError, StoreError, UsageError
from isoform.runtime.formats.signature import Signature
from isoform.runtime.learn.labels import label_indices
from isoform.runtime.learn.outcome import Report
from isoform.server.access.guard import actor, caller_id, may_write
from isoform.server.exchange.body import read_body
from isoform.server.exchange.problems import BusyError, NotFoundError, PreconditionError, TooLargeError
from isoform.server.protocol.request import decode_examples
from isoform.server.routes.inference import json_bytes
from isoform.server.routes.signatures import check_user, expected_revision
from isoform.server.service.service import get_service
from isoform.server.service.worker import Learn, Progress
from isoform.server.store.ledger import Job
from isoform.server.store.store import moment

__all__ = ["blueprint"]

blueprint = Blueprint("learning", __name__, url_prefix="/v1")

WAIT_SECONDS = 60
"""Longer than this nobody is kept waiting."""
POLL_SECONDS = 0.05


@blueprint.post("/models/<task>/signatures/<user>/personalize")
def personalize(task: str, user: str) -> Response:
    """Fit to labelled samples, beginning from the user's newest signature, or from the task's base.

    Raises:
        InputError: If they or their labels are malformed.
        UsageError: If there are no such parts.
    """
    runtime = get_service().runtime
    check_user(task, user)
    known = tuple(runtime.bundle.kind.moves)
    parts = tuple(request.args["parts"].split(",")) if "parts" in request.args else known
    if not set(parts) <= set(known) or len(set(parts)) != len(parts):
        raise UsageError(f"parts is {request.args['parts'][:80]!r}, but some of {','.join(known)} were expected")
    x, labels = _examples(task, user, labelled=True)
    start, expect = _start(task, user, samples=len(x))
    names = runtime.labels(start)
    indices = label_indices(labels, names, samples=len(x))  # what is wrong with them is said now
    # The network's own texts: those of the body would be kept for as long as the job waits, and are not counted.
    labels = [names[index] for index in indices]

    def learn(progress: Progress) -> tuple[Signature, str]:
        def report(found: Report) -> None:
            progress(found.step, found.steps)

        outcome = runtime.fit(x, labels, start, parts=parts, progress=report)
        return outcome.signature, outcome.sentence()

    return _submitted(task, user, "personalize", start, expect, learn)


@blueprint.post("/models/<task>/signatures/<user>/adapt")
def adapt(task: str, user: str) -> Response:
    """Fit to unlabelled samples, beginning from the user's newest signature, or from the task's base.

    Raises:
        InputError: If they are malformed, or there are none.
        UsageError: If there is no such method.
    """
    runtime = get_service().runtime
    check_user(task, user)
    method = request.args.get("method", "auto")
    if method not in METHODS:
        raise UsageError(f"the method is {method[:80]!r}, but one of {', '.join(METHODS)} was expected")
    x, _ = _examples(task, user, labelled=False)
    start, expect = _start(task, user, samples=len(x))
    if len(x) == 0:
        raise InputError("$.inputs[0]: there are no samples, but one at least was expected")

    def learn(progress: Progress) -> tuple[Signature, str]:
        found = runtime.adapt(x, start, method=method, progress=progress)
        what = "adapted to" if found.digest != start.digest else "nothing better than its start came of"
        return found, f"{what} {len(x)} samples by {method}"

    return _submitted(task, user, "adapt", start, expect, learn)


@blueprint.get("/models/<task>/signatures/<user>/jobs")
def jobs(task: str, user: str) -> dict[str, Any]:
    """A user's jobs, newest first; at most 100, of the last week."""
    check_user(task, user, unloaded=True)
    return {"jobs": [_description(job) for job in get_service().ledger.listed(task, user)]}


@blueprint.get("/jobs/<identity>")
def job(identity: str) -> dict[str, Any]:
    """How a job is."""
    return _description(_find(identity))


@blueprint.delete("/jobs/<identity>")
def cancel(identity: str) -> dict[str, Any]:
    """Cancel a job that has not ended; one that has stays as it is."""
    _find(identity)
    service = get_service()
    service.ledger.cancel(identity)
    service.worker.look()
    return _description(_find(identity))


def _examples(task: str, user: str, *, labelled: bool) -> tuple[Array, list[str] | list[int]]:
    """This request's samples, as every engine needs them, and their labels."""
    service = get_service()
    takes = service.runtime.input_of(task)
    with service.memory.share() as share:
        body = read_body(request.environ, limit=service.settings.max_body_bytes, hold=share.hold)
        samples, labels = decode_examples(
            body, takes=takes, json_bytes=json_bytes(request.environ), labelled=labelled, bounds=share
        )
        # A view of the body would keep all of the body for as long as the job has it.
        samples = np.array(service.runtime.checked(samples, task))
    service.memory.keep(samples, _whose(task, user))
    return samples, labels


def _start(task: str, user: str, *, samples: int) -> tuple[Signature, int]:
    """What learning begins from, and the revision that this is; 0 for the task's base signature.

    Raises:
        TooLargeError: If its logits for so many samples take over half of what those of an answer may: learning has ten arrays of that size.
    """
    service = get_service()
    newest = service.users.store.newest(task, user)
    expected_revision(newest)
    start = service.runtime.signature(task) if newest is None else service.users.signature(newest)
    classes, most = len(service.runtime.labels(start)), service.settings.max_answer_bytes // 2
    if 4 * samples * classes > most:
        raise TooLargeError(
            f"the logits of {samples:,} samples of {classes:,} classes take {4 * samples * classes:,} bytes, but those of a job "
            f"may take {most:,}; send fewer samples"
        )
    return start, 0 if newest is None else newest.revision


def _submitted(task: str, user: str, action: str, start: Signature, expect: int, learn: Learn) -> Response:
    service = get_service()
    if service.draining.begun:
        raise BusyError("the server is about to stop; send it again")
    try:
        found = service.worker.submit(
            task,
            user,
            action=action,
            actor=actor(),
            caller=_whose(task, user),
            begun=(expect, start.digest),
            learn=learn,
        )
    except ConflictError as problem:  # somebody wrote or deleted since this request was read
        conditional = "If-Match" in request.headers or "If-None-Match" in request.headers
        raise (PreconditionError(str(problem)) if conditional else problem) from None
    patience = _patience()
    if patience and service.waiters.acquire(blocking=False):  # a few may keep a thread waiting, never all of them
        try:
            until = time.monotonic() + patience
            while found.open and time.monotonic() < until:
                time.sleep(POLL_SECONDS)
                found = service.ledger.find(found.id) or found
        except StoreError:  # the job goes on while the database is away: it can be asked for later
            pass
        finally:
            service.waiters.release()
    response = jsonify(_description(found))
    response.status_code = 202 if found.open else 200
    response.headers["Location"] = f"/v1/jobs/{found.id}"
    return response


def _whose(task: str, user: str) -> str:
    """Who has a share of what jobs may take: the caller; where nobody is told from anybody, each user."""
    return caller_id() or f"{task}/{user}"


def _patience() -> float:
    wanted = re.search(r"(?:^|[,;\s])wait=(\d{1,9})", request.headers.get("Prefer", ""))
    return float(min(WAIT_SECONDS, int(wanted[1]))) if wanted else 0.0


def _find(identity: str) -> Job:
    found = get_service().ledger.find(identity) if re.fullmatch(r"[0-9a-f]{32}", identity) else None
    if found is None or not may_write(found.user):
        raise NotFoundError(f"there is no job {identity[:64]!r}")
    return found


def _description(job: Job) -> dict[str, Any]:
    return {
        "id": job.id, "task": job.task, "signature": job.user, "action": job.action, "actor": job.actor, "state": job.state,
        "step": job.step, "steps": job.steps, "revision": job.revision, "message": job.message, "created": moment(job.created),
        "updated": moment(job.updated),
    }  # fmt: skip
