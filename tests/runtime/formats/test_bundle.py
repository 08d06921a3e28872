"""Bundles on disk: what a whole one is, and what a damaged one says."""

import dataclasses
import json
import os
import shutil
import threading
import time

import numpy as np
import pytest
from support import SMALL, make_bundle

from isoform.runtime.errors import BundleError, IsoformError, SignatureError
from isoform.runtime.formats import files
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kinds.mixture.discrete import xi_of


@pytest.mark.trust
def test_a_bundle_makes_its_folder(tmp_path) -> None:
    """Written to a path that is not there yet, it can be read from there."""
    make_bundle(SMALL).write(tmp_path / "new" / "bundle")
    assert Bundle.load(tmp_path / "new" / "bundle").digest == make_bundle(SMALL).digest
    before = (tmp_path / "new" / "bundle" / "bundle.json").stat().st_mtime_ns
    with pytest.raises(BundleError, match="is not empty, but a bundle needs an empty directory"):
        make_bundle(SMALL, seed=1).write(tmp_path / "new" / "bundle")
    assert (tmp_path / "new" / "bundle" / "bundle.json").stat().st_mtime_ns == before
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "bundle", tmp_path / "nul\0"):
        with pytest.raises(BundleError, match=r"cannot be written: .*; choose another directory"):
            make_bundle(SMALL).write(place)


@pytest.mark.parametrize("affine", ["layer", "task", "mixed"])
def test_round_trip(affine, tmp_path) -> None:
    """A bundle is read back as it was written, and writing it again gives the same bytes."""
    bundle = make_bundle(dataclasses.replace(SMALL, affine=affine))
    with files.replace_directory(tmp_path / "one") as directory:
        bundle.write(directory)
    found = Bundle.load(tmp_path / "one")
    assert (found.spec, found.digest, dict(found.signatures)) == (bundle.spec, bundle.digest, dict(bundle.signatures))
    with files.replace_directory(tmp_path / "two") as directory:
        found.write(directory)
    names = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(names) == 4
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)


GOLDEN = """{
  "format": 2,
  "kind": "mixture",
  "network": %s,
  "template": "%s",
  "tasks": {
    "a": {
      "labels": [
        "c0",
        "c1",
        "c2"
      ],
      "signature": "%s",
      "input": {
        "name": "image",
        "what": "image",
        "shape": [
          1,
          8,
          8
        ]
      }
    }
  },
  "training": {}
}
"""


def test_golden_bytes(tmp_path) -> None:
    """``bundle.json`` to the last byte; the same in format 1, which did not say what tasks take, is read as well."""
    bundle = make_bundle(SMALL, tasks=("a",))
    bundle.write(tmp_path / "bundle")
    file = tmp_path / "bundle" / "bundle.json"
    network = json.dumps(SMALL.to_json(), indent=2).replace("\n", "\n  ")
    assert file.read_text() == GOLDEN % (network, bundle.digest, bundle.signatures["a"].digest)
    content = json.loads(file.read_text())
    del content["tasks"]["a"]["input"]
    file.write_text(json.dumps(content))
    with pytest.raises(
        BundleError, match="task 'a': an input is None, but an object with name, what and shape was expected"
    ):
        Bundle.load(tmp_path / "bundle")
    file.write_text(json.dumps({**content, "format": 1}))
    found = Bundle.load(tmp_path / "bundle")
    assert (found.digest, dict(found.signatures)) == (bundle.digest, dict(bundle.signatures))


def test_resolve_completes_a_signature() -> None:
    """Shared γ and β come from the templates; mixed ones are mixed by ξ, the adapters' are shared."""
    bundle = make_bundle(SMALL)
    assert np.array_equal(bundle.resolve(bundle.signatures["a"]).parts["bn.affine"], bundle.tensors["bn.affine"])
    mixed = make_bundle(dataclasses.replace(SMALL, affine="mixed"))
    signature = mixed.signatures["a"]
    affine = mixed.resolve(signature).parts["bn.affine"]
    layer = SMALL.bn_slices["layer02.expand"].start, SMALL.bn_slices["layer02.project"].stop
    expected = np.tensordot(xi_of(signature.parts)[2], mixed.tensors["template.bn.affine"].astype(np.float64), axes=1)
    np.testing.assert_allclose(affine[:, slice(*layer)], expected, rtol=1e-6)
    assert np.array_equal(affine[:, : SMALL.channels], mixed.tensors["bn.affine"][:, : SMALL.channels])


def test_a_signature_inherits_only_from_the_base_it_names() -> None:
    """A delta against another base, or of an unknown task, is refused with both digests."""
    bundle = make_bundle(SMALL)
    delta = bundle.signatures["a"].keep("mixture")
    assert bundle.labels(delta) == ("c0", "c1", "c2")
    with pytest.raises(SignatureError, match="inherits parts from base 0000"):
        bundle.resolve(delta.replace(base="0" * 64))
    with pytest.raises(SignatureError, match="inherits parts from base none"):
        bundle.resolve(Signature(parts=delta.parts, template=bundle.digest, task="a"))
    with pytest.raises(SignatureError, match="is of task 'nobody', but .* has a, b"):
        bundle.resolve(delta.replace(task="nobody"))


