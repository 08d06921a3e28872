"""Every mode of image in its own range, or refused by name, and formats that Pillow reads with a plug-in only."""

import importlib.util
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin
from support import image

from isoform.runtime.errors import InputError
from isoform.runtime.samples.labelled import read_labelled
from isoform.runtime.samples.pictures import formats
from isoform.runtime.samples.pictures.images import load_image
from isoform.runtime.samples.pictures.pixels import depth, planes

pytestmark = pytest.mark.trust


def tiff(pixels, *, bits, photometric=1, order="<", sample_format=1) -> bytes:
    """An uncompressed grey TIFF file of any depth, written by hand."""
    data = pixels.tobytes() if isinstance(pixels, np.ndarray) else pixels
    height, width = 4, 4
    tags = {256: (3, width), 257: (3, height), 258: (3, bits), 259: (3, 1), 262: (3, photometric), 273: (4, 8),
            277: (3, 1), 278: (3, height), 279: (4, len(data)), 339: (3, sample_format)}  # fmt: skip
    entries = b"".join(
        struct.pack(
            order + "HHI" + ("HH" if kind == 3 else "I"), tag, kind, 1, *((value, 0) if kind == 3 else (value,))
        )
        for tag, (kind, value) in tags.items()
    )
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return (
        mark + struct.pack(order + "I", 8 + len(data)) + data + struct.pack(order + "H", len(tags)) + entries + bytes(4)
    )


RAMP = np.arange(16) * 4369
"""0 to 65535 in equal steps."""


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (tiff(RAMP.astype("<u2"), bits=16), RAMP / 65535),
        (tiff(RAMP.astype("<u2"), bits=16, photometric=0), 1 - RAMP / 65535),
        (tiff(RAMP.astype(">u2"), bits=16, order=">"), RAMP / 65535),
        (tiff((RAMP >> 8).astype("u1"), bits=8, photometric=0), 1 - RAMP / 65535),
        (tiff(bytes.fromhex("000111222333444555666777888999aaabbbcccdddeeefff"), bits=12), RAMP / 65535),
    ],
    ids=["16", "16, white is 0", "16, big-endian", "8, white is 0", "12"],
)
def test_tiff(data, expected, tmp_path) -> None:
    """Grey TIFF of 8, 12 and 16 bits, black or white at zero, spans 0 to 1 the right way round, for grey and colour."""
    (tmp_path / "a.tiff").write_bytes(data)
    for channels in (1, 3):
        found = load_image(tmp_path / "a.tiff", shape=(channels, 4, 4))
        np.testing.assert_allclose(found.reshape(channels, 16), np.tile(expected, (channels, 1)), atol=1e-5)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tiff(np.arange(16, dtype="<f4") / 15, bits=32, sample_format=3), "floating-point pixels of unknown range"),
        (tiff(np.arange(16, dtype="<u4") * 17, bits=32), "of more than 16 bits, of unknown range"),
        (tiff(np.arange(16, dtype="<i4") * 17, bits=32, sample_format=2), "of more than 16 bits, of unknown range"),
        (tiff(np.arange(16, dtype="<i2"), bits=16, sample_format=2), "signed integers"),
        (tiff(np.arange(-8, 8, dtype="i1"), bits=8, sample_format=2), "signed integers"),
        (b"Pf\n4 4\n-1.0\n" + bytes(64), "floating-point pixels of unknown range"),
    ],
    ids=["float", "unsigned 32", "signed 32", "signed 16", "signed 8", "PFM"],
)
def test_unknown_ranges_are_refused(data, message, tmp_path) -> None:
    """Numbers of which nobody says how bright they are: refused by name, with what to save instead."""
    (tmp_path / "a.tiff").write_bytes(data)
    with pytest.raises(InputError, match=f"a.tiff holds .*{message}.*save it with 8 or 16 bits"):
        load_image(tmp_path / "a.tiff", shape=(1, 4, 4))


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "La", "RGBa", "PA"]
)
@pytest.mark.parametrize("large", [False, True])
def test_white_is_white_and_black_black_in_every_mode(mode, large, tmp_path, monkeypatch) -> None:
    """Half white, half black, saved in each mode that a file can have, with and without being made smaller first."""
    monkeypatch.setattr("isoform.runtime.samples.pictures.pixels.LARGE", 500 if large else 4 << 20)
    grey = Image.fromarray(np.repeat(np.uint8([0, 255]), 32)[None].repeat(64, axis=0))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    elif mode == "LAB":
        image = Image.frombytes("LAB", (64, 64), bytes(channel for p in grey.tobytes() for channel in (p, 0, 0)))
    elif mode in ("La", "RGBa"):
        image = grey.convert({"La": "LA", "RGBa": "RGBA"}[mode]).convert(mode)
    elif mode == "PA":
        image = grey.convert("RGB").convert("P").convert("PA")
    else:
        image = (grey if mode in ("1", "L", "LA") else grey.convert("RGB")).convert(mode)
    path = tmp_path / f"a.{'png' if mode in ('1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'I;16') else 'tiff'}"
    for channels in (1, 3):
        if mode in ("La", "RGBa", "PA"):  # Pillow reads these from TIFF files, but writes none
            assert depth(image, path) == (8, False)
            found = np.stack([*planes(image, channels, bits=8, white_is_zero=False, size=(4, 4))])
        else:
            image.save(path)
            found = load_image(path, shape=(channels, 4, 4))
        assert found.shape[0] == channels
        assert found[:, :, 0].max() < 0.05
        assert found[:, :, -1].min() > 0.95


