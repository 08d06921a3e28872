"""Normalisation of the names of classes and groups: Unicode's composed form (NFC), no spaces or invisible characters at either end, one space for several.

macOS writes folder names in decomposed form: ``é`` as ``e`` and an accent. Different spellings of a name are the same class; two
spellings within one data set are an error that shows both.
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
"""Maximum number of characters of a name."""
INVISIBLE = "\ufeff\u200b\u200e\u200f\u2060"
"""Zero-width characters that remain when text is copied: byte order mark, zero-width space, direction marks, word joiner."""
EDGES = re.compile(rf"^[\s{INVISIBLE}]+|[\s{INVISIBLE}]+$")
MISSING = {"nan", "NaN", "<NA>", "NA"}
"""How numpy, pandas and R write a missing value."""


def normal(name: str) -> str:
    """Return the normalised form of a name, in which names are compared."""
    # split() also turns a no-break space, which looks the same, into a space
    return " ".join(unicodedata.normalize("NFC", EDGES.sub("", name)).split())


def text_of(path: str | Path) -> str:
    """Return a path as text that can be encoded as UTF-8; undecodable bytes are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


class Names:
    """Class names of one data set, in the order in which they are found.

    Args:
        written: Whether programs may have written them, so that ``nan`` is a missing label.
        what: What is named, for messages: ``label`` or ``group``.
    """

    def __init__(self, *, written: bool = False, what: str = "label") -> None:
        self._what = what
        self._missing = MISSING if written else set[str]()
        self._spelt: dict[str, tuple[str, str]] = {}
        self._normal: dict[str, str] = {}

    def add(self, name: str, where: str) -> str:
        """Return the name in its normalised form.

        Args:
            name: The name as written.
            where: Where it was found, for messages.

        Raises:
            InputError: If it is empty, a missing value, longer than 256 characters or not valid text, or was found before in another spelling.
        """
        # a table repeats its labels in every row: the checks run once per spelling
        if name in self._normal:
            return self._normal[name]
        found = normal(name)
        if found in self._missing:
            renamed = "class" if self._what == "label" else self._what
            raise InputError(
                f"{where} has the {self._what} {name[:40]!r}, which means a missing value; fill it in, or rename the {renamed}"
            )
        # surrogates are no characters
        if not 0 < len(found) <= LONGEST or any(0xD800 <= ord(c) < 0xE000 for c in found):
            raise InputError(
                f"{where} has the {self._what} {name[:40]!r}, but 1 to {LONGEST} characters that can be encoded as UTF-8 were expected; rename it"
            )
        other, place = self._spelt.setdefault(found, (name, where))
        if other != name:
            raise InputError(
                f"the {self._what}s {other!a} of {place} and {name!a} of {where} differ only in spaces, accents or invisible characters; rename one"
            )
        self._normal[name] = found
        return found


def as_known(labels: Iterable[str], names: Sequence[str]) -> list[str]:
    """Return labels in the spelling of the classes that they match; labels that match none, or more than one, are unchanged."""
    spellings: dict[str, set[str]] = {}
    for name in names:
        spellings.setdefault(normal(name), set()).add(name)
    known = set(names)
    return [
        label if label in known or len(found := spellings.get(normal(label), set())) != 1 else next(iter(found))
        for label in labels
    ]


def hint(label: str, names: Sequence[str]) -> str:
    """Return ``; did you mean 'Cat'?`` if a class differs from the label only in upper and lower case, else an empty string."""
    # Only a hint, because classes may differ in case alone: EMNIST has both "a" and "A".
    wanted = normal(label[:LONGEST]).casefold()
    near = next((name for name in names if normal(name).casefold() == wanted), None)
    return "" if near is None else f"; did you mean {near[:40]!r}?"
