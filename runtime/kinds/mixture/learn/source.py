"""What a base signature's BN sees of the samples that it was trained on: by how much samples differ, and by how much classes do.

With m₀, v₀ the base's running mean and variance of a channel, and s̄ᵢ, s²ᵢ the moments of sample i about m₀ (``normalised.py``):

    rᵢ = (s̄ᵢ / √v₀,  s²ᵢ / v₀)        (2, N) numbers per sample, in the base's own units
    spread = standard deviation of rᵢ over samples          (2, N)
    classes_c = mean of rᵢ over samples of class c, less the mean over classes          (C, 2, N)

A stream of few classes differs from the base by what its classes explain, and that is no shift of the domain; see
``isoform.runtime.adapt.methods.shrinkage``. And the Fisher information of the parts that move, F = E[(∂ log p(ŷ|x) / ∂w)²], ŷ the class that
is found, over 512 samples in batches of 16 (Niu et al. 2022, "EATA", section 3.2; Kirkpatrick et al. 2017).

The file is a tensor file (``tensors.py``): ``spread``, ``classes`` (float16), ``fisher.mixture`` (L, K), ``fisher.bn.affine`` (2, N);
``structure``, how structured the training samples are (``content.py``), is in its metadata, so that older versions can read it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.errors import BundleError
from isoform.runtime.formats import tensors as tensor_file
from isoform.runtime.kinds.mixture.fold import fold
from isoform.runtime.kinds.mixture.learn.blocks import Blocks
from isoform.runtime.kinds.mixture.learn.chain import signature_gradient
from isoform.runtime.kinds.mixture.learn.lanes import BATCH
from isoform.runtime.kinds.mixture.learn.network import FoldedNetwork
from isoform.runtime.kinds.mixture.learn.normalised import Moments, normalised_pass
from isoform.runtime.kinds.mixture.spec import NetworkSpec
from isoform.runtime.learn.content import least_structure
from isoform.runtime.learn.loss import cross_entropy
from isoform.runtime.learn.samples import spaced
from isoform.runtime.learn.start import softened
from isoform.runtime.samples.names import as_known

__all__ = ["Source", "measure_source", "relative"]

SAMPLES = 2000
"""At most so many samples are looked at."""
FISHER_BATCHES = 32
CHUNK = 64
SMALLEST = 1e-3
"""Of a spread, in the base's units: a channel that is the same for every sample says nothing of samples."""
CLASSES_LIMIT = 256
"""With more classes than this, what each looks like is not kept."""


@dataclasses.dataclass(frozen=True)
class Source:
    """Facts about a base signature's training samples."""

    spread: Array
    """Shape (2, N), float32, above 0."""
    classes: Array
    """Shape (C, 2, N), float32; C is 0 where there are too many. Zeros for a class that is not known."""
    fisher: Mapping[str, Array]
    """``mixture`` (L, K) and ``bn.affine`` (2, N), float32, 0 or more."""
    structure: float | None = None
    """``least_structure`` of the training samples; None in bundles that were compiled before it was measured."""

    def encode(self) -> bytes:
        """The whole file."""
        arrays = {"spread": self.spread, "classes": self.classes.astype(np.float16)}
        arrays |= {f"fisher.{name}": array for name, array in self.fisher.items()}
        structure = {} if self.structure is None else {"structure": repr(self.structure)}
        return tensor_file.encode(arrays, {"what": "source", **structure})

    @classmethod
    def decode(cls, data: bytes, *, spec: NetworkSpec, name: str) -> Self:
        """Read a file's bytes.

        Raises:
            BundleError: If it is malformed, or of another network.
        """
        arrays, metadata = tensor_file.decode(data, error=BundleError, what=name)
        n = spec.bn_channels
        expected = {"spread": (2, n), "fisher.mixture": (spec.layers, spec.templates), "fisher.bn.affine": (2, n)}
        found = {key: array.shape for key, array in arrays.items() if key != "classes"}
        classes = arrays.get("classes", np.empty(0))
        if found != expected or classes.ndim != 3 or classes.shape[1:] != (2, n):
            raise BundleError(f"{name} does not fit the network; run 'isoform compile' again")
        if not all(np.isfinite(array).all() for array in arrays.values()) or arrays["spread"].min() <= 0:
            raise BundleError(f"{name} holds a number that is not finite or out of range; run 'isoform compile' again")
        fisher = {part: arrays[f"fisher.{part}"] for part in ("mixture", "bn.affine")}
        return cls(arrays["spread"], classes.astype(np.float32), fisher, _structure(metadata.get("structure"), name))

    def with_labels(self, own: Sequence[str], labels: Sequence[str]) -> Self:
        """The same facts for a logits layer with other labels: classes are matched by name; one that the base does not have has zeros.

        Args:
            own: The base's labels, in the order of ``classes``.
            labels: The logits layer's labels.
        """
        places = {name: place for place, name in enumerate(own)}
        labels = as_known(labels, own)
        if len(self.classes) != len(own) or not places.keys() & set(labels):
            return dataclasses.replace(self, classes=self.classes[:0])
        classes = np.zeros((len(labels), *self.classes.shape[1:]), dtype=np.float32)
        for row, name in enumerate(labels):
            if name in places:
                classes[row] = self.classes[places[name]]
        return dataclasses.replace(self, classes=classes)


