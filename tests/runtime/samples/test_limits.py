"""Small files that would take much memory: refused before it is taken, or read in little, by limits that can be set."""

import io
import struct
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
from PIL import Image
from support import image

from isoform.runtime.errors import InputError, UsageError
from isoform.runtime.samples.account import Account
from isoform.runtime.samples.pictures.images import load_image
from isoform.runtime.samples.pictures.pillow_limit import pillow_allows
from isoform.runtime.samples.streamed import read_chunks
from isoform.runtime.samples.unlabelled import read_stream

pytestmark = pytest.mark.trust


def peak(code, *words, room=None) -> tuple[int, str]:
    """MB by which a process's memory grew while it ran a line, and what it printed; with ``room``, it gets so many MB and no more."""
    start = (
        "import resource, sys, numpy as np\nfrom pathlib import Path\nfrom isoform.runtime.errors import InputError\n"
        "from isoform.runtime.samples.pictures.images import load_image\nfrom isoform.runtime.samples.unlabelled import read_stream\n"
        "from isoform.runtime.inputs import Input\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "if {room}: resource.setrlimit(resource.RLIMIT_AS, (size + ({room} << 20),) * 2)\n"
        "before = peak()\ntry:\n    print({code}, end=' ')\nexcept InputError as problem:\n    print(problem, end=' ')\nprint(peak() - before)"
    )
    result = subprocess.run(
        [sys.executable, "-c", start.format(code=code, room=room or 0), *map(str, words)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    text, _, grown = result.stdout.strip().rpartition(" ")
    return int(grown), text


def test_a_small_file_takes_no_large_memory(tmp_path) -> None:
    """A PNG of some kilobytes and 64 million pixels is refused unread; one of 17 million, with alpha, takes under 220 MB."""
    image = Image.new("1", (8192, 8192))
    image.save(tmp_path / "bomb.png", compress_level=9)
    code = "load_image(Path(sys.argv[1]), shape=(3, 32, 32)).shape"
    grown, text = peak(code, tmp_path / "bomb.png")
    assert "is larger than the limit of 33,554,432 pixels" in text
    assert "ISOFORM_MAX_IMAGE_PIXELS" in text
    assert grown < 30
    Image.new("RGBA", (4096, 4096), (255, 0, 0, 128)).save(tmp_path / "large.png", compress_level=1)
    grown, text = peak(code, tmp_path / "large.png")
    assert text == "(3, 32, 32)"
    assert grown < 220


def test_a_small_archive_takes_no_large_memory(tmp_path) -> None:
    """Arrays of 295 MB in a file of 1.3 MB are refused before memory is taken; the limit can be set."""
    shape = (24_000, 3, 32, 32)
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": shape})
    with (
        zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file,
        file.open("x.npy", "w") as member,
    ):
        member.write(head.getvalue())
        for _ in range(24):
            member.write(bytes(1000 * 3 * 32 * 32 * 4))
    code = "read_stream(Path(sys.argv[1]), takes=Input(what='image', shape=(3, 32, 32))).x.shape"
    grown, text = peak(code, tmp_path / "a.npz")
    assert "294,912,000 bytes, but at most 268,435,456 are read" in text
    assert grown < 30


def test_too_little_memory_is_no_damage(tmp_path) -> None:
    """A sound image, archive or folder that memory does not hold is said to need more, not to be damaged."""
    Image.new("RGBA", (4096, 4096)).save(tmp_path / "a.png", compress_level=1)
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((7500, 3, 32, 32), np.float32))
    (tmp_path / "many").mkdir()
    for number in range(40):
        Image.new("L", (4, 4)).save(tmp_path / "many" / f"{number}.png")
    image = "load_image(Path(sys.argv[1]), shape=(3, 32, 32)).shape"
    stream = "read_stream(Path(sys.argv[1]), takes=Input(what='image', shape=(3, {0}, {0}))).x.shape"
    for code, name, message in (
        (image, "a.png", "a.png needs more memory than is available; make it smaller"),
        (stream.format(32), "a.npz", "a.npz needs more memory than is available; give fewer samples"),
        (stream.format(700), "many", "there is not enough memory for"),
    ):
        assert message in peak(code, tmp_path / name, room=60)[1]


def test_many_pictures_in_a_file_take_no_time(tmp_path) -> None:
    """A TIFF file of 30,000 pictures, or one whose list of pictures goes round in circles, is read as fast as one of two."""
    tags = {256: 4, 257: 4, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 4, 279: 16}
    entries = struct.pack("<H", len(tags)) + b"".join(
        struct.pack("<HHII", tag, 3, 1, value) for tag, value in tags.items()
    )
    places = [8 + 16 + number * (len(entries) + 4) for number in range(30_000)]
    for name, following in (("long", [*places[1:], 0]), ("circle", [places[0]] * len(places))):
        directories = b"".join(entries + struct.pack("<I", place) for place in following)
        (tmp_path / f"{name}.tif").write_bytes(b"II*\0" + struct.pack("<I", places[0]) + b"\xff" * 16 + directories)
        account, started = Account(), time.monotonic()
        assert load_image(tmp_path / f"{name}.tif", shape=(1, 4, 4), account=account).min() == 1
        assert time.monotonic() - started < 4
        assert ("several images" in account.sentence()) == (name == "long")


def test_samples_of_many_files_are_bounded(tmp_path, monkeypatch) -> None:
    """The limit holds for all samples together, but not for images to predict; a setting that is none is named."""
    for number in range(4):
        Image.new("L", (4, 4)).save(tmp_path / f"{number}.png")
    monkeypatch.setenv("ISOFORM_MAX_DATA_BYTES", str(3 * 64 + 8))
    with pytest.raises(InputError, match=r"more than 3 samples of shape \(1, 4, 4\).*ISOFORM_MAX_DATA_BYTES"):
        read_stream(tmp_path, takes=image((1, 4, 4)))
    chunks = read_chunks([tmp_path], takes=image((1, 4, 4)), account=Account(), chunk=2)
    assert [len(one.x) for one in chunks] == [2, 2]
    for name in ("ISOFORM_MAX_DATA_BYTES", "ISOFORM_MAX_IMAGE_PIXELS"):
        monkeypatch.setenv(name, "many")
        with pytest.raises(UsageError, match=f"{name} is 'many', but a whole number above 0"):
            read_stream(tmp_path, takes=image((1, 4, 4)))
        monkeypatch.delenv(name)


def test_the_limit_of_pixels_can_be_set(tmp_path, monkeypatch) -> None:
    """An image of one pixel more than the setting is refused, one of as many is read."""
    Image.new("L", (10, 10)).save(tmp_path / "a.png")
    monkeypatch.setenv("ISOFORM_MAX_IMAGE_PIXELS", "100")
    assert load_image(tmp_path / "a.png", shape=(1, 4, 4)).shape == (1, 4, 4)
    monkeypatch.setenv("ISOFORM_MAX_IMAGE_PIXELS", "99")
    with pytest.raises(InputError, match="larger than the limit of 99 pixels"):
        load_image(tmp_path / "a.png", shape=(1, 4, 4))


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "ppm", "webp", "gif", "tiff"])
def test_pillows_lower_limit_does_not_hold(ending, tmp_path, monkeypatch) -> None:
    """In every format, an image above Pillow's limit but not above the setting is read, and Pillow's limit is the same afterwards."""
    Image.new("L", (10, 10)).save(tmp_path / f"a.{ending}")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    monkeypatch.setenv("ISOFORM_MAX_IMAGE_PIXELS", "100")
    assert load_image(tmp_path / f"a.{ending}", shape=(1, 4, 4)).shape == (1, 4, 4)
    monkeypatch.setenv("ISOFORM_MAX_IMAGE_PIXELS", "99")
    with pytest.raises(InputError, match="larger than the limit of 99 pixels"):
        load_image(tmp_path / f"a.{ending}", shape=(1, 4, 4))
    assert Image.MAX_IMAGE_PIXELS == 40
    with pytest.raises(Image.DecompressionBombError):  # the application's own reading
        Image.open(tmp_path / f"a.{ending}")


def test_pillows_limit_is_restored_after_the_last_reader(monkeypatch) -> None:
    """Readers that overlap keep the limit raised until the last of them has finished; a limit that is high enough stays untouched."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    with pillow_allows(80):
        assert Image.MAX_IMAGE_PIXELS == 40
    first, second = pillow_allows(101), pillow_allows(90)
    with first:
        second.__enter__()
        assert Image.MAX_IMAGE_PIXELS == 51
    assert Image.MAX_IMAGE_PIXELS == 51
    second.__exit__(None, None, None)
    assert Image.MAX_IMAGE_PIXELS == 40
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pillow_allows(1000):
        assert Image.MAX_IMAGE_PIXELS is None


def test_a_long_recording_is_read_in_little_more_than_its_numbers(tmp_path) -> None:
    """A table of 4 MB takes less than 30 MB, where a list of its fields would take a hundred."""
    (tmp_path / "a.csv").write_text("x,y\n" + "1.25,-2.5\n" * 400_000)
    grown, text = peak(
        "read_stream(Path(sys.argv[1]), takes=Input(what='image', shape=(2, 1, 128))).x.shape", tmp_path / "a.csv"
    )
    assert text == "(3125, 2, 1, 128)"
    assert grown < 30
