"""Whether a server says that it lives, and how soon."""

from __future__ import annotations

import http.client
import time

__all__ = ["ask_health"]


def ask_health(address: tuple[str, int], path: str, *, patience_seconds: float) -> tuple[bool, float]:
    """Ask once, on a new connection. Returns whether the answer was 200, and the seconds from connecting to it."""
    began = time.perf_counter()
    connection = http.client.HTTPConnection(*address, timeout=patience_seconds)
    try:
        connection.request("GET", path)
        answered = connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        answered = False
    finally:
        connection.close()
    return answered, time.perf_counter() - began
