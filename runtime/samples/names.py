"""Names of classes, compared as people see them: in Unicode's composed form (NFC), without spaces or invisible marks around them.

A Mac writes folders decomposed: ``é`` as ``e`` and an accent. Another spelling of the same name is the same class, and two
spellings in one data set are an error that shows both.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from isoform.runtime.errors import InputError

__all__ = ["LONGEST", "Names", "as_known", "hint", "normal", "text_of"]

LONGEST = 256
"""Characters of a name."""
INVISIBLE = "\ufeff\u200b\u200e\u200f\u2060"
"""Marks without a width that are left when texts are copied: of byte order, of word ends, of directions."""
EDGES = re.compile(rf"^[\s{INVISIBLE}]+|[\s{INVISIBLE}]+$")
MISSING = {"nan", "NaN", "<NA>", "NA"}
"""How numpy, pandas and R write a label that is missing."""


def normal(name: str) -> str:
    """A name in the form in which names are compared."""
    return " ".join(unicodedata.normalize("NFC", EDGES.sub("", name)).split())


def text_of(path: str | Path) -> str:
    """A path as text that UTF-8 can hold; bytes of its name that are no text are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


class Names:
    """The names of one data set's classes, as they are met.

    Args:
        written: Whether programs may have written them, for whom ``nan`` is a label that is missing.
    """

    def __init__(self, *, written: bool = False) -> None:
        self._missing = MISSING if written else set[str]()
        self._spelt: dict[str, tuple[str, str]] = {}
        self._normal: dict[str, str] = {}

    def add(self, name: str, where: str) -> str:
        """The name in its normal form.

        Args:
            name: As it is written.
            where: Where it was found, for the message.

        Raises:
            InputError: If it is empty or stands for a missing one, longer than 256 characters or no text, or was met before in another spelling.
        """
        if name in self._normal:
            return self._normal[name]
        found = normal(name)
        if found in self._missing:
            raise InputError(
                f"{where} gives the label {name[:40]!r}, as programs write one that is missing; fill it, or rename the class"
            )
        if not 0 < len(found) <= LONGEST or any(0xD800 <= ord(c) < 0xE000 for c in found):
            raise InputError(
                f"{where} gives the label {name[:40]!r}, but a text of 1 to {LONGEST} characters that UTF-8 can hold was expected; rename it"
            )
        other, place = self._spelt.setdefault(found, (name, where))
        if other != name:
            raise InputError(
                f"the labels {other!a} of {place} and {name!a} of {where} are the same name but for spaces, accents or invisible marks; rename one"
            )
        self._normal[name] = found
        return found


def as_known(labels: Iterable[str], names: Sequence[str]) -> list[str]:
    """Labels in the spelling of the classes that they name; those that name none, or more than one, as they are."""
    spellings: dict[str, set[str]] = {}
    for name in names:
        spellings.setdefault(normal(name), set()).add(name)
    known = set(names)
    return [
        label if label in known or len(found := spellings.get(normal(label), set())) != 1 else next(iter(found))
        for label in labels
    ]


def hint(label: str, names: Sequence[str]) -> str:
    """``; did you mean 'Cat'?`` if a class differs from the label in upper and lower case only, else nothing."""
    wanted = normal(label[:LONGEST]).casefold()
    near = next((name for name in names if normal(name).casefold() == wanted), None)
    return "" if near is None else f"; did you mean {near[:40]!r}?"
