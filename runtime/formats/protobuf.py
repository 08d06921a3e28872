"""Protocol buffers, byte by byte, as far as ONNX files need them: without the onnx package.

A message is a row of fields, each a varint ``number << 3 | wire type``, then a varint (type 0), 8 bytes (1), a varint length and
so many bytes (2), or 4 bytes (5). Source: the protocol buffers' encoding guide. Must never import onnx.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from isoform.runtime.errors import EngineError

__all__ = ["Field", "edited", "encoded", "fields", "message", "messages", "varint", "varints"]

KEY_LIMIT = 1 << 32
"""Keys have 32 bits. Other readers cut longer ones off and so see another field; here they are refused."""

Field = tuple[int, int, bytes]
"""Number, wire type, and the bytes after the key; for type 2 without their length."""


def messages(data: bytes, number: int) -> Iterator[bytes]:
    """The contents of all fields of one number that have a length."""
    return (content for found, kind, content in fields(data) if (found, kind) == (number, 2))


def edited(data: bytes, number: int, edit: Callable[[bytes], bytes]) -> bytes:
    """A message in which every field of one number that has a length holds something else."""
    return message(
        (found, kind, edit(content) if (found, kind) == (number, 2) else content)
        for found, kind, content in fields(data)
    )


def fields(data: bytes) -> Iterator[Field]:
    """Every field of a message, in order; ``EngineError`` if it is none."""
    place, end_of_data = 0, len(data)
    while place < end_of_data:
        key, place = (data[place], place + 1) if data[place] < 0x80 else varint(data, place)
        number, kind = key >> 3, key & 7
        if not 0 < number < KEY_LIMIT >> 3:
            raise EngineError(f"the graph has a field of number {number}, so it is not an ONNX file")
        if kind == 2:
            short = place < end_of_data and data[place] < 0x80  # most are: this is the loop that takes the time
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
    """The number at a place, and the place behind it."""
    value = 0
    for index in range(10):
        if place + index >= len(data):
            raise EngineError("the graph is cut short")
        byte = data[place + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, place + index + 1
    raise EngineError("the graph has a number of more than ten bytes, so it is not an ONNX file")


def varints(data: bytes) -> Iterator[int]:
    """The numbers of a packed field."""
    place = 0
    while place < len(data):
        value, place = varint(data, place)
        yield value


def encoded(value: int) -> bytes:
    """A number as a varint."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def message(content: Iterable[Field]) -> bytes:
    """The bytes of a message with these fields."""
    out = bytearray()
    for number, kind, data in content:
        out += encoded(number << 3 | kind)
        if kind == 2:
            out += encoded(len(data))
        out += data
    return bytes(out)
