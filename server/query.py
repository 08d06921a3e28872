"""What a request's query says: numbers, and nothing that is not known."""

from __future__ import annotations

from flask import request

from isoform.runtime.errors import UsageError

__all__ = ["LAST", "PAGE_LIMIT", "check_query", "number"]

PAGE_LIMIT = 1000
"""Longest page of a list."""
LAST = (1 << 31) - 1
"""Nothing that is numbered has a higher number; PostgreSQL could not compare one with it."""


def check_query(*known: str) -> None:
    """Raise ``UsageError`` if this request's query says something else than what is known, which would be ignored."""
    for name in request.args:
        if name not in known:
            raise UsageError(f"the query names {name[:80]!r}, but {' or '.join(known) or 'none'} was expected")


def number(name: str, default: int, least: int, most: int) -> int:
    """A whole number of this request's query, or the default if it is not there. Raises ``UsageError`` if it is out of range."""
    text = request.args.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 12 and least <= int(text) <= most):
        raise UsageError(f"{name} is {text[:40]!r}, but a whole number from {least} to {most} was expected")
    return int(text)
