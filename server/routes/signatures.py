"""Users' signatures as HTTP resources: upload, read, list, roll back, delete.

Below ``/v1/models/<task>``:

    GET     …/signatures?after=NAME&limit=N          list users of a task, by name
    PUT     …/signatures/<user>                      upload a signature file; makes a new revision
    GET     …/signatures/<user>                      description of the newest revision
    GET     …/signatures/<user>/file?revision=N      the file's bytes
    GET     …/signatures/<user>/revisions?before=N&limit=N
    POST    …/signatures/<user>/rollback             {"revision": N}; makes a new revision with the bytes of revision N
    DELETE  …/signatures/<user>                      delete every revision and cancel open jobs

Every answer for a user has an ETag. A write with ``If-Match`` succeeds only if that revision is still the newest, one with
``If-None-Match: *`` only if there is none; otherwise 412. With both headers, both must hold. A retried write with the same
``Idempotency-Key`` gets the first answer again and changes nothing: 409 if its revision was deleted since. Revision numbers continue
after a deletion, so that a number or an ETag never refers to two revisions.
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
"""Largest signature file, in bytes: over a hundred times the size of a large network's."""

DECODED = 8
"""Bytes of memory per byte of a file while it is checked: its tensors, their folded weights, and the header that is read twice."""


def _description(revision: Revision) -> dict[str, Any]:
    """A revision as JSON."""
    return {
        "task": revision.task, "signature": revision.user, "revision": revision.revision, "digest": revision.digest,
        "parent": revision.parent, "action": revision.action, "actor": revision.actor, "created": moment(revision.created), "kept": revision.kept,
    }  # fmt: skip


@blueprint.get("")
def listed(task: str) -> dict[str, Any]:
    """A page of a task's users, by name; ``next`` is the ``after`` of the next page, null at the end."""
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
    """Store an uploaded signature file. Raises ``SignatureError`` if it is damaged, or made for another task or bundle."""
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
                f"the signature is for task {signature.task!r}, but it was sent to task {task!r}; send it to {signature.task!r}"
            )
        service.runtime.bundle.resolve(
            signature
        )  # for its errors: a file that does not fit the templates must not be stored
        store = service.users.store
        # With an idempotency key there is always a new revision: the key is stored with it, and a retry finds it.
        newest = store.newest(task, user) if reply is None else None
        if newest is not None and newest.digest == signature.digest and expect in (ANY, newest.revision):
            return newest  # the same bytes again make no new revision: PUT is idempotent
        return store.append(
            task, user, digest=signature.digest, data=body, action="put", actor=actor(), expect=expect, reply=reply
        )

    return _written(task, user, body, _write)


@blueprint.get("/<user>")
def shown(task: str, user: str) -> Response:
    """Description of the newest revision."""
    check_user(task, user)
    newest = _newest(task, user)
    return _conditional(_answer(newest, 200), newest)


@blueprint.get("/<user>/file")
def file(task: str, user: str) -> Response:
    """A revision's file, by default the newest one's. Raises ``NotFoundError`` if its bytes are not kept."""
    check_user(task, user)
    wanted = number("revision", 0, 1, LAST)
    revision, data = _kept(task, user, wanted or _newest(task, user).revision)
    response = Response(data, content_type="application/octet-stream")
    # check_name has refused quotes and line breaks, so the name needs no escaping.
    response.headers["Content-Disposition"] = f'attachment; filename="{user}.safetensors"'
    response.set_etag(_tag(revision))
    return _conditional(response, revision)


@blueprint.get("/<user>/revisions")
def revisions(task: str, user: str) -> dict[str, Any]:
    """A page of a user's revisions, newest first; ``next`` is the ``before`` of the next page, null at the end."""
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
    """Append a new revision with an earlier one's bytes. Raises ``InputError`` for a malformed body, ``NotFoundError`` for an unknown revision."""
    check_user(task, user)
    wanted = read_object()
    chosen = wanted.get("revision")
    if type(chosen) is not int or not 1 <= chosen <= LAST or len(wanted) != 1:
        raise InputError('$: {"revision": N} was expected, with the number of a revision')

    def _write(expect: int, reply: Reply | None) -> Revision:
        store = get_service().users.store
        _kept(task, user, chosen)  # damaged bytes must not become the newest revision
        made = store.rollback(task, user, to=chosen, actor=actor(), expect=expect, reply=reply)
        return made or _not_kept(task, user, chosen)

    return _written(task, user, str(chosen).encode(), _write)


