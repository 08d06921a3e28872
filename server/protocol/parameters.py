"""The known parameters of a request, its inputs and its outputs; unknown ones are refused by name, on every level.

Ignoring a parameter could make a client misread the answer. Only values that ask for nothing (``"priority": 0``) are ignored.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from isoform.runtime.errors import InputError

__all__ = ["IN_EXAMPLES", "IN_INPUT", "IN_OUTPUT", "IN_REQUEST", "check_members", "check_parameters"]

IN_REQUEST = frozenset({"signature", "timeout", "binary_data_output"})
IN_INPUT = frozenset({"binary_data_size"})
IN_OUTPUT = frozenset({"binary_data"})
IN_EXAMPLES = frozenset({"binary_data_output"})
"""Parameters of requests to learn. Some clients always send ``binary_data_output``, so it is accepted although there are no outputs."""

_SEQUENCES = "sequences are not supported; every sample is predicted independently"
_SHARED = "shared memory is not supported; send the numbers as data, or as bytes after the JSON"
_WHY = {
    "sequence_id": _SEQUENCES, "sequence_start": _SEQUENCES, "sequence_end": _SEQUENCES,
    "priority": "priorities are not supported; leave it out",
    "classification": "classification is not supported; request the outputs 'label' and 'probabilities'",
    "shared_memory_region": _SHARED, "shared_memory_offset": _SHARED, "shared_memory_byte_size": _SHARED,
}  # fmt: skip


def check_parameters(parameters: Mapping[str, object], path: str, known: Collection[str]) -> None:
    """Raise ``InputError`` for a parameter that would be ignored.

    Args:
        parameters: The object ``parameters``.
        path: JSON path of the object that has them.
        known: Names of the parameters that are supported there.
    """
    for name, value in parameters.items():
        if name in known or value is None:
            continue
        if name not in _WHY:
            raise InputError(f"{path}.parameters: {_listed(known)} were expected, but {name[:80]!r} came; leave it out")
        # False as well, which equals 0: ``"sequence_start": false`` asks for nothing.
        if value not in (0, ""):
            raise InputError(f"{path}.parameters.{name}: {_WHY[name]}")


def check_members(content: Mapping[str, object], known: Collection[str], path: str = "$") -> None:
    """Raise ``InputError`` for a member of the object at a JSON path that would be ignored; null counts as absent."""
    for name, value in content.items():
        if name not in known and value is not None:
            raise InputError(f"{path}: {_listed(known)} were expected, but {name[:80]!r} came; leave it out")


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names))
