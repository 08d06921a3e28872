"""A minimal protocol buffers codec for ONNX files, without the onnx package.

A message is a sequence of fields, each a varint ``number << 3 | wire type``, then a varint (type 0), 8 bytes (1), a varint length and
that many bytes (2), or 4 bytes (5). Source: the protocol buffers' encoding guide. Must never import onnx.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from isoform.runtime.errors import EngineError

__all__ = ["Field", "edited", "encoded", "fields", "message", "messages", "varint", "varints"]

# other readers truncate longer keys and so see another field than this one: such files are rejected
KEY_LIMIT = 1 << 32
"""Keys have 32 bits."""

Field = tuple[int, int, bytes]
"""Number, wire type, and the bytes after the key; for type 2 without the length."""


def messages(data: bytes, number: int) -> Iterator[bytes]:
    """Return the contents of all length-delimited fields with that number."""
    return (content for found, kind, content in fields(data) if (found, kind) == (number, 2))


def edited(data: bytes, number: int, edit: Callable[[bytes], bytes]) -> bytes:
    """Return a message in which ``edit`` replaces the content of every length-delimited field with that number."""
    return message(
        (found, kind, edit(content) if (found, kind) == (number, 2) else content)
        for found, kind, content in fields(data)
    )


def fields(data: bytes) -> Iterator[Field]:
    """Yield the fields of a message, in order. Raises ``EngineError`` if it is malformed."""
    place, end_of_data = 0, len(data)
    while place < end_of_data:
        key, place = (data[place], place + 1) if data[place] < 0x80 else varint(data, place)
        number, kind = key >> 3, key & 7
        if not 0 < number < KEY_LIMIT >> 3:
            raise EngineError(f"the graph has a field of number {number}, so it is not an ONNX file")
        if kind == 2:
            # a fast path: most varints have one byte, and this loop is hot
            short = place < end_of_data and data[place] < 0x80
            length, place = (data[place], place + 1) if short else varint(data, place)
            end = place + length
        elif kind == 0:
            end = varint(data, place)[1]
        elif kind in (1, 5):
            end = place + (8 if kind == 1 else 4)
        else:
            raise EngineError(f"the graph has a field of wire type {kind}, so it is not an ONNX file")
        if end > end_of_data:
            raise EngineError("the graph is cut short")
        yield number, kind, data[place:end]
        place = end


def varint(data: bytes, place: int) -> tuple[int, int]:
    """Return the varint at an offset, and the offset after it."""
    value = 0
    for index in range(10):  # 64 bits, 7 per byte
        if place + index >= len(data):
            raise EngineError("the graph is cut short")
        byte = data[place + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, place + index + 1
    raise EngineError("the graph has a number of more than ten bytes, so it is not an ONNX file")


def varints(data: bytes) -> Iterator[int]:
    """Yield the numbers of a packed field."""
    place = 0
    while place < len(data):
        value, place = varint(data, place)
        yield value


def encoded(value: int) -> bytes:
    """Encode a number as a varint."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def message(content: Iterable[Field]) -> bytes:
    """Encode a message with these fields."""
    out = bytearray()
    for number, kind, data in content:
        out += encoded(number << 3 | kind)
        if kind == 2:
            out += encoded(len(data))
        out += data
    return bytes(out)
