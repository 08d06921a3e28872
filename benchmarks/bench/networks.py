"""Networks of random weights: speed does not depend on them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from isoform.compile.build import write_compiled
from isoform.compile.kinds.mixture.graph import fast_graph, portable_graph
from isoform.compile.kinds.mixture.training import training_graphs
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature
from isoform.runtime.formats.templates import template_digest
from isoform.runtime.kinds.mixture.fold import fold
from isoform.runtime.kinds.mixture.spec import NetworkSpec

SPECS = {
    "small": NetworkSpec(input_shape=(1, 32, 32), adapter_kernel=(4, 4), layers=16, templates=4),
    "large": NetworkSpec(
        input_shape=(3, 224, 224), adapter_kernel=(16, 16), layers=16, templates=4, channels=40, expansion=6,
        head_channels=240, embedding=1280, mean=(0.5,) * 3, std=(0.25,) * 3,
    ),
}  # fmt: skip
CLASSES = 10


def make_bundle(spec: NetworkSpec, path: Path) -> Bundle:
    """A compiled bundle of random weights with one task, on the disk."""
    rng = np.random.default_rng(0)
    tensors = {n: rng.normal(0, 0.3, shape).astype(np.float32) for n, shape in spec.template_shapes.items()}
    parts = {
        "mixture": rng.normal(size=(spec.layers, spec.templates)),
        "bn.statistics": np.stack([rng.normal(size=spec.bn_channels), rng.uniform(0.5, 2, spec.bn_channels)]),
        "logits.weight": rng.normal(size=(CLASSES, spec.embedding)) / 16, "logits.bias": np.zeros(CLASSES),
    }  # fmt: skip
    labels = tuple(str(i) for i in range(CLASSES))
    base = Signature(parts=parts, template=template_digest(spec, tensors), task="base", labels=labels)
    bundle = Bundle.create(spec=spec, tensors=tensors, signatures={"base": base}, training={})
    path.mkdir()
    bundle.write(path)
    return compile_unverified(bundle, path, {"fast/base.onnx": complete_file(bundle, base)})


def compile_unverified(bundle: Bundle, path: Path, files: Mapping[str, bytes]) -> Bundle:
    """Write ``compiled/`` with what runs and learns, and some files more; signatures stay as they are.

    Args:
        bundle: Of random weights, so that there are no samples to verify on.
        path: Where it is.
        files: Name → content, of more files.
    """
    graphs = {f"training/{name}": graph for name, graph in training_graphs(bundle.spec).items()}
    portable = {"portable.onnx": portable_graph(bundle.spec, template=bundle.digest)}
    (path / "compiled").mkdir()
    write_compiled(path / "compiled", bundle, bundle.signatures, {**portable, **graphs, **files}, {}, tau=1.0)
    return Bundle.load(path)


def complete_file(bundle: Bundle, signature: Signature) -> bytes:
    """One user's network as an ONNX file of its own: what a runtime without signatures would ship."""
    weights = fold(bundle.spec, bundle.tensors, bundle.resolve(signature).parts)
    return fast_graph(bundle.spec, weights, signature=signature, labels=bundle.labels(signature))
