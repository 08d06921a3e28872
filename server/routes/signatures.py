"""Users' signatures as resources: put, get, list, go back, delete.

Below ``/v1/models/<task>``:

    GET     …/signatures?after=NAME&limit=N          users of a task, by name
    PUT     …/signatures/<user>                      a signature file; a new revision
    GET     …/signatures/<user>                      what the newest revision is
    GET     …/signatures/<user>/file?revision=N      the file's bytes
    GET     …/signatures/<user>/revisions?before=N&limit=N
    POST    …/signatures/<user>/rollback             {"revision": N}; a new revision with that one's bytes
    DELETE  …/signatures/<user>                      every revision; open jobs are cancelled

Every answer for a user carries an ETag. ``If-Match`` lets a write happen only if that revision is still the newest, ``If-None-Match: *``
only if there is none; else 412. With an ``Idempotency-Key`` a write that is sent again is answered again, and not done again: 409 if what
it made was deleted meanwhile. A user who is deleted and put again goes on counting revisions, so that no number or ETag means two things.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, NoReturn

from flask import Blueprint, Response, jsonify, request

from isoform.runtime.errors import ConflictError, InputError, IsoformError, SignatureError, UsageError
from isoform.runtime.formats.signature import Signature, check_name
from isoform.server.access.guard import actor, caller_id, require_admin, require_write
from isoform.server.capacity.memory import Share
from isoform.server.exchange.body import read_body
from isoform.server.exchange.problems import NotFoundError, PreconditionError
from isoform.server.exchange.query import LAST, PAGE_LIMIT, number
from isoform.server.exchange.record import get_record
from isoform.server.routes.repository import read_object
from isoform.server.service.service import get_service
from isoform.server.service.users import whole
from isoform.server.store.store import ANY, Reply, Revision, moment

__all__ = ["blueprint", "check_user", "expected_revision"]

blueprint = Blueprint("signatures", __name__, url_prefix="/v1/models/<task>/signatures")

FILE_LIMIT = 4 << 20
"""Longest signature file, in bytes: over a hundred times what a large network's has."""

DECODED = 8
"""Bytes that a byte of a file takes while it is checked: its tensors, what they are folded into, and the header that is read twice."""


def _description(revision: Revision) -> dict[str, Any]:
    """What is told of a revision."""
    return {
        "task": revision.task, "signature": revision.user, "revision": revision.revision, "digest": revision.digest,
        "parent": revision.parent, "action": revision.action, "actor": revision.actor, "created": moment(revision.created), "kept": revision.kept,
    }  # fmt: skip


@blueprint.get("")
def listed(task: str) -> dict[str, Any]:
    """Users of a task, by name; ``next`` is what to ask for ``after``, null at the end."""
    require_admin()
    service = get_service()
    service.tasks.check(task)
    limit = number("limit", service.settings.page, 1, PAGE_LIMIT)
    after = request.args.get("after", "")
    if after:
        check_name(after, what="after")
    found = service.users.store.users(task, after=after, limit=limit + 1)
    rest = len(found) > limit
    return {
        "signatures": [_description(revision) for revision in found[:limit]],
        "next": found[limit - 1].user if rest else None,
    }


@blueprint.put("/<user>")
def put(task: str, user: str) -> Response:
    """Take a signature file in. Raises ``SignatureError`` if it is damaged, or was made for something else."""
    service = get_service()
    check_user(task, user)
    with service.memory.share() as share:
        return _put(task, user, share)


def _put(task: str, user: str, share: Share) -> Response:
    service = get_service()
    body = bytes(read_body(request.environ, limit=min(FILE_LIMIT, service.settings.max_body_bytes), hold=share.hold))
    share.hold(DECODED * len(body))

    def _write(expect: int, reply: Reply | None) -> Revision:
        signature = Signature.decode(body, name=f"{task}/{user}")
        if signature.task != task:
            raise SignatureError(
                f"the signature is of task {signature.task!r}, but it was put to {task!r}; put it there, or make another"
            )
        service.runtime.bundle.resolve(signature)
        store = service.users.store
        newest = store.newest(task, user) if reply is None else None
        if newest is not None and newest.digest == signature.digest and expect in (ANY, newest.revision):
            return newest  # the same bytes again are no news
        return store.append(
            task, user, digest=signature.digest, data=body, action="put", actor=actor(), expect=expect, reply=reply
        )

    return _written(task, user, body, _write)


