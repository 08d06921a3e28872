"""Folders of samples as users' disks have them: good files among odd ones, drawn from a seed, for readers to survive."""

from __future__ import annotations

import io
import os
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["GOOD", "ODD", "hostile_folder", "hostile_table", "image"]


def image(rng: random.Random, form: str = "PNG", mode: str = "L") -> bytes:
    """A small image of random pixels."""
    pixels = np.frombuffer(rng.randbytes(5 * 6 * 3), np.uint8).reshape(5, 6, 3)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, form)
    return buffer.getvalue()


def cut(rng: random.Random) -> bytes:
    """Half of an image."""
    whole = image(rng)
    return whole[: rng.randrange(len(whole))]


def flipped(rng: random.Random) -> bytes:
    """An image with some bytes changed."""
    data = bytearray(image(rng, rng.choice(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])))
    for _ in range(rng.randrange(1, 6)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


GOOD: dict[str, Callable[[random.Random], bytes]] = {
    "a.png": image,
    "B.PNG": image,
    "c.JPEG": lambda rng: image(rng, "JPEG", "RGB"),
    "d.jfif": lambda rng: image(rng, "JPEG"),
    "e.jpe": lambda rng: image(rng, "JPEG", "CMYK"),
    "f.tif": lambda rng: image(rng, "TIFF", "LA"),
    "g.gif": lambda rng: image(rng, "GIF", "P"),
    "deep/er/h.webp": lambda rng: image(rng, "WEBP", "RGB"),
    "spaces and ünïcode ☃.bmp": lambda rng: image(rng, "BMP"),
}
"""Names and contents of images that are samples."""
ODD: dict[str, Callable[[random.Random], bytes]] = {
    **{name: (lambda rng: rng.randbytes(20)) for name in (
        "._a.png", ".DS_Store", "Thumbs.db", "desktop.ini", "@eaDir/a.png/x", "__MACOSX/._a.png", ".git/objects/00/ff",
        "notes.txt", "a.png.xmp", "noending", "clip.MP4", "lost+found/#123.png", "~$sheet.csv", "data.npz", "x.png~",
    )},
    "photo.HEIC": lambda rng: b"\0\0\0\x18ftypheic" + rng.randbytes(50),
    "raw.NEF": lambda rng: rng.randbytes(50),
    "table.csv": lambda rng: b"x,y\n1,2\n",
}  # fmt: skip
"""Names and contents of what is left out of a network's images."""
BAD: dict[str, Callable[[random.Random], bytes]] = {
    "empty.png": lambda rng: b"",
    "cut.png": cut,
    "flipped.png": flipped,
    "text.jpg": lambda rng: b"hello",
    "really.jpg": lambda rng: b"\0\0\0\x18ftypheic" + rng.randbytes(50),
    os.fsdecode(b"caf\xe9\n.png"): lambda rng: rng.randbytes(9),
    "float.tiff": lambda rng: image(rng, "TIFF", "F"),
}
"""Names and contents of what has an image's name and is none, or may be none."""
LINKS = {"circle": "..", "gone.png": "nowhere.png", "self.png": "self.png", "twice.png": "a.png", "up": "../.."}


def hostile_folder(folder: Path, rng: random.Random, *, bad: bool) -> int:
    """Fill a folder with two or three classes.

    Args:
        folder: An empty folder.
        rng: What is drawn from.
        bad: Whether there may be files that a reader has to refuse.

    Returns:
        How many files there are, links included.
    """
    for label in rng.sample(["cat", "dog", "bird ", "é", "1"], rng.randrange(2, 4)):
        names = {
            "a.png": image,
            **dict(rng.sample(sorted(GOOD.items()), 4)),
            **dict(rng.sample(sorted(ODD.items()), 6)),
        }
        if bad and rng.random() < 0.7:
            names |= dict(rng.sample(sorted(BAD.items()), 1))
        for name, content in names.items():
            place = folder / label / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content(rng))
        for name, target in rng.sample(sorted(LINKS.items()), 2):
            (folder / label / name).symlink_to(target)
        if rng.random() < 0.3:
            os.mkfifo(folder / label / "pipe.png")
    for name, content in rng.sample(sorted(ODD.items()), 4):
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content(rng))
    return sum(
        len(files) + sum(os.path.islink(os.path.join(at, d)) for d in folders) for at, folders, files in os.walk(folder)
    )


CELLS = [
    "1",
    "2.5",
    "-3e4",
    "",
    "nan",
    "inf",
    "1,5",
    "1_0",
    '"x',
    '"a\nb"',
    "#",
    "é",
    "1e999",
    "\0",
    " 7 ",
    "0x10",
    "a;b",
    "١",
]
LINES = ["", "   ", "# note", "sep=;", ",,,", "label,x,y", "x;y", "\ufeff", "1", "2\t3", '"']
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1", "utf-32"]


def hostile_table(rng: random.Random) -> bytes:
    """A table with something odd in it: cells, lines, separators, ends of lines, encodings, bytes."""
    separator = rng.choice(",,;\t|")
    header = rng.choice(
        [["x", "y"], ["label", "x", "y"], ["", "x", "y"], ["y", "x"], ["time", "x", "y"], ["x"], ["1", "2"]]
    )
    lines = [separator.join(header)]
    for _ in range(rng.randrange(9)):
        row = [rng.choice(["1", "2.5", "3"]) if rng.random() < 0.9 else rng.choice(CELLS) for _ in header]
        lines.append(separator.join(row))
        if rng.random() < 0.1:
            lines.insert(rng.randrange(len(lines)), rng.choice(LINES))
    data = rng.choice(["\n", "\n", "\r\n", "\r"]).join(lines).encode(rng.choice(ENCODINGS), "replace")
    if rng.random() < 0.2:
        data = data[: rng.randrange(len(data) + 1)] + rng.randbytes(rng.randrange(3))
    return data


def hostile_archive(rng: random.Random, shape: tuple[int, int, int]) -> bytes:
    """An .npz with something odd in it: shapes, types, names, methods."""
    buffer = io.BytesIO()
    arrays = {
        "x": rng.choice([np.zeros((2, *shape), "f4"), np.zeros((2, *shape), ">u2"), np.zeros(3), np.array([{}]), np.float32(1)]),
        "labels": rng.choice([np.array(["a", "b"]), np.array(["a ", "a"]), np.array([1, 2]), np.array([b"a", b"b"]), np.array(["", "b"])]),
    }  # fmt: skip
    with zipfile.ZipFile(buffer, "w", rng.choice([0, 8, 12, 14])) as file:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.save(member, array, allow_pickle=True)
            data = member.getvalue()
            file.writestr(
                rng.choice([name, f"{name}.npy", f"{name}.npy", f"in/{name}.npy"]), data[: rng.choice([len(data), 20])]
            )
    data = bytearray(buffer.getvalue())
    if rng.random() < 0.3:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)
