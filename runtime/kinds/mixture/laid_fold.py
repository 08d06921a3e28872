"""The fast fold: from a signature directly to the plan's laid-out weights.

Gives the same values as ``Plan.lay_out(fold(…))``, without a Python loop over tensors and without a gather: the templates are laid
out once, so that mixing produces rows in the right layout. With Θ (K, Q) laid out, 0 for padding,

    rows = Ξ @ Θ · scale        scale (L, Q): s of the output channel that each value belongs to, 1 without BN;
                                a ``delta`` adds to Ξ @ Θ (``directions.py``)
    rest = biases and adapters, which depend on BN only

Precisions as in ``fold.py``. ``scale`` and ``rest`` depend on BN only, so signatures that inherit BN share them, and
a discrete layer is a row of ``Θ · scale_ℓ``, the same for all of them (``piece``). This requires that all layers have the same
layout; if ONNX Runtime lays out some differently, the engine uses the plain fold and a gather.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.kinds.mixture.directions import directions, mixing
from isoform.runtime.kinds.mixture.discrete import discrete_sequence
from isoform.runtime.kinds.mixture.fold import row_shapes, template_matrix
from isoform.runtime.kinds.mixture.normalisation import bn_scale_shift
from isoform.runtime.kinds.mixture.spec import NetworkSpec
from isoform.runtime.layout import Layout, aligned

__all__ = ["LaidBN", "LaidFold", "row_size"]

# half a megabyte of weights at K = 4, which stays in the processor's cache; and too few for BLAS to start threads
STRIP = 1 << 19
"""Number of multiplications of one strip."""


@dataclasses.dataclass(frozen=True)
class LaidBN:
    """A signature's BN in a plan's layout; a ``Group``."""

    scale: Array
    """Shape (L, Q), float32."""
    fixed: Array
    """Biases and adapters, shape (R,), float32, aligned."""

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.scale.nbytes + self.fixed.nbytes


class LaidFold:
    """The kind's ``Folder``.

    Args:
        spec: The network's sizes.
        tensors: The arrays of ``templates.safetensors``.
        layout: The plan's layout.
        row_size: Q, the result of ``row_size``.
    """

    def __init__(self, spec: NetworkSpec, tensors: Mapping[str, Array], layout: Layout, row_size: int) -> None:
        self._spec, self._tensors, self.size, self.pieces = spec, tensors, len(layout.gather), spec.layers
        self.moving = spec.layers * row_size
        # mixed γ and β depend on ξ, so signatures of one base do not have the same BN
        own = {"bn.affine", "bn.statistics", "bn.coefficients"} & spec.part_shapes.keys()
        self.shares = None if spec.affine == "mixed" else frozenset(own)
        columns = layout.gather[:row_size]
        theta = template_matrix(spec, tensors)
        # what index -1 reads for padding is replaced by 0
        self._theta = np.where(columns > 0, theta[:, columns - 1], np.float32(0))
        self._width = max(1, STRIP // (spec.layers * spec.templates))
        self._strips = self._cut(self._theta)
        self._columns, self._plain = columns, theta
        self._scale_places = self._channels()[columns]
        # float64 here, once, instead of for every group
        self._stem = tensors["input_adapter.weight"].astype(np.float64)
        self._out = tensors["output_adapter.weight"].astype(np.float64)
        self._mean, self._std = (np.asarray(value)[None, :, None, None] for value in (spec.mean, spec.std))
        first = spec.layers * theta.shape[1]
        # relative to ``source`` in ``group``, which starts with the 0 for padding
        self._rest_places = np.maximum(layout.gather[self.moving :] - first, 0)

    def _cut(self, rows: Array) -> list[tuple[slice, Array]]:
        """Return the strips of laid-out rows, shape (…, Q): columns, and a contiguous copy of them."""
        cuts = [slice(start, start + self._width) for start in range(0, rows.shape[1], self._width)]
        return [(columns, np.ascontiguousarray(rows[:, columns])) for columns in cuts]

    @functools.cached_property  # at the first signature with a ``delta``: many bundles have none
    def _directions(self) -> list[Array]:
        """The random directions, laid out, in strips."""
        rows = directions(self._plain, row_shapes(self._spec), self._spec.random_directions)
        laid = np.where(self._columns > 0, rows[:, self._columns - 1], np.float32(0))
        return [strip for _, strip in self._cut(laid)]

    def _channels(self) -> Array:
        """Return the BN channel within the layer of 0 and of every column of Θ; ``block_bn_channels`` for none. intp."""
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

    def group(self, parts: Mapping[str, Array]) -> LaidBN:
        """Compute a signature's BN in the plan's layout."""
        spec = self._spec
        scale, shift = bn_scale_shift(spec, self._tensors, parts)
        # the last column stays 1, for weights without BN
        scales = np.ones((spec.layers, spec.block_bn_channels + 1), dtype=np.float32)
        scales[:, :-1] = scale[spec.channels : -spec.head_channels].reshape(spec.layers, -1)
        stem = self._stem * scale[: spec.channels, None, None, None]
        stem /= self._std
        shift[: spec.channels] -= (stem * self._mean).sum((1, 2, 3))
        out = self._out * scale[-spec.head_channels :, None, None, None]
        # the order of the second region of ``folded_shapes``
        source = np.concatenate([[0], stem.ravel(), shift, out.ravel()]).astype(np.float32)
        fixed = aligned(self.size - self.moving)
        # "clip", because with the default mode numpy would buffer the whole output
        np.take(source, self._rest_places, out=fixed, mode="clip")
        return LaidBN(np.take(scales, self._scale_places, axis=1), fixed)

    def read(self, parts: Mapping[str, Array]) -> Array:
        """Return the coefficients of every layer's weights, shape (L, K) or (L, K + J), float64."""
        return mixing(parts)

    def fill(self, read: Array, group: LaidBN, out: Array) -> None:
        """As ``Folder.fill``."""
        rows = out[: self.moving].reshape(group.scale.shape)
        weights, templates = read.astype(np.float32), self._spec.templates
        own = weights[:, templates:]
        # in strips, so that scaling finds the mixed weights in the processor's cache
        for number, (columns, theta) in enumerate(self._strips):
            strip = rows[:, columns]
            np.matmul(weights[:, :templates], theta, out=strip)
            if own.shape[1]:
                strip += own @ self._directions[number]
            np.multiply(strip, group.scale[:, columns], out=strip)
        if len(out) > self.moving:
            out[self.moving :] = group.fixed

    def keys(self, read: Array) -> list[int] | None:
        """Return the template index of each layer, if all layers are discrete; else None."""
        return discrete_sequence(read) if read.shape[1] == self._spec.templates else None

    def piece(self, group: LaidBN, place: int, key: int) -> Array:
        """Return one template scaled for one layer, shape (Q,), float32, aligned. A fresh array."""
        result = aligned(group.scale.shape[1])
        # the same bits as in ``fill``: a mixture of one template is 1 · θ plus zeros, which is exact
        np.multiply(self._theta[key], group.scale[place], out=result)
        return result


def row_size(layout: Layout, spec: NetworkSpec) -> int | None:
    """Return Q, the number of floats of one layer in a layout; None if the layers have different layouts."""
    gather, layer_size = layout.gather, sum(math.prod(shape) for shape in row_shapes(spec).values())
    # a larger index belongs to a bias or an adapter: the first of these ends the layers' rows
    starts = (
        start
        for _, shape, start in layout.weights
        if gather[start : start + math.prod(shape)].max() > spec.layers * layer_size
    )
    end = next(starts, 0)
    if end and end % spec.layers == 0:
        rows = gather[:end].reshape(spec.layers, -1)
        # the same layout: each layer's indices are the first layer's, shifted by one layer's weights; padding stays 0
        if np.array_equal(rows, rows[0] + np.where(rows[0] > 0, layer_size, 0) * np.arange(spec.layers)[:, None]):
            return end // spec.layers
    return None