def png(bits, colour, samples, key=None) -> bytes:
    """A PNG file of one row, written by hand: colour 0 is grey, 2 RGB, 4 grey with alpha, 6 RGBA; ``key`` is what tRNS names."""
    packed = "".join(format(sample, f"0{bits}b") for sample in samples)
    row = b"\0" + bytes(int(packed[at : at + 8].ljust(8, "0"), 2) for at in range(0, len(packed), 8))
    width = len(samples) // {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, 1, bits, colour, 0, 0, 0))]
    chunks += [] if key is None else [(b"tRNS", struct.pack(f">{len(key)}H", *key))]
    chunks += [(b"IDAT", zlib.compress(row)), (b"IEND", b"")]
    made = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)


RED_AND_GREEN = [255, 0, 0, 0, 255, 0, 0, 85, 0, 255, 255, 255]
DEEP_COLOURS = [65535, 0, 0, 0, 0xFE01, 0, 0, 21845, 0, 65535, 65535, 65535]


@pytest.mark.parametrize(
    ("bits", "colour", "samples", "key", "green"),
    [
        (1, 0, [0, 1, 1, 0], None, [0, 1, 1, 0]),
        (1, 0, [0, 1, 1, 0], [1], [0, 0, 0, 0]),
        (2, 0, [0, 1, 2, 3], [3], [0, 1 / 3, 2 / 3, 0]),
        (2, 0, [0, 1, 2, 3], [0xFFFD], [0, 0, 2 / 3, 1]),
        (4, 0, [0, 5, 10, 15], [10], [0, 1 / 3, 0, 1]),
        (8, 0, [0, 85, 170, 255], [85], [0, 0, 2 / 3, 1]),
        (8, 0, [0, 85, 170, 255], [0x0155], [0, 0, 2 / 3, 1]),
        (16, 0, [0, 21845, 43690, 65535], [65535], [0, 1 / 3, 2 / 3, 0]),
        (16, 0, [0, 21845, 21846, 65535], [21845], [0, 0, 1 / 3, 1]),
        (8, 2, RED_AND_GREEN, [0, 255, 0], [0, 0, 1 / 3, 1]),
        (16, 2, DEEP_COLOURS, [0, 0xFE01, 0], [0, 0, 1 / 3, 1]),
        (8, 4, [255, 255, 255, 0, 0, 255, 255, 85], None, [1, 0, 0, 1 / 3]),
        (16, 4, [65535, 65535, 65535, 0, 0, 65535, 65535, 21845], None, [1, 0, 0, 1 / 3]),
        (16, 6, [0, 65535, 0, 65535, 0, 65535, 0, 0, 0, 65535, 0, 21845, 0, 0, 0, 65535], None, [1, 0, 1 / 3, 0]),
    ],
)
@pytest.mark.parametrize("large", [False, True])
def test_transparency_at_every_depth(bits, colour, samples, key, green, large, tmp_path, monkeypatch) -> None:
    """A transparent grey or colour, and an alpha channel, are black at every depth of PNG; the other pixels stay as they are."""
    monkeypatch.setattr("isoform.runtime.samples.pictures.pixels.LARGE", 3 if large else 4 << 20)
    (tmp_path / "a.png").write_bytes(png(bits, colour, samples, key))
    np.testing.assert_allclose(load_image(tmp_path / "a.png", shape=(3, 1, 4))[1, 0], green, atol=1e-3)