def _structure(text: str | None, name: str) -> float | None:
    try:
        value = None if text is None else float(text)
    except ValueError:
        value = math.nan
    if value is not None and math.isnan(value):
        raise BundleError(f"{name} holds a structure that is no number; run 'isoform compile' again")
    return value


def relative(moments: Moments, variance: Array) -> Array:
    """rᵢ of one BN, shape (2, n, channels), float32; ``variance`` is v₀, shape (channels,)."""
    scale = np.maximum(variance, np.float32(1e-12))
    return np.stack([moments.means / np.sqrt(scale), moments.squares / scale])


def measure_source(
    spec: NetworkSpec, tensors: Mapping[str, Array], parts: Mapping[str, Array], x: Array, labels: Array, *, classes: int, run_on: Blocks
) -> Source:  # fmt: skip
    """Look at samples with a base signature.

    Args:
        spec: The network's sizes.
        tensors: ``templates.safetensors``' arrays.
        parts: All five parts of the signature, as ``Bundle.resolve`` returns them.
        x: Samples, shape (n, channels, height, width), float32, of every class some; ``SAMPLES`` of them are looked at.
        labels: Indices of classes, shape (n,).
        classes: C.
        run_on: What ``open_blocks`` returned.
    """
    x, labels = spaced(x, SAMPLES), spaced(labels, SAMPLES)
    variance = parts["bn.statistics"][1].astype(np.float32)
    rows = np.empty((2, len(x), spec.bn_channels), dtype=np.float32)
    for start in range(0, len(x), CHUNK):

        def recorded(place: slice, moments: Moments, start: int = start) -> tuple[Array, Array]:
            rows[:, start : start + len(moments.means), place] = relative(moments, variance[place])
            return np.zeros_like(variance[place]), variance[place]

        normalised_pass(spec, tensors, parts, x[start : start + CHUNK], run_on=run_on, choose=recorded)
    spread = np.maximum(rows.std(axis=1), SMALLEST)
    present = np.unique(labels)
    table = np.zeros((classes if classes <= CLASSES_LIMIT else 0, 2, spec.bn_channels), dtype=np.float32)
    if len(table):
        for label in present:
            table[label] = rows[:, labels == label].mean(axis=1)
        table[present] -= table[present].mean(axis=0)
    fisher = _fisher(spec, tensors, parts, x, FoldedNetwork(spec, run_on))
    return Source(spread, table, fisher, least_structure(x, labels))


def _fisher(
    spec: NetworkSpec, tensors: Mapping[str, Array], parts: Mapping[str, Array], x: Array, network: FoldedNetwork
) -> dict[str, Array]:
    soft = {**parts, "mixture": softened(parts["mixture"])}
    weights = fold(spec, tensors, soft)
    found: dict[str, Array] = {}
    batches = [x[start::FISHER_BATCHES][:BATCH] for start in range(min(FISHER_BATCHES, len(x)))]
    for batch in batches:
        logits, kept = network.forward(weights, batch)
        g = cross_entropy(logits, logits.argmax(axis=1))[1]
        gradient = signature_gradient(spec, tensors, soft, network.backward(weights, kept, g))
        for name in ("mixture", "bn.affine"):
            found[name] = found.get(name, 0) + len(batch) * gradient[name] ** 2 / len(batches)
    return {name: array.astype(np.float32) for name, array in found.items()}
