"""Listing of a folder's data files, with the same rules for every reader.

Hidden files and files of operating systems are skipped. Links are followed, but no folder and no linked file is read twice, so
that a link cannot give one sample two labels. Everything that is skipped is counted.
"""

from __future__ import annotations

import os
from pathlib import Path

from isoform.runtime.errors import InputError
from isoform.runtime.samples.account import Account
from isoform.runtime.samples.names import Names, normal

__all__ = ["SPLITS", "Listing"]

SYSTEM = {
    "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "#recycle", "@recycle",
    "#snapshot", "lost+found", "$recycle.bin", "recycler", "system volume information", "network trash folder",
    "temporary items", "found.000", "__pycache__",
}  # fmt: skip
"""Files and folders of operating systems and storage devices, in lower case."""
SPLITS = {"train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval"}


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of that name is hidden or belongs to the operating system."""
    return name.startswith((".", "~$")) or name.casefold() in SYSTEM  # Office locks documents with files named "~$…"


class Listing:
    """The files below one folder.

    Args:
        root: The folder. It is read even if its name is that of a hidden one.
        account: Counts what is skipped.
    """

    def __init__(self, root: Path, account: Account) -> None:
        self._account = account
        self._root = Path(os.path.realpath(root))
        self._linked: dict[Path, Path] = {}
        """Target folder → link to it."""
        self._read: set[Path] = set()
        """Real paths of all files that ``below`` has returned."""
        self._in_classes = False
        self._classes: dict[str, Path] = {}

    def level(self, folder: Path) -> tuple[list[Path], list[Path]]:
        """Return the folders and the files directly in a folder that may be data, each sorted by name.

        Raises:
            InputError: If the folder cannot be read.
        """
        folders, files, _ = self._level(folder)
        return folders, files

    def below(self, folder: Path) -> list[Path]:
        """Return all files in a folder and its subfolders that may be data, sorted. Raises ``InputError`` if a folder cannot be read.

        A link to a file is skipped if the file is below the root, or was returned before.
        """
        found, waiting = list[tuple[Path, Path]](), [folder]
        while waiting:
            place = waiting.pop()
            folders, files = self.level(place)
            waiting += folders
            real = Path(os.path.realpath(place))
            found += [(path, Path(os.path.realpath(path)) if path.is_symlink() else real / path.name) for path in files]
        kept = []
        for path, target in sorted(found):
            if target in self._read or (path.is_symlink() and self._is_file_read(target)):
                self._account.leave("link to a file that is read anyway")
            else:
                self._read.add(target)
                kept.append(path)
                if any(map(is_hidden, target.parts)):
                    self._account.take_hidden(target)
        inside = {part for path in kept for part in path.relative_to(folder).parts[:-1]}
        for name in sorted(inside):
            if self._classes.get(normal(name), folder) != folder:
                self._account.note(f"folder {name!a} in class {folder.name!a} has the name of another class")
        return kept

    def classes(self, folder: Path) -> dict[str, Path]:
        """Return the folders of the classes by class name, sorted.

        Raises:
            InputError: If two names differ only in spaces, accents or invisible characters, a name is not valid text, two are the same
                folder by links, or they are the splits of a data set.
        """
        folders, files, lost = self._level(folder)
        self._in_classes = True
        for path, target in lost:
            if os.path.isdir(target):
                raise InputError(
                    f"link {path} points to {target}, so it shares samples with {self._read_as(target, path)}; a sample has one label, remove one of the two"
                )
            if not os.path.exists(target) and not path.suffix:
                raise InputError(f"link {path} is broken, but may be a class; repair or remove it")
        for file in files:
            self._account.leave("file beside the folders of the classes", ending=file.suffix.lower())
        # without this check, "train" and "test" would become the two classes
        if folders and all(path.name.casefold() in SPLITS for path in folders):
            halves = " and ".join(path.name for path in folders)
            raise InputError(
                f"{folder} holds {halves}, the splits of a data set, but a folder per label was expected; give one of them"
            )
        names = Names()
        self._classes = {names.add(path.name, f"folder {path}"): path for path in folders}
        return self._classes

    def _level(self, folder: Path) -> tuple[list[Path], list[Path], list[tuple[Path, Path]]]:
        """As ``level``; also return the skipped links with their targets."""
        folders, files, lost = list[Path](), list[Path](), list[tuple[Path, Path]]()
        real = Path(os.path.realpath(folder))
        for entry in _entries(folder):
            path = folder / entry.name
            directory = entry.is_dir(follow_symlinks=False)
            if is_hidden(entry.name):
                self._account.leave_hidden(real / entry.name, _count(path) if directory else 1)
            elif entry.is_symlink():
                target = Path(os.path.realpath(path))
                if (why := self._follow(path, target, folders, files)) is not None:
                    self._account.leave(why)
                    lost.append((path, target))
            elif directory:
                folders.append(path)
            elif entry.is_file(follow_symlinks=False):
                files.append(path)
            else:
                self._account.leave("entry that is no file")
        return folders, files, lost

    def _follow(self, path: Path, target: Path, folders: list[Path], files: list[Path]) -> str | None:
        """Add a link to the folders or files by the type of its target; or return why it is skipped."""
        if os.path.isdir(target):
            if self._read_as(target, path) is not None:
                return "link to a folder that is read anyway"
            self._linked[target] = path
            folders.append(path)
        elif os.path.isfile(target):
            files.append(path)
        else:
            return "entry that is no file" if os.path.exists(target) else "link that leads nowhere"
        return None

    def _read_as(self, target: Path, link: Path) -> Path | None:
        """Return the folder through which files below ``target``, a folder, are read in addition to ``link``; None if there is none."""
        # a link upwards would read everything below the root a second time
        if self._root.is_relative_to(target):
            return self._root
        if _is_below(target, self._root):
            return target
        shared = (other for other in self._linked if _is_below(target, other) or _is_below(other, target))
        return next((self._linked[other] for other in shared if self._linked[other] != link), None)

    def _is_file_read(self, target: Path) -> bool:
        """Return whether a file is also read under its real path or through a linked folder."""
        # a file beside the classes is left out, so a link in a class is the only way to it
        beside = self._in_classes and target.parent == self._root
        return not beside and any(_is_below(target, place) for place in (self._root, *self._linked))


def _is_below(path: Path, folder: Path) -> bool:
    """Return whether a path is that folder, or is in it and not hidden there."""
    return path.is_relative_to(folder) and not any(map(is_hidden, path.relative_to(folder).parts))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as problem:
        raise InputError(f"folder {folder} cannot be read: {problem.strerror or problem}") from None


def _count(folder: Path) -> int:
    """Count the files of a hidden folder; parts that cannot be read count as none."""
    # without recursion: folders may be nested deeper than Python's stack
    count, waiting = 0, [str(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        count += 1
        except OSError:
            continue
    return count
