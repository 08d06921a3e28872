"""Source statistics: facts about a base signature's training samples, which ``isoform compile`` measures for adaptation.

With m₀, v₀ the base's running mean and variance of a BN channel, and s̄ᵢ, s²ᵢ the moments of sample i about m₀:

    rᵢ = (s̄ᵢ / √v₀,  s²ᵢ / v₀)        (2, N) numbers per sample, in the base's own units
    spread = standard deviation of rᵢ over samples          (2, N)
    classes_c = mean of rᵢ over samples of class c, less the mean over classes          (C, 2, N)

A stream with few classes differs from the base by what its classes explain, which is not a domain shift; see
``isoform.runtime.adapt.methods.shrinkage``. Also the Fisher information of the trainable parts, F = E[(∂ log p(ŷ|x) / ∂w)²], ŷ the
predicted class (Niu et al. 2022, "EATA", section 3.2; Kirkpatrick et al. 2017).

The file is a tensor file (``formats/tensors.py``): ``spread``, ``classes`` (float16), and ``fisher.<part>`` for every part with a gradient
except the logits layer. ``structure``, the ``least_structure`` of the training samples (``content.py``), is in its metadata, so that
older versions can read the file.
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
from isoform.runtime.kind import HEAD
from isoform.runtime.learn.learner import STATISTICS, Moments
from isoform.runtime.samples.names import as_known

__all__ = ["Source", "relative"]


@dataclasses.dataclass(frozen=True)
class Source:
    """Facts about a base signature's training samples."""

    spread: Array
    """Shape (2, N), float32, above 0."""
    classes: Array
    """Shape (C, 2, N), float32; C is 0 if there are too many classes. Zeros for an unknown class."""
    fisher: Mapping[str, Array]
    """Part → array of its shape, float32, 0 or more."""
    structure: float | None = None
    """``least_structure`` of the training samples; None in bundles that were compiled before it was measured."""

    def encode(self) -> bytes:
        """Return the file's content."""
        arrays = {"spread": self.spread, "classes": self.classes.astype(np.float16)}
        arrays |= {f"fisher.{name}": array for name, array in self.fisher.items()}
        structure = {} if self.structure is None else {"structure": repr(self.structure)}
        return tensor_file.encode(arrays, {"what": "source", **structure})

    @classmethod
    def decode(cls, data: bytes, *, parts: Mapping[str, Array], name: str) -> Self:
        """Read a file's bytes.

        Args:
            data: The file.
            parts: All parts of the base that it describes.
            name: Name of the file for errors.

        Raises:
            BundleError: If it is malformed, or of another network.
        """
        arrays, metadata = tensor_file.decode(data, error=BundleError, what=name)
        shapes = {part: array.shape for part, array in parts.items()}
        moving = [part for part, array in parts.items() if array.dtype.kind == "f" and part not in {STATISTICS, *HEAD}]
        expected = {"spread": shapes[STATISTICS], **{f"fisher.{part}": shapes[part] for part in moving}}
        found = {key: array.shape for key, array in arrays.items() if key != "classes"}
        classes = arrays.get("classes", np.empty(0))
        if found != expected or classes.ndim != 3 or classes.shape[1:] != shapes[STATISTICS]:
            raise BundleError(f"{name} does not fit the network; run 'isoform compile' again")
        if not all(np.isfinite(array).all() for array in arrays.values()) or arrays["spread"].min() <= 0:
            raise BundleError(f"{name} holds a number that is not finite or out of range; run 'isoform compile' again")
        fisher = {part: arrays[f"fisher.{part}"] for part in moving}
        return cls(arrays["spread"], classes.astype(np.float32), fisher, _structure(metadata.get("structure"), name))

    def with_labels(self, own: Sequence[str], labels: Sequence[str]) -> Self:
        """Return a copy for a logits layer with other labels: classes are matched by name; unknown classes have zeros.

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
    # -∞ is valid: constant samples were common in training
    if value is not None and math.isnan(value):
        raise BundleError(f"{name} holds a structure that is not a number; run 'isoform compile' again")
    return value


def relative(moments: Moments, variance: Array) -> Array:
    """Return rᵢ of one BN layer, shape (2, n, channels), float32; ``variance`` is v₀, shape (channels,)."""
    # a dead channel has variance 0
    scale = np.maximum(variance, np.float32(1e-12))
    return np.stack([moments.means / np.sqrt(scale), moments.squares / scale])