def test_modes_without_a_range_are_refused(tmp_path, monkeypatch) -> None:
    """A mode that Pillow may have one day is refused by name, not guessed."""
    monkeypatch.setattr("isoform.runtime.samples.pictures.pixels.EIGHT_BITS", {"L"})
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="mode RGB, whose range is unknown"):
        load_image(tmp_path / "a.png", shape=(1, 4, 4))


def test_what_needs_a_plug_in_says_so(tmp_path) -> None:
    """A photograph in HEIC, whatever its file is called, names the package to install."""
    for ending in (".heic", ".jpg"):
        (tmp_path / f"a{ending}").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
        if importlib.util.find_spec("pillow_heif") is None:
            with pytest.raises(InputError, match=r"it is .heic: pip install pillow-heif"):
                load_image(tmp_path / f"a{ending}", shape=(1, 4, 4))


def test_a_plug_in_that_is_there_is_used(tmp_path, monkeypatch) -> None:
    """With the plug-in installed, its format is read like any other, from folders too."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "pillow_jxl.py").write_text(
        "from PIL import Image, PngImagePlugin\n"
        "class Stand(PngImagePlugin.PngImageFile):\n    format = 'JXL'\n"
        "Image.register_open('JXL', Stand, lambda head: head.startswith(b'\\x89PNG'))\n"
    )
    Image.new("L", (4, 4), 255).save(tmp_path / "a.png")
    for label in ("cat", "dog"):
        (tmp_path / "data" / label).mkdir(parents=True)
        (tmp_path / "data" / label / "a.jxl").write_bytes((tmp_path / "a.png").read_bytes())
    if importlib.util.find_spec("pillow_jxl") is not None:
        pytest.skip("the real plug-in is here")
    formats.plugged.cache_clear()
    with pytest.raises(InputError, match="for .jxl: pip install pillow-jxl-plugin"):
        read_labelled(tmp_path / "data", takes=image((1, 4, 4)))
    monkeypatch.syspath_prepend(tmp_path / "site")
    formats.plugged.cache_clear()
    assert read_labelled(tmp_path / "data", takes=image((1, 4, 4))).account.files == 2
    monkeypatch.undo()
    Image.OPEN.pop("JXL")
    Image.ID.remove("JXL")
    sys.modules.pop("pillow_jxl")
    formats.plugged.cache_clear()


def test_a_large_photograph_is_as_good_as_a_small_one(tmp_path) -> None:
    """A photograph that is made smaller first gives the sample that it gives without, JPEG, turned, and 16 bits included."""
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 255, (9, 16), np.uint8)).resize((3200, 1800), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    smooth.save(tmp_path / "a.png")
    smooth.convert("RGB").save(tmp_path / "a.jpg", quality=95)
    smooth.save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(np.asarray(smooth).astype(np.uint16) * 257).save(tmp_path / "deep.png")
    plain = np.asarray(smooth.resize((32, 32), Image.Resampling.BILINEAR), dtype=np.float32) / 255
    for name in ("a.png", "a.jpg", "deep.png"):
        np.testing.assert_allclose(load_image(tmp_path / name, shape=(1, 32, 32))[0], plain, atol=0.02)
    turned = np.rot90(plain, -1)
    np.testing.assert_allclose(load_image(tmp_path / "turned.png", shape=(1, 32, 32))[0], turned, atol=0.02)


@pytest.mark.parametrize(("pixels", "bits"), [(np.arange(16, dtype="<f2"), 16), (np.arange(16, dtype="<f8"), 64)])
def test_tiff_of_another_kind_says_so(pixels, bits, tmp_path) -> None:
    """A sound TIFF file whose pixels Pillow does not know is called that, with what to save instead."""
    (tmp_path / "a.tiff").write_bytes(tiff(pixels, bits=bits, sample_format=3))
    with pytest.raises(InputError, match=r"it is an unsupported type of TIFF: save it with 8 bits per channel"):
        load_image(tmp_path / "a.tiff", shape=(1, 4, 4))


def test_the_hand_written_tiff_is_one(tmp_path) -> None:
    """Pillow reads what the tests write, with the tags that they mean."""
    (tmp_path / "a.tiff").write_bytes(tiff(RAMP.astype("<u2"), bits=16, photometric=0))
    with Image.open(tmp_path / "a.tiff") as image:
        assert isinstance(image, TiffImagePlugin.TiffImageFile)
        assert (image.mode, image.tag_v2[262]) == ("I;16", 0)