@blueprint.get("/<user>")
def shown(task: str, user: str) -> Response:
    """The newest revision."""
    check_user(task, user)
    newest = _newest(task, user)
    return _conditional(_answer(newest, 200), newest)


@blueprint.get("/<user>/file")
def file(task: str, user: str) -> Response:
    """A revision's bytes; the newest one's if none is named. Raises ``NotFoundError`` if they are not there."""
    check_user(task, user)
    wanted = number("revision", 0, 1, LAST)
    revision, data = _kept(task, user, wanted or _newest(task, user).revision)
    response = Response(data, content_type="application/octet-stream")
    response.headers["Content-Disposition"] = f'attachment; filename="{user}.safetensors"'
    response.set_etag(_tag(revision))
    return _conditional(response, revision)


@blueprint.get("/<user>/revisions")
def revisions(task: str, user: str) -> dict[str, Any]:
    """Revisions, newest first; ``next`` is what to ask for ``before``, null at the end."""
    service = get_service()
    check_user(task, user)
    _newest(task, user)
    limit = number("limit", service.settings.page, 1, PAGE_LIMIT)
    before = number("before", 0, 1, LAST) or None
    found = service.users.store.history(task, user, before=before, limit=limit + 1)
    rest = len(found) > limit
    return {
        "revisions": [_description(revision) for revision in found[:limit]],
        "next": found[limit - 1].revision if rest else None,
    }


@blueprint.post("/<user>/rollback")
def rollback(task: str, user: str) -> Response:
    """Let an earlier revision's bytes answer again. Raises ``InputError`` for a malformed body, ``NotFoundError`` for no such revision."""
    check_user(task, user)
    wanted = read_object()
    chosen = wanted.get("revision")
    if type(chosen) is not int or not 1 <= chosen <= LAST or len(wanted) != 1:
        raise InputError('$: {"revision": N}, N a revision\'s number, was expected')

    def _write(expect: int, reply: Reply | None) -> Revision:
        store = get_service().users.store
        _kept(task, user, chosen)  # damaged bytes must not become the newest revision
        made = store.rollback(task, user, to=chosen, actor=actor(), expect=expect, reply=reply)
        return made or _not_kept(task, user, chosen)

    return _written(task, user, str(chosen).encode(), _write)


@blueprint.delete("/<user>")
def delete(task: str, user: str) -> tuple[str, int]:
    """Delete every revision, for good, and cancel the open jobs. Raises ``NotFoundError`` if there are neither."""
    service = get_service()
    check_user(task, user, unloaded=True)
    record = get_record()
    record.task, record.signature = task, user
    store = service.users.store
    expect = expected_revision(store.newest(task, user))
    try:
        found = store.delete(task, user, actor=actor(), expect=expect)
    except ConflictError as problem:
        raise _conflict(problem, expect) from None
    if not found:
        raise NotFoundError(f"there is no signature {user!r} for task {task!r}")
    service.worker.look()  # samples of jobs that wait here are dropped
    return "", 204


def _written(task: str, user: str, what: bytes, write: Callable[[int, Reply | None], Revision]) -> Response:
    """Write the revision that ``write`` makes of the expected one and the idempotency key, unless this request was answered before."""
    store = get_service().users.store
    reply = _reply(what)
    replayed = None if reply is None else store.replied(reply)
    if replayed is not None:
        return _answer(replayed, 200, again=True)
    newest = store.newest(task, user)
    expect = expected_revision(newest)
    try:
        revision = write(expect, reply)
    except ConflictError as problem:
        replayed = None if reply is None else store.replied(reply)
        if replayed is not None:
            return _answer(replayed, 200, again=True)
        raise _conflict(problem, expect) from None
    return _answer(revision, 201 if revision.parent is None and revision != newest else 200)