def test_labels_belong_to_the_logits_layer() -> None:
    """As many labels as classes, wherever each comes from; else the signature is refused."""
    bundle = make_bundle(SMALL)
    base = bundle.signatures["a"]
    wide = {name: np.concatenate([base.parts[name]] * 2) for name in ("logits.weight", "logits.bias")}
    for wrong in (
        base.replace(parts={**base.parts, **wide}, labels=None, base=base.digest),
        base.keep("mixture").replace(labels=("only",)),
    ):
        with pytest.raises(SignatureError, match="labels for . classes"):
            bundle.resolve(wrong)
        with pytest.raises(SignatureError, match="labels for . classes"):
            bundle.labels(wrong)


def test_reading_while_a_writer_replaces(compiled, tmp_path) -> None:
    """A reader sees the old bundle or the new one, never an error, while both are exchanged again and again."""
    path = tmp_path / "bundle"
    shutil.copytree(compiled, path)
    shutil.copytree(compiled, tmp_path / "other")
    shutil.rmtree(tmp_path / "other" / "compiled")
    stop = threading.Event()

    def exchange() -> None:
        while not stop.is_set():
            files._exchange(tmp_path / "other", path)
            time.sleep(0.1)

    writer = threading.Thread(target=exchange)
    writer.start()
    try:
        found, loads, end = set(), 0, time.monotonic() + 30
        while (loads < 60 or len(found) < 2) and time.monotonic() < end:
            loads += 1
            bundle = Bundle.load(path)
            found.add(bundle.compiled is None)
            assert bundle.compiled is None or bundle.compiled.graphs["portable"]
    finally:
        stop.set()
        writer.join()
    assert found == {True, False}


@pytest.mark.trust
def test_reading_while_a_writer_renames(trained, tmp_path) -> None:
    """Where a writer needs two renames, a reader that comes between them waits for the second; a dead writer is named after a while."""
    path, aside = tmp_path / "bundle", tmp_path / f".bundle.old-{'0' * 16}"
    shutil.copytree(trained, path)
    stop = threading.Event()

    def rename() -> None:
        while not stop.is_set():
            os.rename(path, aside)
            time.sleep(0.002)
            os.rename(aside, path)
            time.sleep(0.01)

    writer = threading.Thread(target=rename)
    writer.start()
    try:
        for _ in range(100):
            assert len(Bundle.load(path).signatures) == 4
    finally:
        stop.set()
        writer.join()
    os.rename(path, aside)
    with pytest.raises(BundleError, match="was being replaced when the writer was killed; the old bundle is"):
        Bundle.load(path)


def test_unknown_tasks_are_named(compiled) -> None:
    """Asking for a task that is not there lists those that are."""
    with pytest.raises(BundleError, match="no task 'klingon' .* plain, inverted, blurred, edges"):
        Bundle.load(compiled).base("klingon")


