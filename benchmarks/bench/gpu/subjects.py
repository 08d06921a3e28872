"""The networks that are run, as bundles with TensorRT's forms."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx

from bench.networks import CLASSES, SPECS, complete_file, make_bundle
from bench.people import users
from isoform.compile.build import write_compiled
from isoform.compile.export.half import halved
from isoform.compile.tensorrt.forms import forms_of, plain
from isoform.runtime.arrays import Array
from isoform.runtime.engines.tensorrt.builder import BuildOptions
from isoform.runtime.engines.tensorrt.form import MANY, ONE, OPTIONS, TASK, form_file, vector_file
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature

__all__ = ["Subject", "make_subject"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """A network in one precision, and its users."""

    bundle: Bundle
    precision: str
    users: tuple[bytes, ...]
    """Signature files, each with mixture weights of its own."""

    def signature(self, user: int) -> Signature:
        """Return a user's signature."""
        return Signature.decode(self.users[user % len(self.users)])

    def samples(self, count: int) -> Array:
        """Return samples at random, shape (count, …)."""
        return np.random.default_rng(count).uniform(0, 1, (count, *self.bundle.spec.input_shape)).astype(np.float32)


def make_subject(name: str, precision: str, folder: Path, *, count: int, largest: int = 1024) -> Subject:
    """Write a bundle of random weights with forms; speed does not depend on the weights.

    Args:
        name: A key of ``SPECS``.
        precision: ``fp32`` or ``fp16``.
        folder: Where to write it.
        count: Number of users.
        largest: The largest batch.
    """
    bundle = make_bundle(SPECS[name], folder)
    made = bundle.require_compiled()
    found = forms_of(made.graphs["portable"], bundle.network.graph("portable"), classes=CLASSES)
    own = onnx.load_from_string(complete_file(bundle, bundle.base("base")))
    nodes = [part for node in own.graph.node for part in plain(node)]
    del own.graph.node[:]
    own.graph.node.extend(nodes)
    assert found.many is not None
    forms = {("portable", ONE): found.one, ("portable", MANY): found.many, ("base", TASK): own.SerializeToString()}
    if precision == "fp16":
        forms = {key: halved(file, samples=bundle.network.input.name) for key, file in forms.items()}
    files = {name: made.read(name) for name in made.manifest["files"]}
    files |= {
        vector_file("portable"): found.vector.encode(),
        OPTIONS: BuildOptions(usual=min(32, largest), largest=largest).encode(),
    }
    files |= {form_file(*key, precision): file for key, file in forms.items()}
    target = folder / "with-forms"
    target.mkdir()
    bundle.write(target)
    (target / "compiled").mkdir()
    write_compiled(target / "compiled", bundle, {"base": bundle.base("base")}, files, {}, tau=1.0)
    return Subject(bundle=Bundle.load(target), precision=precision, users=tuple(users(bundle, count, "mixture")))