def _conflict(problem: ConflictError, expect: int) -> IsoformError:
    """What to raise where somebody else was faster: the caller's precondition does not hold, or there was none."""
    return problem if expect == ANY else PreconditionError(str(problem))


def _answer(revision: Revision, status: int, *, again: bool = False) -> Response:
    record = get_record()
    record.task, record.signature = revision.task, revision.user
    record.revision, record.digest = revision.revision, revision.digest
    response = jsonify(_description(revision))
    response.status_code = status
    response.set_etag(_tag(revision))
    if again:
        response.headers["Idempotent-Replayed"] = "true"
    return response


def _conditional(response: Response, revision: Revision) -> Response:
    """The answer to a GET: 304 if the client has it already; raises ``PreconditionError`` if it wants another one."""
    if "If-Match" in request.headers:
        if not (request.if_match.star_tag or request.if_match.contains(_tag(revision))):
            raise PreconditionError(
                f"If-Match is {request.headers['If-Match'][:80]}, but this is revision {_tag(revision)}; read it without If-Match"
            )
        return response  # werkzeug would say 412 to "*", and send the revision with it
    return response.make_conditional(request)  # type: ignore[return-value]


def _tag(revision: Revision) -> str:
    return f"{revision.revision}-{revision.digest[:16]}"


def expected_revision(newest: Revision | None) -> int:
    """The revision that must be newest for this request to be done; raises ``PreconditionError`` if it is not."""
    tag = "" if newest is None else _tag(newest)
    if "If-Match" in request.headers:
        if newest is None or not (request.if_match.star_tag or request.if_match.contains(tag)):
            raise PreconditionError(
                f"If-Match is {request.headers['If-Match'][:80]}, but the newest revision is {tag or 'none'}; read it again"
            )
        return newest.revision
    if "If-None-Match" in request.headers:
        if newest is not None and (request.if_none_match.star_tag or request.if_none_match.contains(tag)):
            raise PreconditionError(
                f"If-None-Match is {request.headers['If-None-Match'][:80]}, but there is revision {tag}"
            )
        return newest.revision if newest is not None else 0
    return ANY


def _reply(what: bytes) -> Reply | None:
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not (1 <= len(key) <= 255 and key.isascii() and key.isprintable()):
        raise UsageError("Idempotency-Key has a strange form; 1 to 255 printable ASCII characters were expected")
    asked = hashlib.sha256(b"\0".join((request.method.encode(), request.path.encode(), what))).digest()
    return Reply(key, asked, sender=caller_id())


def check_user(task: str, user: str, *, unloaded: bool = False) -> None:
    """Raise ``ForbiddenError`` if the caller may not see and change that user's, ``NotFoundError`` if there is no such task.

    Args:
        task: The task.
        user: The user.
        unloaded: Whether a task will do that is unloaded: what is there can be deleted and stopped at any time.
    """
    check_name(user, what="signature")
    require_write(user)
    tasks = get_service().tasks
    (tasks.check_known if unloaded else tasks.check)(task)


def _newest(task: str, user: str) -> Revision:
    newest = get_service().users.store.newest(task, user)
    if newest is None:
        raise NotFoundError(f"there is no signature {user!r} for task {task!r}")
    return newest


def _kept(task: str, user: str, number: int) -> tuple[Revision, bytes]:
    """A revision and its bytes."""
    store = get_service().users.store
    revision, data = store.find(task, user, number), store.data(task, user, number)
    if revision is None or data is None:
        _not_kept(task, user, number)
    whole(revision, data)
    return revision, data


def _not_kept(task: str, user: str, number: int) -> NoReturn:
    raise NotFoundError(f"{task}/{user} has no revision {number}, or it is not kept any longer")
