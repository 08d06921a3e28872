"""An HTTP answer before it is sent, by WSGI or by ASGI."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse

__all__ = ["Answer"]

# RFC 9110, 8.6: a 204 must not have Content-Length, and in a 304 it would have to be that of the 200.
WITHOUT_BODY = frozenset({204, 304})
_PHRASES = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers, body."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    """Headers; ``Content-Length`` is added when the answer is sent."""
    sent: Callable[[], object] | None = None
    """Callback for when the body is sent or the client is gone, to release memory; None for none."""

    @classmethod
    def of_json(cls, content: object, *, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
        """Create a JSON answer."""
        body = json.dumps(content, ensure_ascii=False).encode()
        return cls(status, body, (("Content-Type", "application/json"), *headers))

    def fields(self, *more: tuple[str, str]) -> list[tuple[str, str]]:
        """All headers, with ``more`` and ``Content-Length``."""
        headers = [*self.headers, *more]
        if self.status not in WITHOUT_BODY and not any(name.lower() == "content-length" for name, _ in self.headers):
            headers.append(("Content-Length", str(len(self.body))))
        return headers

    def send(self, start: StartResponse, *more: tuple[str, str]) -> Iterable[bytes]:
        """Start a WSGI response and return its body, for an application to return."""
        start(_PHRASES[self.status], self.fields(*more))
        return [self.body] if self.sent is None else self._until_sent(self.sent)

    def _until_sent(self, sent: Callable[[], object]) -> Iterator[bytes]:
        """Yield the body and call ``sent`` afterwards."""
        # A WSGI server resumes or closes this generator once the part is sent, so that is the moment to release memory.
        try:
            yield self.body
        finally:
            sent()
