"""``isoform inspect`` for a person: a bundle, a signature, a folder of them, files, of every kind of network."""

import json

import numpy as np
import pytest
from aligned import aligned, shuffled
from modular import NORMED, random_bundle, random_mask
from strangers import stranger
from support import ROOT, SMALL, isoform_here, make_bundle

from isoform.runtime import Runtime
from isoform.runtime.arithmetic import distance
from isoform.runtime.commands.inspecting.bundles import reading_text
from isoform.runtime.commands.inspecting.usage import usage_text
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.inputs import Input, Reading
from isoform.runtime.inputs.reading import Sound
from isoform.train.kinds.alignment.bundling import bundle_from_networks
from isoform.train.modules import wrap

DIGITS = ROOT / "docs" / "examples" / "bundle"


@pytest.fixture(scope="module")
def digits():
    """The bundle that is checked in."""
    return Bundle.load(DIGITS)


def shown(*words) -> str:
    """What a person reads."""
    done = isoform_here("inspect", *words)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    return done.stdout


def field(text: str, name: str) -> str:
    """A field, with its lines joined."""
    lines = text.splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith(f"{name} "))
    more = lines[start + 1 :]
    end = next((place for place, line in enumerate(more) if not line.startswith("      ")), len(more))
    return " ".join([lines[start].removeprefix(name).strip(), *(line.strip() for line in more[:end])])


def test_templates_as_text() -> None:
    """A layer of one template is its number, another a bar per template; with one template there is a bar per row, at most sixty."""
    assert usage_text(np.array([[0, 0, 1.0], [0.97, 0.02, 0.01], [0.5, 0.5, 0], [1, 1, 0]])) == "2 0 ▄▄· ██·"
    assert usage_text(np.array([[0.0], [0.5], [1.0]])) == "·▄█"
    assert usage_text(np.repeat([[0.0], [1.0]], 300, axis=0)) == "·" * 30 + "█" * 30


def test_a_signature_that_inherits(digits, tmp_path) -> None:
    """Alone it says what it holds and from which digest the rest comes; with its bundle also templates, names and the distance."""
    base = digits.base("edges")
    user = base.keep("delta" if "delta" in base.parts else "logits.bias", "logits.weight").replace(precision="float16")
    user.save(tmp_path / "me.safetensors")
    alone = shown(tmp_path / "me.safetensors")
    assert field(alone, "templates").startswith("those of its base; name the bundle with --bundle")
    assert base.digest[:8] in field(alone, "inherits")
    assert field(alone, "inherits").startswith("all other parts from")
    assert "float16" in field(alone, "signature")
    assert "distance" not in alone
    whole = shown(tmp_path / "me.safetensors", "--bundle", DIGITS)
    assert field(whole, "templates") == "2 0 2 2 2 2 2 3"
    assert field(whole, "distance").startswith("0.0000 to the base of edges")
    assert field(whole, "inherits").endswith("the base of edges")
    assert "mixture, " in field(whole, "inherits")
    assert field(whole, "digest") == user.digest
    told = [
        json.loads(isoform_here("inspect", tmp_path / "me.safetensors", *more, "--json").stdout)
        for more in ((), ("--bundle", DIGITS))
    ]
    assert {**told[0], "inherits": told[1]["inherits"], "all_labels": [*base.labels], "to_base": 0.0} == told[1]
    assert "mixture" in told[1]["inherits"]


def test_the_bytes_of_the_parts_are_those_of_the_file(digits, tmp_path) -> None:
    """Parts and header add up to the file."""
    path = DIGITS / "signatures" / "plain.safetensors"
    said = field(shown(path), "parts")
    counts = [int(part.rsplit(": ", 1)[1].split()[0].replace(",", "")) for part in said.split(", ")]
    assert sum(counts) == path.stat().st_size


def test_who_made_it_from_what(digits, tmp_path) -> None:
    """The parent by its digest, and by name where the bundle knows it; the date where there is one."""
    parent = digits.base("plain")
    parent.keep("mixture").replace(created="2026-11-27T18:00:00+00:00", parent=parent.digest).save(tmp_path / "me")
    assert field(shown(tmp_path / "me"), "made from") == f"{parent.digest[:8]}, 2026-11-27T18:00:00+00:00"
    named = field(shown(tmp_path / "me", "--bundle", DIGITS), "made from")
    assert named == f"{parent.digest[:8]}, the base of plain, 2026-11-27T18:00:00+00:00"
    trained = digits.signatures["plain"]
    trained.keep("mixture").save(tmp_path / "trained")
    assert "the base of plain, as it was trained" in shown(tmp_path / "trained", "--bundle", DIGITS)


