"""Parameters of a request, of its inputs and of its outputs: those that are known, and none besides.

A parameter that is left alone may change what its sender takes the answer for, so it is refused by name, on every level. A value by which
a client says that it asks for nothing (``"priority": 0``) is as good as none.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from isoform.runtime.errors import InputError

__all__ = ["IN_EXAMPLES", "IN_INPUT", "IN_OUTPUT", "IN_REQUEST", "check_members", "check_parameters"]

IN_REQUEST = frozenset({"signature", "timeout", "binary_data_output"})
IN_INPUT = frozenset({"binary_data_size"})
IN_OUTPUT = frozenset({"binary_data"})
IN_EXAMPLES = frozenset({"binary_data_output"})
"""Of samples to learn from: clients that always say how outputs are to be sent are not refused, though there are none."""

_SEQUENCES = "there are no sequences here; every sample stands for itself"
_SHARED = "there is no shared memory with this server; send the numbers as data, or behind the JSON"
_WHY = {
    "sequence_id": _SEQUENCES, "sequence_start": _SEQUENCES, "sequence_end": _SEQUENCES,
    "priority": "there are no priorities here; leave it out",
    "classification": "there is no classification here; ask for the outputs 'label' and 'probabilities'",
    "shared_memory_region": _SHARED, "shared_memory_offset": _SHARED, "shared_memory_byte_size": _SHARED,
}  # fmt: skip


def check_parameters(parameters: Mapping[str, object], path: str, known: Collection[str]) -> None:
    """Raise ``InputError`` for a parameter that would be ignored.

    Args:
        parameters: What stands in ``parameters``.
        path: JSON path of what they belong to.
        known: Names of those that have a meaning there.
    """
    for name, value in parameters.items():
        if name in known or value is None:
            continue
        if name not in _WHY:
            raise InputError(f"{path}.parameters: {_listed(known)} were expected, but {name[:80]!r} came; leave it out")
        if value not in (0, ""):
            raise InputError(f"{path}.parameters.{name}: {_WHY[name]}")


def check_members(content: Mapping[str, object], known: Collection[str], path: str = "$") -> None:
    """Raise ``InputError`` for a member of an object, the one at a JSON path of a request, that would be ignored."""
    for name, value in content.items():
        if name not in known and value is not None:
            raise InputError(f"{path}: {_listed(known)} were expected, but {name[:80]!r} came; leave it out")


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names))
