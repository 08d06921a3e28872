"""The fold at full speed: from a complete signature straight to the plan's laid-out weights.

The same numbers as ``Plan.lay_out(fold(…))``, bit for bit, without a Python loop over tensors. What does not depend on the
signature is prepared once: Θ as one float64 matrix, and the plan's map rewritten to point into the *source*,

    0 | all layers' mixed templates, (L, P) | t, (N,) | stem, stem bias | output adapter | embedding, its bias

so that a fold is one matrix product, three broadcast products by s, one rounding, and one gather.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from isoform.runtime.fold import BN_CONVOLUTIONS, bn_scale_shift, folded_shapes, template_matrix
from isoform.runtime.mixture import softmax
from isoform.runtime.plan import Plan, aligned
from isoform.runtime.spec import Array, NetworkSpec

__all__ = ["LaidFold"]


class LaidFold:
    """Folds the signatures of one bundle into one plan's layout. Holds no state of any signature; safe to share.

    Args:
        spec: The network's sizes.
        tensors: ``templates.safetensors``' arrays.
        plan: The device plan.
    """

    def __init__(self, spec: NetworkSpec, tensors: Mapping[str, Array], plan: Plan) -> None:
        self._spec = spec
        self._theta = template_matrix(spec, tensors)
        self._widths = {part: spec.block_shapes[f"{part}.weight"][0] for part in BN_CONVOLUTIONS}
        self._columns = _slices({name: math.prod(shape) for name, shape in spec.block_shapes.items()})
        stem, bn = tensors["input_adapter.weight"], spec.bn_slices
        self._stem, self._out = stem.astype(np.float64), tensors["output_adapter.weight"].astype(np.float64)
        self._stem_bn, self._out_bn = bn["input_adapter"], bn["output_adapter"]
        sizes = {
            "zero": 1, "body": spec.layers * self._theta.shape[1], "shift": spec.bn_channels, "stem": stem.size,
            "stem bias": spec.channels, "out": self._out.size, "embedding": tensors["embedding.weight"].size + spec.embedding,
        }  # fmt: skip
        self._places = _slices(sizes)
        self._constant = np.concatenate([tensors["embedding.weight"].ravel(), tensors["embedding.bias"]])
        self._size = sum(sizes.values())
        self._gather = self._source_index()[plan.gather]

    def __call__(self, parts: Mapping[str, Array]) -> Array:
        """Fold and lay out.

        Args:
            parts: All five parts of a signature, as ``Bundle.resolve`` returns them.

        Returns:
            Shape (M,), float32, aligned to 64 bytes: ``Plan.lay_out``'s vector. A fresh array.
        """
        spec, places = self._spec, self._places
        scale, shift = bn_scale_shift(spec, parts["bn.affine"], parts["bn.statistics"])
        body = softmax(parts["mixture"]) @ self._theta
        scales = scale[spec.channels : -spec.head_channels].reshape(spec.layers, -1)
        start = 0
        for part in BN_CONVOLUTIONS:
            width = self._widths[part]
            view = body[:, self._columns[f"{part}.weight"]].reshape(spec.layers, width, -1)
            view *= scales[:, start : start + width, None]
            start += width
        stem = self._stem * scale[self._stem_bn, None, None, None]
        stem /= np.asarray(spec.std)[None, :, None, None]
        source = np.empty(self._size, dtype=np.float32)
        source[0] = 0
        source[places["body"]] = body.ravel()
        source[places["shift"]] = shift
        source[places["stem"]] = stem.ravel()
        mean = np.asarray(spec.mean)[None, :, None, None]
        source[places["stem bias"]] = shift[self._stem_bn] - (stem * mean).sum((1, 2, 3))
        source[places["out"]] = (self._out * scale[self._out_bn, None, None, None]).ravel()
        source[places["embedding"]] = self._constant
        result = aligned(len(self._gather))
        np.take(source, self._gather, out=result, mode="clip")
        return result

    def _source_index(self) -> Array:
        """For 0 and every folded weight, in the order of ``folded_shapes``, its place in the source; intp."""
        spec, places, bn = self._spec, self._places, self._spec.bn_slices
        index = [np.zeros(1, dtype=np.intp)]

        def run(start: int, size: int) -> None:
            index.append(np.arange(start, start + size))

        shift = places["shift"].start
        for name, shape in folded_shapes(spec).items():
            size = math.prod(shape)
            layer, _, part = name.partition(".")
            if layer.startswith("layer"):
                if part in self._columns:
                    row = places["body"].start + int(layer.removeprefix("layer")) * self._theta.shape[1]
                    run(row + self._columns[part].start, size)
                else:
                    run(shift + bn[name.removesuffix(".bias")].start, size)
            elif name == "output_adapter.bias":
                run(shift + self._out_bn.start, size)
            else:
                place = {
                    "input_adapter.weight": "stem",
                    "input_adapter.bias": "stem bias",
                    "output_adapter.weight": "out",
                }.get(name, "embedding")
                run(
                    places[place].start + (spec.embedding * spec.head_channels if name == "embedding.bias" else 0), size
                )
        return np.concatenate(index)


def _slices(sizes: Mapping[str, int]) -> dict[str, slice]:
    """Places one after the other."""
    places, start = {}, 0
    for name, size in sizes.items():
        places[name] = slice(start, start + size)
        start += size
    return places
