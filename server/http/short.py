"""Predictions that are asked for in the plainest way: their heads are split in one go.

gunicorn's parser is made for every way of writing a request, and takes a tenth of the time of a small network for it. A short prediction whose head
has nothing special, and that is all there when it is looked at, is split here, into what gunicorn makes of the same bytes (the tests compare
both). Everything else gunicorn parses itself, and refuses what must be refused.
"""

from __future__ import annotations

import io
import re
from typing import Any

from gunicorn.http import Request, RequestParser

__all__ = ["FIELDS", "LINE_BYTES", "Parser", "ShortRequest", "short_request"]

SHORT_BYTES = 32 << 10
"""Longer requests bring more samples than one wants to wait for."""
LINE_BYTES, FIELDS = 4094, 64
"""gunicorn is set to these limits; here a whole head is no longer than a line may be."""
_FIELD = r"([!#$%&'*+\-.^`|~0-9A-Za-z]+):([\t -~\x80-\xff]*)\r\n"
_FIELDS = re.compile(_FIELD)
_HEAD = re.compile(
    rf"POST (/v2/models/[\w.-]+(?:/versions/[\w.-]+)?/infer) HTTP/1\.1\r\n((?:{_FIELD})+)", re.ASCII
)  # fmt: skip
_SPECIAL = frozenset({
    "CONTENT-ENCODING", "EXPECT", "TRANSFER-ENCODING", "UPGRADE", "X-FORWARDED-PROTO", "X-FORWARDED-PROTOCOL", "X-FORWARDED-SSL",
})  # fmt: skip
"""Fields that say how to read the request, or that gunicorn believes only of some; those with an underscore in their names are not matched at all."""


class ShortRequest(Request):  # type: ignore[misc]
    """A request that is all there.

    Args:
        cfg: gunicorn's configuration.
        client: The client's address.
        path: What is asked for.
        headers: Names in capitals, and values.
        body: The body.
    """

    def __init__(self, cfg: Any, client: Any, path: str, headers: list[tuple[str, str]], body: bytes) -> None:
        self.cfg, self.peer_addr, self.remote_addr = cfg, client, client
        self.method, self.uri, self.path, self.query, self.fragment, self.version = "POST", path, path, "", "", (1, 1)
        self.headers, self.body = headers, io.BytesIO(body)
        self.trailers = list[tuple[str, str]]()
        self.scheme, self.must_close, self.proxy_protocol_info, self._expected_100_continue = "http", False, None, False


class Parser(RequestParser):  # type: ignore[misc]
    """gunicorn's, of one connection; but a request that is split already is taken as it is."""

    mesg: Any
    given: ShortRequest | None = None
    """The next one. Whoever sets it has not given its bytes to the parser."""

    def __next__(self) -> Any:
        """The next request."""
        given, self.given = self.given, None
        if given is None:
            return super().__next__()
        self.req_count += 1
        self.mesg = given
        return given

    def finish_body(self, deadline: float | None = None, max_bytes: int | None = None) -> bool:
        """Discard what nobody read of the last request. Returns whether the next one may come."""
        if isinstance(self.mesg, ShortRequest):
            self.mesg.body = io.BytesIO()  # else it stays for as long as the connection is idle
            return True
        return bool(super().finish_body(deadline, max_bytes))


def short_request(data: bytes, cfg: Any, client: Any) -> ShortRequest | None:
    """A whole request for a prediction, short and plain, and nothing else; None if that is anything else.

    Args:
        data: All that came.
        cfg: gunicorn's configuration.
        client: The client's address.
    """
    if not data.startswith(b"POST /v2/models/") or len(data) > SHORT_BYTES:
        return None
    end = data.find(b"\r\n\r\n", 0, LINE_BYTES)
    head = _HEAD.fullmatch(data[: end + 2].decode("latin-1")) if end > 0 else None
    if head is None:
        return None
    headers = [(name.upper(), value.strip(" \t")) for name, value in _FIELDS.findall(head[2])]
    fields = dict(headers)
    length = fields.get("CONTENT-LENGTH", "")
    if len(fields) < len(headers) or len(headers) > FIELDS or not _SPECIAL.isdisjoint(fields):
        return None
    if not (length.isascii() and length.isdigit()) or len(length) > 6 or len(data) != end + 4 + int(length):
        return None
    return ShortRequest(cfg, client, head[1], headers, data[end + 4 :])