def edit_json(path, change) -> None:
    """Change a JSON file in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def swap_compiled(bundle) -> None:
    """Make edges' compiled signature plain's, with a manifest that agrees."""
    folder = bundle / "compiled" / "signatures"
    shutil.copy(folder / "edges.safetensors", folder / "plain.safetensors")
    digest = Signature.load(folder / "edges.safetensors").digest
    edit_json(bundle / "compiled" / "manifest.json", lambda c: c["tasks"]["plain"].update(signature=digest))


DAMAGE = {
    "bundle.json gone": (lambda b: (b / "bundle.json").unlink(), "bundle.json .* does not exist"),
    "bundle.json no JSON": (lambda b: (b / "bundle.json").write_text("{"), "is not JSON"),
    "bundle.json binary": (lambda b: (b / "bundle.json").write_bytes(b"\xff\xfe\x00"), "is not JSON"),
    "bundle.json a list": (lambda b: (b / "bundle.json").write_text("[]"), "holds a list, but an object"),
    "deep": (lambda b: (b / "bundle.json").write_text("[" * 100_000), "is not JSON"),
    "format": (lambda b: edit_json(b / "bundle.json", lambda c: c.update(format=9)), "has format 9"),
    "kind": (lambda b: edit_json(b / "bundle.json", lambda c: c.update(kind="transformer")), "it is of kind 'transformer'"),
    "mean": (lambda b: edit_json(b / "bundle.json", lambda c: c["network"].update(mean=[10**400])), "wrong type|out of range"),
    "file entry": (
        lambda b: edit_json(b / "compiled" / "manifest.json", lambda c: c["files"].update({"portable.onnx": 5})),
        "has an entry in",
    ),
    "compiled for another": (
        lambda b: edit_json(b / "compiled" / "manifest.json", lambda c: c["tasks"]["plain"].update(trained="00")),
        "was compiled from a different signature of task 'plain'",
    ),
    "compiled swapped": (swap_compiled, "is of task 'edges'"),
    "no tasks": (lambda b: edit_json(b / "bundle.json", lambda c: c.pop("tasks")), r"no object \$.tasks"),
    "empty tasks": (lambda b: edit_json(b / "bundle.json", lambda c: c.update(tasks={})), "no task"),
    "task path": (
        lambda b: edit_json(b / "bundle.json", lambda c: c["tasks"].update({"../x": {}})), "named '../x'",
    ),
    "task entry": (lambda b: edit_json(b / "bundle.json", lambda c: c["tasks"].update(plain=3)), "the bundle names None"),
    "network": (lambda b: edit_json(b / "bundle.json", lambda c: c.update(network=3)), "an object was expected"),
    "layers": (lambda b: edit_json(b / "bundle.json", lambda c: c["network"].update(layers=0)), "layers is 0"),
    "layers one more": (lambda b: edit_json(b / "bundle.json", lambda c: c["network"].update(layers=4)), "bn.affine"),
    "eps": (lambda b: edit_json(b / "bundle.json", lambda c: c["network"].update(bn_eps=0.1)), "the files are of different bundles"),
    "template": (lambda b: edit_json(b / "bundle.json", lambda c: c.update(template="00")), "the files are of different bundles"),
    "templates gone": (lambda b: (b / "templates.safetensors").unlink(), "does not exist"),
    "templates cut": (lambda b: cut(b / "templates.safetensors"), "not a valid tensor file"),
    "templates flipped": (lambda b: flip(b / "templates.safetensors"), "the files are of different bundles"),
    "signature gone": (lambda b: (b / "signatures" / "plain.safetensors").unlink(), "does not exist"),
    "signature cut": (lambda b: cut(b / "signatures" / "plain.safetensors"), "not a valid tensor file"),
    "signature swapped": (
        lambda b: shutil.copy(b / "signatures" / "edges.safetensors", b / "signatures" / "plain.safetensors"),
        "is of task 'edges'",
    ),
    "manifest gone": (lambda b: (b / "compiled" / "manifest.json").unlink(), "does not exist"),
    "manifest format": (lambda b: edit_json(b / "compiled" / "manifest.json", lambda c: c.update(format=0)), "has format 0"),
    "manifest template": (
        lambda b: edit_json(b / "compiled" / "manifest.json", lambda c: c.update(template="00")), "was compiled for templates 00",
    ),
    "manifest tasks": (
        lambda b: edit_json(b / "compiled" / "manifest.json", lambda c: c["tasks"].pop("plain")), "was compiled for tasks",
    ),
    "manifest files": (lambda b: edit_json(b / "compiled" / "manifest.json", lambda c: c.pop("files")), r"no object \$.files"),
    "compiled signature": (lambda b: cut(b / "compiled" / "signatures" / "edges.safetensors"), "run 'isoform compile"),
}  # fmt: skip


def cut(path) -> None:
    """Lose a file's last byte."""
    path.write_bytes(path.read_bytes()[:-1])


def flip(path) -> None:
    """Change one bit near a file's end."""
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_bundle_is_refused(case, bundle_copy) -> None:
    """Whatever is missing or changed is noticed before anything runs, with one clear error."""
    damage, message = DAMAGE[case]
    damage(bundle_copy)
    with pytest.raises(IsoformError, match=message):
        Bundle.load(bundle_copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("embedding.bias"), "does not hold the tensors that the network needs: .*embedding.bias"),
        (
            lambda t: t.update({"embedding.bias": np.zeros(3, np.float32)}),
            "embedding.bias as float32 of shape \\(3,\\)",
        ),
        (lambda t: t.update({"embedding.bias": np.zeros(8)}), "embedding.bias as float64"),
        (lambda t: t.update({"embedding.bias": np.full(8, np.nan, np.float32)}), "not finite in embedding.bias"),
    ],
)
def test_bad_templates_are_refused(change, message) -> None:
    """Templates are complete, of the right shapes and type, and finite."""
    bundle = make_bundle(SMALL)
    tensors = dict(bundle.tensors)
    change(tensors)
    with pytest.raises(BundleError, match=message):
        Bundle.create(spec=SMALL, tensors=tensors, signatures=bundle.signatures, training={})


def test_a_base_signature_is_complete() -> None:
    """A base that inherits, or has another task's name, is refused."""
    bundle = make_bundle(SMALL)
    base = bundle.signatures["a"]
    for wrong in (base.keep("mixture"), base.replace(labels=None), base.replace(task="b")):
        with pytest.raises(SignatureError, match="a base signature is complete"):
            Bundle.create(spec=SMALL, tensors=bundle.tensors, signatures={"a": wrong}, training={})
