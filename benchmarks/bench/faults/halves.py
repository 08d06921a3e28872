"""Requests that are begun and not ended: what the connections of a crowd send."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

__all__ = ["Half", "halves"]

ANNOUNCED_BYTES, BURST_BYTES, SLOW_RATE = 2_000_000, 60_000, 6000


@dataclasses.dataclass(frozen=True)
class Half:
    """How the requests of a crowd begin."""

    heads: Sequence[bytes]
    """Sent by the connections in turn."""
    rate: int = 0
    """Bytes a second that follow."""
    whole: bool = False
    """Whether it lasts for all of ``--seconds``."""


def halves(infer: str, put: str | None, health: Sequence[str], key: str | None) -> dict[str, Half]:
    """Kind → requests that are not ended.

    Args:
        infer: Path of predictions.
        put: Path of a user's signature, if there is one.
        health: Paths of health.
        key: API key that is sent with them; None for none.
    """
    who = f"Authorization: Bearer {key}\r\n" if key else ""
    fields = f"Host: localhost\r\nContent-Type: application/octet-stream\r\n{who}"
    length = f"Content-Length: {ANNOUNCED_BYTES}\r\n"

    def head(line: str, more: str = length, end: str = "\r\n") -> bytes:
        return f"{line} HTTP/1.1\r\n{fields}{more}{end}".encode()

    post = f"POST {infer}"
    found = {
        "2 MB announced": Half([head(post)], whole=True),
        "2 MB, 60 kB sent": Half([head(post) + bytes(BURST_BYTES)]),
        "2 MB at 6 kB/s": Half([head(post)], rate=SLOW_RATE, whole=True),
        "Expect and nothing": Half([head(post, f"{length}Expect: 100-continue\r\n")]),
        "health with a body": Half([head(f"GET {path}") for path in health]),
        "a chunk begun": Half([head(post, "Transfer-Encoding: chunked\r\n", "\r\n5\r\nab")]),
        "half a head": Half([head(post, end="")]),
    }
    if put is not None:
        found["2 MB of a signature"] = Half([head(f"PUT {put}")])
    if key is None:
        found["silent"] = Half([b""])
    return found
