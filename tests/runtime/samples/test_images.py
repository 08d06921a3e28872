"""Image files as samples."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from isoform.runtime.errors import InputError
from isoform.runtime.samples.pictures.images import load_image


def save(path, array, mode=None):
    """Write an array as an image file."""
    Image.fromarray(array, mode).save(path)
    return path


@pytest.mark.parametrize("ending", ["png", "bmp", "pgm", "webp", "tiff", "gif"])
def test_formats(ending, tmp_path) -> None:
    """Every lossless format gives the same grey sample."""
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    image = Image.fromarray(pixels)
    image.save(tmp_path / f"a.{ending}", **({"lossless": True} if ending == "webp" else {}))
    found = load_image(tmp_path / f"a.{ending}", shape=(1, 8, 8))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0], pixels / 255, atol=1.5 / 255)


def test_colour_grey_and_alpha(tmp_path) -> None:
    """Colours become grey by luma and grey becomes three equal channels; transparent is black; 16 bits keep their depth."""
    red = save(tmp_path / "red.png", np.tile(np.array([255, 0, 0], np.uint8), (4, 4, 1)))
    np.testing.assert_allclose(load_image(red, shape=(1, 4, 4)), 0.299, atol=0.01)
    np.testing.assert_allclose(load_image(red, shape=(3, 4, 4))[:, 0, 0], [1, 0, 0])
    clear = save(tmp_path / "clear.png", np.tile(np.array([255, 255, 255, 0], np.uint8), (4, 4, 1)))
    assert load_image(clear, shape=(1, 4, 4)).max() == 0
    deep = tmp_path / "deep.png"
    Image.fromarray(np.full((4, 4), 32768, np.uint16)).save(deep)
    np.testing.assert_allclose(load_image(deep, shape=(1, 4, 4)), 32768 / 65535, atol=1e-4)
    np.testing.assert_allclose(load_image(deep, shape=(3, 4, 4)), 32768 / 65535, atol=3e-3)


def test_another_size_is_resized(tmp_path) -> None:
    """An image of another size becomes the network's."""
    path = save(tmp_path / "big.png", np.full((50, 70), 128, np.uint8))
    np.testing.assert_allclose(load_image(path, shape=(1, 8, 16)), np.full((1, 8, 16), 128 / 255), rtol=1e-6)


def png() -> bytes:
    """A small PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def bomb() -> bytes:
    """A tiny PNG that declares 100,000 × 100,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an image"),
        (b"\x80\x04\x95", "not an image"),
        (b"GIF89a", "not an image|cannot be read"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "not an image|cannot be read"),
        (png()[: len(png()) // 2], "cannot be read"),
        (bomb(), "not an image|pixels"),
    ],
)
def test_what_is_no_image_is_refused(data, message, tmp_path) -> None:
    """Empty files, pickles, half images and bombs are one clear error each."""
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(InputError, match=message):
        load_image(tmp_path / "a.png", shape=(1, 8, 8))


def test_missing_files_folders_and_odd_shapes(tmp_path) -> None:
    """A missing file, a folder, and a network that takes no images are named."""
    with pytest.raises(InputError, match="does not exist"):
        load_image(tmp_path / "no.png", shape=(1, 8, 8))
    with pytest.raises(InputError, match="not a regular file|Is a directory"):
        load_image(tmp_path, shape=(1, 8, 8))
    with pytest.raises(InputError, match="samples of 6 channels"):
        load_image(tmp_path / "no.png", shape=(6, 1, 8))


def test_phones_and_odd_depths(tmp_path) -> None:
    """A picture is turned as its camera says; a transparent colour does not spoil 16 bits; unknown ranges are refused."""
    tall = np.zeros((4, 8), np.uint8)
    tall[:, :4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(tall).save(tmp_path / "turned.png", exif=exif)
    assert load_image(tmp_path / "turned.png", shape=(1, 8, 4))[0, :4].min() == 1
    Image.fromarray(np.full((4, 4), 30000, np.uint16)).save(tmp_path / "key.png", transparency=5)
    np.testing.assert_allclose(load_image(tmp_path / "key.png", shape=(1, 4, 4)), 30000 / 65535, atol=1e-4)
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(InputError, match="floating-point pixels of unknown range"):
        load_image(tmp_path / "float.tiff", shape=(1, 4, 4))
    Image.fromarray(np.full((4, 4), 200_000, np.int32)).save(tmp_path / "deep.tiff")
    with pytest.raises(InputError, match="more than 16 bits"):
        load_image(tmp_path / "deep.tiff", shape=(1, 4, 4))


def test_damaged_images_never_surprise(tmp_path, recwarn) -> None:
    """Whatever byte of a photograph is damaged, notes of the camera included, it is a sample or one clear error."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a note"
    for ending in ("jpg", "png", "webp"):
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (12, 12, 3), np.uint8)).save(
            tmp_path / f"a.{ending}", exif=exif
        )
        data = (tmp_path / f"a.{ending}").read_bytes()
        for place in range(0, min(len(data), 400)):
            damaged = bytearray(data)
            damaged[place] ^= 0xFF
            (tmp_path / "b").write_bytes(damaged)
            with contextlib.suppress(InputError):
                assert load_image(tmp_path / "b", shape=(3, 8, 8)).shape == (3, 8, 8)
    assert list(recwarn) == []
