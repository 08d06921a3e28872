"""An answer, before it is written to anybody's connection."""

from __future__ import annotations

import dataclasses
import json
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse

__all__ = ["Answer"]

_PHRASES = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers, body."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    """Without ``Content-Length``."""

    @classmethod
    def of_json(cls, content: object, *, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
        """An answer in JSON."""
        body = json.dumps(content, ensure_ascii=False).encode()
        return cls(status, body, (("Content-Type", "application/json"), *headers))

    def send(self, start: StartResponse, *more: tuple[str, str]) -> list[bytes]:
        """Answer a WSGI request; returns what its application returns."""
        start(_PHRASES[self.status], [*self.headers, ("Content-Length", str(len(self.body))), *more])
        return [self.body]