def test_a_soft_signature_is_bars(tmp_path) -> None:
    """A mixture that is not one-hot is drawn by bars, in the bundle's table as in its own lines."""
    make_bundle(SMALL).write(tmp_path / "bundle")
    bundle = Bundle.load(tmp_path / "bundle")
    expected = usage_text(bundle.kind.usage(bundle.signatures["a"].parts))
    assert any(bar in expected for bar in "▁▂▃▄▅▆▇")
    assert field(shown(tmp_path / "bundle" / "signatures" / "a.safetensors"), "templates") == expected
    table = shown(tmp_path / "bundle")
    assert expected in table
    assert "isoform compile" in field(table, "compiled")


def test_a_bundle_is_a_table(digits) -> None:
    """Every task with its classes, input, test accuracy, bytes and templates; the parts of the bundle add up."""
    text = shown(DIGITS)
    for task, signature in digits.signatures.items():
        row = next(line for line in text.splitlines() if line.startswith(task))
        right = f"{100 * digits.training['test_accuracy'][task]:.2f} %"
        assert row.split()[:6] == [task, "10", "image", "1×32×32", *right.split()]
        assert f"{len(digits.base(task).encode()):,}" in row
        assert row.endswith(" ".join(str(best) for best in digits.kind.usage(signature.parts).argmax(axis=1)))
    assert "layers 8, templates 4" in field(text, "network")
    assert field(text, "samples") == "images, resized to 32 × 32, grey, 0 to 1"
    counts = [int(part.rsplit(" ", 1)[1].replace(",", "")) for part in field(text, "parts").split(", ")]
    assert sum(counts) == sum(path.stat().st_size for path in DIGITS.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("takes", "reading", "expected"),
    [
        (Input(what="image", shape=(3, 48, 64)), Reading(), "images, resized to 48 × 64, RGB, 0 to 1"),
        (Input(what="image", shape=(6, 1, 128)), Reading(columns=tuple("abcdef"), stride=64),
         "recordings, in windows of 128 rows, one every 64; columns a, b, c, d, e, f"),
        (Input(what="image", shape=(1, 40, 98)), Reading(sound=Sound()),
         "sounds of 16,000 Hz as log-mel spectrograms: 40 bands, 20 to 8000 Hz; windows of 98 frames"),
        (Input(what="tokens", shape=(None,), vocabulary=5000, longest=20), Reading(), "tokens of 1 to 20, of a vocabulary of 5,000"),
        (Input(what="vector", shape=(12,)), Reading(), "vectors of 12"),
    ],
)  # fmt: skip
def test_how_samples_are_read(takes, reading, expected) -> None:
    """From the input and what was done to samples in training."""
    assert reading_text(takes, reading) == expected


def test_a_folder_of_signatures(digits, tmp_path) -> None:
    """A list with distances to the base and to the nearest other, as ``distance`` says; the same as JSON."""
    with Runtime.open(DIGITS) as runtime:
        users = {name: runtime.signature(task).keep("mixture") for name, task in (("ann", "plain"), ("bob", "blurred"))}
        users["cid"] = users["ann"].replace(parts={"mixture": digits.base("inverted").parts["mixture"]})
        for name, user in users.items():
            user.save(tmp_path / f"{name}.safetensors")
        gap = distance(runtime.bundle, users["cid"], runtime.signature("plain"))
        near = min((distance(runtime.bundle, users["cid"], users[other]), other) for other in ("ann", "bob"))
    alone = shown(tmp_path)
    assert "Name their bundle with --bundle for distances to the base" in alone
    text = shown(tmp_path, "--bundle", DIGITS)
    row = next(line for line in text.splitlines() if line.startswith("cid")).split()
    assert row[1:6] == ["plain", f"{len(users['cid'].encode()):,}", f"{gap:.4f}", f"{near[0]:.4f}", near[1]]
    told = json.loads(isoform_here("inspect", tmp_path, "--bundle", DIGITS, "--json").stdout)
    assert told["what"] == "signatures"
    assert told["signatures"]["cid"]["to_base"] == gap
    assert told["signatures"]["cid"]["nearest"] == [near[1], near[0]]
    # the folder of a bundle needs no flag
    assert "to nearest" in shown(DIGITS / "compiled" / "signatures")


