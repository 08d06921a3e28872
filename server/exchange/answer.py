"""An answer, before it is written to anybody's connection."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse

__all__ = ["Answer"]

WITHOUT_BODY = frozenset({204, 304})
_PHRASES = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers, body."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    """``Content-Length`` is added where it is not among them."""
    sent: Callable[[], object] | None = None
    """Called when the body is sent, or nobody wants it any longer; None for nothing."""

    @classmethod
    def of_json(cls, content: object, *, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
        """An answer in JSON."""
        body = json.dumps(content, ensure_ascii=False).encode()
        return cls(status, body, (("Content-Type", "application/json"), *headers))

    def fields(self, *more: tuple[str, str]) -> list[tuple[str, str]]:
        """All headers, with some more."""
        headers = [*self.headers, *more]
        if self.status not in WITHOUT_BODY and not any(name.lower() == "content-length" for name, _ in self.headers):
            headers.append(("Content-Length", str(len(self.body))))
        return headers

    def send(self, start: StartResponse, *more: tuple[str, str]) -> Iterable[bytes]:
        """Answer a WSGI request; returns what its application returns."""
        start(_PHRASES[self.status], self.fields(*more))
        return [self.body] if self.sent is None else self._until_sent(self.sent)

    def _until_sent(self, sent: Callable[[], object]) -> Iterator[bytes]:
        """The body. A server asks for more of it, or closes it, when it has sent this."""
        try:
            yield self.body
        finally:
            sent()
