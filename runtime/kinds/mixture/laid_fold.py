"""The fold at full speed: from a signature's numbers straight to the plan's laid-out weights.

The same numbers as ``Plan.lay_out(fold(…))`` without a Python loop over tensors, and without moving a weight: the templates are
laid out once, so that mixing makes rows that are in place already. With Θ (K, Q) laid out, 0 where the layout is padding,

    rows = Ξ @ Θ · scale        scale (L, Q): s of the output channel that a place belongs to, 1 without BN
    rest = what BN makes of t and the adapters

Precisions as in ``fold.py``. ``scale`` and ``rest`` depend on BN alone, so that signatures that inherit it share them, and
a discrete layer is a row of ``Θ · scale_ℓ``, the same for all of them (``block``).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.engines.onnx.plan import Plan
from isoform.runtime.kinds.mixture.fold import bn_scale_shift, row_shapes, template_matrix
from isoform.runtime.kinds.mixture.spec import NetworkSpec
from isoform.runtime.layout import aligned

__all__ = ["LaidBN", "LaidFold"]

STRIP = 1 << 19
"""Multiplications of one strip: half a megabyte of weights at K = 4, and few enough for BLAS to stay on this thread."""


@dataclasses.dataclass(frozen=True)
class LaidBN:
    """BN of one signature in a plan's layout."""

    scale: Array
    """Shape (L, Q), float32."""
    rest: Array
    """Shape (R,), float32, aligned."""


class LaidFold:
    """Folds the signatures of one bundle into one plan's layout. Holds no state of any signature; safe to share.

    Args:
        spec: The network's sizes.
        tensors: ``templates.safetensors``' arrays.
        plan: The device plan.
    """

    def __init__(self, spec: NetworkSpec, tensors: Mapping[str, Array], plan: Plan) -> None:
        self._spec, self.size, self.templates = spec, len(plan.gather), spec.templates
        self.row_size, self.rows_size = plan.row_size, spec.layers * plan.row_size
        columns = plan.gather[: plan.row_size]
        theta = template_matrix(spec, tensors)
        self._theta = np.where(columns > 0, theta[:, columns - 1], np.float32(0))
        width = max(1, STRIP // (spec.layers * spec.templates))
        self._strips = [
            (slice(start, start + width), np.ascontiguousarray(self._theta[:, start : start + width]))
            for start in range(0, self.row_size, width)
        ]
        self._scale_places = self._channels()[columns]
        self._stem = tensors["input_adapter.weight"].astype(np.float64)
        self._out = tensors["output_adapter.weight"].astype(np.float64)
        self._mean, self._std = (np.asarray(value)[None, :, None, None] for value in (spec.mean, spec.std))
        first = spec.layers * theta.shape[1]
        self._rest_places = np.maximum(plan.gather[self.rows_size :] - first, 0)

    def _channels(self) -> Array:
        """For 0 and every column of Θ, its BN channel within the layer; ``block_bn_channels`` where it has none. intp."""
        spec = self._spec
        places, none = [np.array([spec.block_bn_channels])], spec.block_bn_channels
        starts = {
            name.split(".")[1]: place.start - spec.channels
            for name, place in spec.bn_slices.items()
            if name.startswith("layer00.")
        }
        for name, shape in row_shapes(spec).items():
            part = name.removesuffix(".weight")
            channel = starts[part] + np.arange(shape[0]) if part in starts else np.full(shape[0], none)
            places.append(np.repeat(channel, math.prod(shape[1:])))
        return np.concatenate(places)

    def bn(self, affine: Array, statistics: Array) -> LaidBN:
        """Lay out BN.

        Args:
            affine: γ and β, shape (2, N).
            statistics: Mean and variance, shape (2, N).
        """
        spec = self._spec
        scale, shift = bn_scale_shift(spec, affine, statistics)
        scales = np.ones((spec.layers, spec.block_bn_channels + 1), dtype=np.float32)
        scales[:, :-1] = scale[spec.channels : -spec.head_channels].reshape(spec.layers, -1)
        stem = self._stem * scale[: spec.channels, None, None, None]
        stem /= self._std
        shift[: spec.channels] -= (stem * self._mean).sum((1, 2, 3))
        out = self._out * scale[-spec.head_channels :, None, None, None]
        source = np.concatenate([[0], stem.ravel(), shift, out.ravel()]).astype(np.float32)
        rest = aligned(self.size - self.rows_size)
        np.take(source, self._rest_places, out=rest, mode="clip")
        return LaidBN(np.take(scales, self._scale_places, axis=1), rest)

    def __call__(self, xi: Array, bn: LaidBN, out: Array) -> None:
        """Fold and lay out.

        Args:
            xi: A signature's mixture weights, shape (L, K), float64.
            bn: Its BN.
            out: Where to: shape (M,), or (L·Q,) for the rows alone; float32, aligned. All of it is written.
        """
        rows = out[: self.rows_size].reshape(bn.scale.shape)
        weights = xi.astype(np.float32)
        for columns, theta in self._strips:  # so that scaling finds what mixing wrote in the processor's cache
            strip = rows[:, columns]
            np.matmul(weights, theta, out=strip)
            np.multiply(strip, bn.scale[:, columns], out=strip)
        if len(out) > self.rows_size:
            out[self.rows_size :] = bn.rest

    def block(self, bn: LaidBN, layer: int, template: int) -> Array:
        """One template in the place of one layer: what ``__call__`` writes for a layer that is exactly this template.

        Returns:
            Shape (Q,), float32, aligned. A fresh array.
        """
        result = aligned(self.row_size)
        np.multiply(self._theta[template], bn.scale[layer], out=result)
        return result
