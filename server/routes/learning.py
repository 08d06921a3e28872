"""Learning over HTTP: labelled or unlabelled samples become a job that makes a user's next revision.

    POST    /v1/models/<task>/signatures/<user>/personalize     samples and labels; ?parts=… of ``Kind.moves``
    POST    /v1/models/<task>/signatures/<user>/adapt           unlabelled samples; ?method=auto
    GET     /v1/models/<task>/signatures/<user>/jobs            a user's jobs, newest first
    GET     /v1/jobs/<id>                                       state and progress of a job
    DELETE  /v1/jobs/<id>                                       cancel a job

Bodies have the form of ``infer``'s, JSON or binary, with a second input ``label`` for labels. The answer is 202 and the job.
``Prefer: wait=10`` (RFC 7240) waits up to that many seconds for the job to end, unless too many requests wait already. Samples are
kept in memory only, until the job has learned from them or is cancelled.
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
from isoform.runtime.samples.account import plural
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
"""Longest wait for a job, whatever ``Prefer`` says."""
POLL_SECONDS = 0.05


@blueprint.post("/models/<task>/signatures/<user>/personalize")
def personalize(task: str, user: str) -> Response:
    """Start a job that fits a signature to labelled samples, from the user's newest revision or else the task's base signature.

    Raises:
        InputError: If the samples or labels are malformed.
        UsageError: If ``parts`` names unknown parts.
    """
    runtime = get_service().runtime
    check_user(task, user)
    known = tuple(runtime.bundle.kind.moves)
    parts = tuple(request.args["parts"].split(",")) if "parts" in request.args else None
    if parts is not None and (not set(parts) <= set(known) or len(set(parts)) != len(parts)):
        raise UsageError(f"parts is {request.args['parts'][:80]!r}, but a subset of {','.join(known)} was expected")
    x, labels = _examples(task, user, labelled=True)
    start, expect = _start(task, user, samples=len(x))
    names = runtime.labels(start)
    indices = label_indices(labels, names, samples=len(x))  # here, so that bad labels are a 400 and not a failed job
    # The network's own strings: the body's would stay in memory, uncounted, for as long as the job waits.
    labels = [names[index] for index in indices]

    def learn(progress: Progress) -> tuple[Signature, str]:
        def report(found: Report) -> None:
            progress(found.step, found.steps)

        outcome = runtime.fit(x, labels, start, parts=parts, progress=report)
        return outcome.signature, outcome.sentence()

    return _submitted(task, user, "personalize", start, expect, learn)


@blueprint.post("/models/<task>/signatures/<user>/adapt")
def adapt(task: str, user: str) -> Response:
    """Start a job that adapts a signature to unlabelled samples, from the user's newest revision or else the task's base signature.

    Raises:
        InputError: If the samples are malformed or missing.
        UsageError: If the method is unknown.
    """
    runtime = get_service().runtime
    check_user(task, user)
    method = request.args.get("method", "auto")
    if method not in METHODS:
        raise UsageError(f"method is {method[:80]!r}, but one of {', '.join(METHODS)} was expected")
    x, _ = _examples(task, user, labelled=False)
    start, expect = _start(task, user, samples=len(x))
    if len(x) == 0:
        raise InputError("$.inputs[0]: at least one sample was expected, but the shape has none")

    def learn(progress: Progress) -> tuple[Signature, str]:
        found = runtime.adapt(x, start, method=method, progress=progress)
        what = "adapted to" if found.digest != start.digest else "no improvement over the start from"
        return found, f"{what} {plural(len(x), 'sample')} by {method}"

    return _submitted(task, user, "adapt", start, expect, learn)


@blueprint.get("/models/<task>/signatures/<user>/jobs")
def jobs(task: str, user: str) -> dict[str, Any]:
    """A user's jobs of the last week, newest first; at most 100."""
    check_user(task, user, unloaded=True)
    return {"jobs": [_description(job) for job in get_service().ledger.listed(task, user)]}


@blueprint.get("/jobs/<identity>")
def job(identity: str) -> dict[str, Any]:
    """State and progress of a job."""
    return _description(_find(identity))