@blueprint.delete("/<user>")
def delete(task: str, user: str) -> tuple[str, int]:
    """Delete every revision permanently and cancel open jobs. Raises ``NotFoundError`` if there is neither."""
    service = get_service()
    check_user(task, user, unloaded=True)
    record = get_record()
    # Before the deletion, so that the log names the user of one that is refused, too.
    record.task, record.signature = task, user
    store = service.users.store
    expect = expected_revision(store.newest(task, user))
    try:
        found = store.delete(task, user, actor=actor(), expect=expect)
    except ConflictError as problem:
        raise _conflict(problem, expect) from None
    if not found:
        raise NotFoundError(f"there is no signature {user!r} for task {task!r}")
    service.worker.look()  # free the samples of cancelled jobs in this process now
    return "", 204


def _written(task: str, user: str, what: bytes, write: Callable[[int, Reply | None], Revision]) -> Response:
    """Call ``write`` with the expected revision and the idempotency key, unless this request was answered before: then replay that answer."""
    store = get_service().users.store
    reply = _reply(what)
    # Before the preconditions: the first attempt changed the ETag, so a retry with If-Match would get 412.
    replayed = None if reply is None else store.replied(reply)
    if replayed is not None:
        return _answer(replayed, 200, again=True)
    newest = store.newest(task, user)
    expect = expected_revision(newest)
    try:
        revision = write(expect, reply)
    except ConflictError as problem:
        # The conflict may be this very request, sent twice at the same time: the other copy has written.
        replayed = None if reply is None else store.replied(reply)
        if replayed is not None:
            return _answer(replayed, 200, again=True)
        raise _conflict(problem, expect) from None
    # A revision without a parent is a user's first one, unless it is the unchanged answer to a repeated PUT.
    return _answer(revision, 201 if revision.parent is None and revision != newest else 200)


def _conflict(problem: ConflictError, expect: int) -> IsoformError:
    """The error for a concurrent write: 412 if the caller sent a precondition, else 409."""
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
    """Apply ``If-Match`` and then ``If-None-Match`` to a GET (RFC 9110, 13.2.2): 304 if the client's copy is current.

    Raises:
        PreconditionError: If ``If-Match`` fails.
    """
    if "If-Match" in request.headers and not (request.if_match.star_tag or request.if_match.contains(_tag(revision))):
        raise PreconditionError(
            f"If-Match is {request.headers['If-Match'][:80]}, but the revision's ETag is {_tag(revision)}; read it without If-Match"
        )
    # Without If-Match, which has passed: werkzeug's make_conditional would answer "*" with 412, and the body in it.
    rest = {name: value for name, value in request.environ.items() if name != "HTTP_IF_MATCH"}
    return response.make_conditional(rest)  # type: ignore[return-value]


def _tag(revision: Revision) -> str:
    # With the digest: after a restore from a backup, numbers alone may be given again.
    return f"{revision.revision}-{revision.digest[:16]}"


def expected_revision(newest: Revision | None) -> int:
    """The revision that must be the newest for this write; ``ANY`` without a precondition.

    Raises:
        PreconditionError: If ``If-Match`` or ``If-None-Match`` fails. With both, both must hold (RFC 9110, 13.2.2).
    """
    tag, sent = "" if newest is None else _tag(newest), request.headers
    if "If-Match" in sent and (newest is None or not (request.if_match.star_tag or request.if_match.contains(tag))):
        raise PreconditionError(
            f"If-Match is {sent['If-Match'][:80]}, but the newest revision's ETag is {tag or 'none'}; read it again"
        )
    if (
        "If-None-Match" in sent
        and newest is not None
        and (request.if_none_match.star_tag or request.if_none_match.contains(tag))
    ):
        raise PreconditionError(f"If-None-Match is {sent['If-None-Match'][:80]}, but revision {tag} exists")
    if "If-Match" not in sent and "If-None-Match" not in sent:
        return ANY
    # Not ANY: this revision passed the checks, and must still be the newest within the transaction.
    return newest.revision if newest is not None else 0


def _reply(what: bytes) -> Reply | None:
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not (1 <= len(key) <= 255 and key.isascii() and key.isprintable()):
        raise UsageError("Idempotency-Key is invalid; 1 to 255 printable ASCII characters were expected")
    # The fingerprint tells a retry from another request with the same key, which is refused.
    asked = hashlib.sha256(b"\0".join((request.method.encode(), request.path.encode(), what))).digest()
    return Reply(key, asked, sender=caller_id())


def check_user(task: str, user: str, *, unloaded: bool = False) -> None:
    """Raise ``ForbiddenError`` if the caller may not write the user's signature, ``NotFoundError`` if the task does not exist.

    Args:
        task: Name of the task.
        user: Name of the user.
        unloaded: Whether to allow an unloaded task: deleting and cancelling must always be possible.
    """
    check_name(user, what="signature")
    # The scope before the task: without the scope the answer is 403, whether or not the task exists.
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
    raise NotFoundError(f"{task}/{user} has no revision {number}, or its bytes are no longer kept")
