"""The listening socket: TCP, or a Unix socket."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from isoform.runtime.errors import UsageError

__all__ = ["listening", "raise_file_limit"]

BACKLOG = 2048
"""Connections that the kernel queues until they are accepted."""
FILES = 65536
"""Open files asked for, if the system's hard limit allows it."""


@contextlib.contextmanager
def listening(host: str, port: int, path: Path | None = None) -> Iterator[socket.socket]:
    """Open a listening socket for as long as the ``with`` block lasts.

    Args:
        host: Name or address, IPv4 or IPv6.
        port: Port; 0 picks a free one.
        path: Path of a Unix socket, instead of host and port; a stale one of an earlier server is replaced.

    Raises:
        UsageError: If the address or path cannot be bound.
    """
    where, hint = (f"{host}:{port}", "another --host or --port") if path is None else (str(path), "another --unix")
    try:
        listener = _tcp(host, port) if path is None else _unix(path)
    except OSError as problem:
        raise UsageError(f"cannot listen on {where}: {problem}; choose {hint}") from None
    mine = os.getpid()
    try:
        with listener:
            yield listener
    finally:
        # Only in the process that made it: a forked worker must not remove it when it exits.
        if path is not None and os.getpid() == mine:
            path.unlink(missing_ok=True)


def raise_file_limit(most: int) -> int:
    """Raise the limit of open files for this process and its children. Returns how many connections fit, at most ``most``."""
    try:
        import resource
    except ImportError:  # Windows, where sockets are not file descriptors
        return most
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(hard, FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    # 200 descriptors stay free for the database, the bundle's files and the log.
    return most if soft == resource.RLIM_INFINITY else max(16, min(most, soft - 200))


def _tcp(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        if sys.platform != "win32":  # on Windows it would allow two servers on the same port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _unix(path: Path) -> socket.socket:
    if not hasattr(socket, "AF_UNIX"):
        raise OSError("this system has no Unix sockets")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Only a socket that nobody answers is stale; a live server's path must not be taken over.
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode) and not _answers(path):
            path.unlink()
        listener.bind(str(path))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(path)) == 0
