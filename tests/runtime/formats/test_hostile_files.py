"""Files made to hurt, through the command line: one clear error each, exit code 2, no traceback, nothing written.

The signature's own unit tests cover every byte and bit; these are the attacks that a person would try.
"""

import pickle
import time

import numpy as np
import pytest
from support import isoform

from isoform.runtime import cli
from isoform.runtime.formats import tensors


class Evil:
    """A pickle that would run a command."""

    def __reduce__(self):
        return (eval, ("__import__('pathlib').Path('pwned').touch()",))


def wrong_digest(data: bytes) -> bytes:
    """The same file with another digest inside."""
    arrays, metadata = tensors.decode(data, error=ValueError, what="")  # type: ignore[arg-type]
    return tensors.encode(arrays, {**metadata, "digest": "0" * 64})


def wrong_shape(data: bytes) -> bytes:
    """A well-formed signature for a network with one layer less."""
    from isoform.runtime.formats.signature import Signature

    signature = Signature.decode(data)
    return signature.replace(parts={**signature.parts, "mixture": signature.parts["mixture"][1:]}).encode()


def not_finite(data: bytes) -> bytes:
    """A NaN among the numbers, with a digest that is right."""
    arrays, metadata = tensors.decode(data, error=ValueError, what="")  # type: ignore[arg-type]
    arrays["mixture"][0, 0] = np.nan
    return tensors.encode(arrays, metadata)


ATTACKS = {
    "empty": (lambda data: b"", "0 bytes long"),
    "truncated header": (lambda data: data[:100], "cut short"),
    "truncated payload": (lambda data: data[:-10], "not a valid tensor file"),
    "more at the end": (lambda data: data + b"more", "not a valid tensor file"),
    "oversized header": (lambda data: (1 << 40).to_bytes(8, "little") + data[8:], "claims a header of"),
    "pickle in disguise": (lambda data: pickle.dumps(Evil()), "claims a header of|not a tensor file"),
    "wrong digest": (wrong_digest, "does not match its digest"),
    "wrong shape": (wrong_shape, "holds mixture of shape"),
    "NaN": (not_finite, "not finite"),
    "text": (lambda data: b"hello, this is a text file and no signature", "claims a header of"),
    "deep header": (
        lambda data: (60000).to_bytes(8, "little") + b"[" * 60000, "not JSON",
    ),
    "zip bomb": (lambda data: b"PK\x03\x04" + bytes(1000), "claims a header of|not a tensor file|not JSON"),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_hostile_signatures(attack, compiled, runtime, samples, tmp_path, capsys, monkeypatch) -> None:
    """A hostile signature file never runs, whatever it is."""
    from PIL import Image

    change, message = ATTACKS[attack]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.safetensors").write_bytes(change(runtime.signature("plain").encode()))
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / "digit.png")
    started = time.monotonic()
    assert cli.main(["predict", str(compiled), "digit.png", "--signature", "evil.safetensors"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert any(part in captured.err for part in message.split("|"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digit.png", "evil.safetensors"]
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    "name",
    [
        "bundle.json",
        "templates.safetensors",
        "signatures/plain.safetensors",
        "compiled/manifest.json",
        "compiled/portable.onnx",
    ],
)
@pytest.mark.parametrize("content", [b"", b"\0" * 64, pickle.dumps([1]), b"{}", b"[" * 50_000])
def test_hostile_bundles(name, content, bundle_copy, tmp_path, capsys, monkeypatch) -> None:
    """A bundle with one hostile file in it never runs."""
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    (bundle_copy / name).write_bytes(content)
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / "digit.png")
    assert cli.main(["predict", str(bundle_copy), "digit.png", "--task", "plain"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1


def test_a_png_that_is_not_one(compiled, tmp_path) -> None:
    """A text file named .png is one clear error in a real process too."""
    (tmp_path / "digit.png").write_text("not a picture")
    result = isoform("predict", compiled, tmp_path / "digit.png", "--task", "plain", check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert "is not an image that can be read" in result.stderr
    assert len(result.stderr.splitlines()) == 1
