"""Report of what a reader has read, and what it skipped and why, so that no data is ignored silently.

60 images in 3 classes; left out: 4 hidden files, 2 files that are no images (.heic); for .heic: pip install pillow-heif
"""

from __future__ import annotations

import collections
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["Account", "plural"]

PLURALS = {
    "class": "classes",
    "file that is no image": "files that are no images",
    "file that is no recording": "files that are no recordings",
    "file that is neither image nor recording": "files that are neither images nor recordings",
    "file that is no sound": "files that are no sounds",
    "file beside the folders of the classes": "files beside the folders of the classes",
    "file of another name": "files of other names",
    "link that leads nowhere": "links that lead nowhere",
    "link to a folder that is read anyway": "links to folders that are read anyway",
    "link to a file that is read anyway": "links to files that are read anyway",
    "entry that is no file": "entries that are no files",
    "recording shorter than a window": "recordings shorter than a window",
    "row at the end of a recording": "rows at the ends of recordings",
    "frame at the end of a sound": "frames at the ends of sounds",
    "column of times or row numbers": "columns of times or row numbers",
}
"""Plurals of the reasons for which something was skipped; all others get an \"s\"."""
CUT = ("recording", "sound")
"""What windows are cut from."""


class Account:
    """Counts of what was read, filled by the readers of one command."""

    def __init__(self) -> None:
        self.files = 0
        """Number of files that samples were read from."""
        self.taken: collections.Counter[str] = collections.Counter()
        """``image``, ``window``, ``recording``, ``sound``, ``sample`` → number read."""
        self.left: collections.Counter[str] = collections.Counter()
        """Reason for skipping, in the singular → number skipped."""
        self.classes: set[str] = set()
        self.groups: set[str] = set()
        """Groups that the files name; a recording that names none is a group without a name."""
        self.remedies: dict[str, str] = {}
        """Extension of images that cannot be read → how to make them readable."""
        self._endings: dict[str, set[str]] = collections.defaultdict(set)
        self._notes: collections.Counter[str] = collections.Counter()
        self._hidden: set[Path] = set()
        self._linked: set[Path] = set()
        self._known: collections.Counter[Path] = collections.Counter()
        """Hidden folder or a parent → number of files below it that are already read or counted."""

    def take(self, what: str, count: int = 1, *, files: int = 0) -> None:
        """Count samples, and the files that they were read from."""
        self.taken[what] += count
        self.files += files

    def leave(self, what: str, count: int = 1, *, ending: str | None = None) -> None:
        """Count what is skipped.

        Args:
            what: What and why, in the singular: ``hidden file``, ``file that is no image``.
            count: Number; negative for what was counted before but is read after all.
            ending: The file's extension, to be listed; empty for a file without one.
        """
        self.left += collections.Counter({what: count})  # in-place addition removes entries that become 0 or less
        if ending is not None:
            self._endings[what].add(ending or "no ending")

    def leave_hidden(self, place: Path, count: int) -> None:
        """Count the files of a hidden folder or file, a real path, without those that are read through links; each file once."""
        # Links, as git-annex makes them, lead into hidden stores: their files are met both as hidden and as read.
        if self._hidden.isdisjoint(place.parents):
            new = count - self._known[place]
            self.leave("hidden file", new)
            self._known.update(dict.fromkeys((place, *place.parents), new))
        self._hidden.add(place)

    def take_hidden(self, file: Path) -> None:
        """Do not count a file, a real path, as skipped if it is in a hidden folder but read through a link."""
        if file in self._linked:
            return
        self._linked.add(file)
        if self._hidden.isdisjoint(places := (file, *file.parents)):
            self._known.update(places)
        else:
            self.leave("hidden file", -1)

    def add(self, other: Account) -> None:
        """Add the counts of another reader, of other files."""
        self.files += other.files
        for ours, theirs in ((self.taken, other.taken), (self.left, other.left), (self._notes, other._notes)):
            ours.update(theirs)
        self.classes |= other.classes
        self.groups |= other.groups
        self.remedies |= other.remedies
        for what, endings in other._endings.items():
            self._endings[what] |= endings

    def note(self, what: str) -> None:
        """Add a note; equal notes are counted."""
        self._notes[what] += 1

    def sentence(self) -> str:
        """Return the report as one line."""
        taken = ", ".join(plural(count, what) for what, count in self.taken.items() if what not in CUT) or "nothing"
        for what in CUT:
            if what in self.taken:
                taken += f" of {plural(self.taken[what], what)}"
        if self.classes:
            taken += f" in {plural(len(self.classes), 'class')}"
        if self.groups:
            taken += f" of {plural(len(self.groups), 'group')}"
        parts = [taken]
        if self.left:
            parts.append("left out: " + ", ".join(self._left()))
        parts += [text if count == 1 else f"{text} ({count} times)" for text, count in self._notes.items()]
        return "; ".join(parts) + self.advice()

    def advice(self) -> str:
        """Return how to make skipped images readable: ``; for .heic: pip install pillow-heif``."""
        return "".join(f"; for {ending}: {remedy}" for ending, remedy in sorted(self.remedies.items()))

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        return {"taken": dict(self.taken), "left_out": dict(self.left), "files": self.files, "notes": dict(self._notes)}

    def _left(self) -> Iterable[str]:
        for what, count in self.left.items():
            endings = f" ({', '.join(sorted(self._endings[what])[:8])})" if what in self._endings else ""
            yield plural(count, what) + endings


def plural(count: int, what: str) -> str:
    """Return number and noun: ``1 image``, ``2 images``, ``2 files that are no images``."""
    return f"{count:,} {what if count == 1 else PLURALS.get(what, what + 's')}"
