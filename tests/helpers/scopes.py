"""Requests as ASGI has them, without a server."""

import urllib.parse

__all__ = ["Client", "scope_of"]


def scope_of(path: bytes = b"/v2", method: str = "GET", headers=(), **more) -> dict:
    """As uvicorn makes it."""
    return {
        "type": "http", "http_version": "1.1", "method": method, "scheme": "http", "path": urllib.parse.unquote(path.decode("ascii")),
        "raw_path": path, "query_string": b"", "root_path": "", "headers": [(b"host", b"localhost"), *headers],
        "client": ("127.0.0.1", 1234), "server": ("127.0.0.1", 8000), **more,
    }  # fmt: skip


class Client:
    """Sends a body in parts, and notes what happens in which order."""

    def __init__(self, *parts: bytes) -> None:
        self.parts, self.events = list(parts), list[str]()
        self.status, self.body = 0, b""

    async def receive(self) -> dict:
        """The next part."""
        self.events.append("receive")
        part = self.parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(self.parts)}

    async def send(self, message: dict) -> None:
        """Something of an answer."""
        self.status = message.get("status", self.status)
        self.body += message.get("body", b"")