@blueprint.delete("/jobs/<identity>")
def cancel(identity: str) -> dict[str, Any]:
    """Cancel a job; one that has already ended is left unchanged."""
    _find(identity)  # before cancelling: another user's job is 404
    service = get_service()
    service.ledger.cancel(identity)
    service.worker.look()  # free the job's samples now and not at the next poll
    return _description(_find(identity))


def _examples(task: str, user: str, *, labelled: bool) -> tuple[Array, list[str] | list[int]]:
    """The samples of this request, checked and as a C-contiguous array, and their labels."""
    service = get_service()
    takes = service.runtime.input_of(task)
    with service.memory.share() as share:
        body = read_body(request.environ, limit=service.settings.max_body_bytes, hold=share.hold)
        samples, labels = decode_examples(
            body, takes=takes, json_bytes=json_bytes(request.environ), labelled=labelled, bounds=share
        )
        # A copy: a view would keep the whole body in memory for as long as the job has the samples.
        samples = np.array(service.runtime.checked(samples, task))
    # After the request's own share is released, or the samples would count twice.
    service.memory.keep(samples, _whose(task, user))
    return samples, labels


def _start(task: str, user: str, *, samples: int) -> tuple[Signature, int]:
    """The signature from which a job starts, and its revision; 0 for the task's base signature.

    Raises:
        TooLargeError: If the logits of the samples exceed half of ``max_answer_bytes``: learning holds about ten arrays of that size.
    """
    service = get_service()
    newest = service.users.store.newest(task, user)
    expected_revision(newest)
    start = service.runtime.signature(task) if newest is None else service.users.signature(newest)
    classes, most = len(service.runtime.labels(start)), service.settings.max_answer_bytes // 2
    if 4 * samples * classes > most:
        raise TooLargeError(
            f"the logits of {samples:,} samples of {classes:,} classes take {4 * samples * classes:,} bytes, but the limit for a job "
            f"is {most:,}; send fewer samples"
        )
    return start, 0 if newest is None else newest.revision


def _submitted(task: str, user: str, action: str, start: Signature, expect: int, learn: Learn) -> Response:
    service = get_service()
    if service.draining.begun:
        raise BusyError("the server is shutting down; send the request again")
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
    except ConflictError as problem:  # another request wrote or deleted a revision since ``_start`` read it
        conditional = "If-Match" in request.headers or "If-None-Match" in request.headers
        raise (PreconditionError(str(problem)) if conditional else problem) from None
    patience = _patience()
    if patience and service.waiters.acquire(blocking=False):  # waiting blocks a thread: only some of them may
        try:
            until = time.monotonic() + patience
            while found.open and time.monotonic() < until:
                time.sleep(POLL_SECONDS)
                found = service.ledger.find(found.id) or found
        except StoreError:  # the job continues while the database is down; the client can poll it later
            pass
        finally:
            service.waiters.release()
    response = jsonify(_description(found))
    response.status_code = 202 if found.open else 200
    response.headers["Location"] = f"/v1/jobs/{found.id}"
    return response


def _whose(task: str, user: str) -> str:
    """The owner of a share of the jobs' memory and places: the caller, or each user where there is no access control."""
    return caller_id() or f"{task}/{user}"


def _patience() -> float:
    # RFC 7240: a comma-separated list of preferences, of which a server may ignore any, so nothing here is an error.
    wanted = re.search(r"(?:^|[,;\s])wait=(\d{1,9})", request.headers.get("Prefer", ""))
    return float(min(WAIT_SECONDS, int(wanted[1]))) if wanted else 0.0


def _find(identity: str) -> Job:
    found = get_service().ledger.find(identity) if re.fullmatch(r"[0-9a-f]{32}", identity) else None
    if found is None or not may_write(found.user):
        raise NotFoundError(f"there is no job {identity[:64]!r}")  # the same for another user's: its id is not revealed
    return found


def _description(job: Job) -> dict[str, Any]:
    return {
        "id": job.id, "task": job.task, "signature": job.user, "action": job.action, "actor": job.actor, "state": job.state,
        "step": job.step, "steps": job.steps, "revision": job.revision, "message": job.message, "created": moment(job.created),
        "updated": moment(job.updated),
    }  # fmt: skip