def test_a_damaged_signature_does_not_hide_the_others(digits, tmp_path) -> None:
    """The rest of the folder is listed, the file is named on stderr, and the exit code is 2."""
    digits.base("plain").save(tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes(b"no")
    done = isoform_here("inspect", tmp_path)
    assert done.returncode == 2
    assert "1 signature" in done.stdout
    assert "b.safetensors" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_signature_of_another_bundle_does_not_hide_the_others(digits, tmp_path) -> None:
    """It is named on stderr, with what is wrong, as one that is damaged."""
    digits.base("plain").save(tmp_path / "a.safetensors")
    make_bundle(SMALL).signatures["a"].save(tmp_path / "b.safetensors")
    done = isoform_here("inspect", tmp_path, "--bundle", DIGITS)
    assert done.returncode == 2
    assert "1 signature" in done.stdout
    assert [line for line in done.stderr.splitlines() if "b.safetensors" not in line] == []


def test_names_cannot_steer_the_terminal(digits, tmp_path) -> None:
    """Control characters of a file's names are printed as escapes."""
    names = ("\x1b[2Jzero", "one\x07", *"23456789")
    digits.base("plain").replace(labels=names).save(tmp_path / "me.safetensors")
    text = shown(tmp_path / "me.safetensors")
    assert "\\x1b[2Jzero, one\\x07, 2" in field(text, "classes")
    assert all(character.isprintable() or character == "\n" for character in text)


def test_other_files(tmp_path) -> None:
    """Graphs, tensors and reports, in lines that fit; what is none is refused in one line."""
    assert "gradient tensor(float)" in shown(DIGITS / "compiled" / "training" / "block_vjp.onnx")
    assert "weights come from a signature" in shown(DIGITS / "compiled" / "portable.onnx")
    assert "template.project.weight" in shown(DIGITS / "templates.safetensors")
    assert "parity_limit" in shown(DIGITS / "compiled" / "report.json")
    for path, message in (
        (DIGITS / "templates.safetensors", "is the bundle of a signature, but"),
        (tmp_path, "bundle"),
    ):
        done = isoform_here("inspect", path, "--bundle", DIGITS)
        assert done.returncode == 2
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_signature_of_another_bundle(digits, tmp_path) -> None:
    """It has no distance to a base of this one, and that is said."""
    make_bundle(SMALL).signatures["a"].save(tmp_path / "other.safetensors")
    done = isoform_here("inspect", tmp_path / "other.safetensors", "--bundle", DIGITS)
    assert done.returncode == 2
    assert "no task 'a'" in done.stderr


def masks():
    """A bundle of kind allocation."""
    rng = np.random.default_rng(0)
    return random_bundle(NORMED, [random_mask(NORMED, rng) for _ in range(3)])


def module():
    """A bundle of kind module: convolutions with BN."""
    found, samples, classes = stranger("residual")
    return wrap(found, samples(3), classes=classes).bundle()


def aligned_bundle():
    """A bundle of kind alignment."""
    return bundle_from_networks(shuffled(aligned()[0]), training={})


@pytest.mark.parametrize("made", [masks, module, aligned_bundle])
def test_every_kind_has_its_lines(made, tmp_path) -> None:
    """A table of the tasks, about ten lines of each signature, and the kind's own numbers, by the kind's interface alone."""
    bundle = made()
    bundle.write(tmp_path / "bundle")
    table = shown(tmp_path / "bundle")
    assert f"kind {bundle.spec.kind}" in field(table, "network")
    for task, signature in bundle.signatures.items():
        assert any(line.startswith(task) and f"{len(signature.encode()):,}" in line for line in table.splitlines())
        path = tmp_path / "bundle" / "signatures" / f"{task}.safetensors"
        text = shown(path, "--bundle", tmp_path / "bundle")
        assert 9 <= len(text.splitlines()) <= 20
        assert field(text, "templates").split()[0] in usage_text(bundle.kind.usage(signature.parts))
        numbers = bundle.kind.describe(signature.parts)
        assert any(name.replace("_", " ") in field(text, "numbers") for name in numbers)
        assert field(text, "distance").startswith("0.0000")
    listed = shown(tmp_path / "bundle" / "signatures").partition("\n\n")[2].splitlines()
    assert [line.split()[0] for line in listed] == ["signature", *sorted(bundle.signatures)]
