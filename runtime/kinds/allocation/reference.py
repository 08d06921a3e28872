"""The numpy reference implementation: slow and simple, it defines the meaning of a signature.

It runs the components that a mask uses, averages their outputs, in float64 and without the fold, so that the fold, the exported graphs
and ONNX Runtime can be tested against it. Use it for checks, not for serving.

Source: Gumbel-Matrix, sections III and V, figure 4; Wu and He, Group Normalization (2018).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from isoform.runtime.arrays import Array
from isoform.runtime.kinds.allocation.masks import gates_of
from isoform.runtime.kinds.allocation.operations import Operation
from isoform.runtime.kinds.allocation.spec import Layer, ModularSpec, layer_name, operation_name

__all__ = ["reference_embeddings", "reference_logits"]

ROWS = 64  # bounds memory: a convolution of k × k pixels copies its input k² times
"""Samples at a time."""


def reference_logits(spec: ModularSpec, templates: Mapping[str, Array], parts: Mapping[str, Array], x: Array) -> Array:
    """Compute logits, shape (n, classes), float32, of samples, shape (n, …).

    Args:
        spec: The network's sizes.
        templates: ``spec.template_shapes``' names → float32 arrays.
        parts: A complete signature.
        x: Samples.
    """
    embeddings = reference_embeddings(spec, templates, parts["allocation"], x)
    logits: Array = embeddings @ parts["logits.weight"].astype(np.float64).T + parts["logits.bias"]
    return logits.astype(np.float32)


def reference_embeddings(spec: ModularSpec, templates: Mapping[str, Array], mask: Array, x: Array) -> Array:
    """Compute the input of the logits layer, shape (n, embedding), float64."""
    cuts = range(0, max(1, len(x)), ROWS)
    return np.concatenate([_embeddings(spec, templates, mask, x[start : start + ROWS]) for start in cuts])


def _embeddings(spec: ModularSpec, templates: Mapping[str, Array], mask: Array, x: Array) -> Array:
    mean, std = (np.asarray(value, dtype=np.float64)[:, None, None] for value in (spec.mean, spec.std))
    x = (x.astype(np.float64) - mean) / std
    if spec.stem:
        x = _convolved(x, templates["stem.weight"], templates["stem.bias"])
        if spec.norm_groups:
            x = _normalised(spec, x, templates, "stem")
        x = np.maximum(x, 0)
    gates = gates_of(spec, mask)
    for number, layer in enumerate(spec.geometry):
        x = _layer(spec, templates, number, layer, gates[number], x)
    return x.reshape(len(x), -1)


def _layer(
    spec: ModularSpec, templates: Mapping[str, Array], number: int, layer: Layer, gates: Array, x: Array
) -> Array:
    y = np.zeros((len(x), *layer.inside))
    for place, chain in enumerate(layer.components):
        if gates[place]:
            part = x
            for step, operation in enumerate(chain):
                part = _applied(spec, templates, operation_name(number, place, step), operation, part)
            y += gates[place].astype(np.float64) * part
    if layer.norm:
        y = np.maximum(_normalised(spec, y, templates, layer_name(number)), 0)
    if layer.pool > 1:
        n, channels, height, width = y.shape
        rows, columns = height // layer.pool, width // layer.pool
        cut = y[:, :, : rows * layer.pool, : columns * layer.pool]
        y = cut.reshape(n, channels, rows, layer.pool, columns, layer.pool).mean(axis=(3, 5))
    return y


def _applied(spec: ModularSpec, templates: Mapping[str, Array], name: str, operation: Operation, x: Array) -> Array:
    """Apply one operation to feature maps (n, channels, height, width)."""
    if operation.what == "identity":
        return x
    if operation.what == "maxpool":
        result: Array = _windows(x, operation, fill=-np.inf).max(axis=(-2, -1))
        return result
    if operation.what == "avgpool":
        inside: Array = _windows(np.ones_like(x[:1, :1]), operation, fill=0.0).sum(axis=(-2, -1))
        sums: Array = _windows(x, operation, fill=0.0).sum(axis=(-2, -1))
        return sums / inside
    weight, bias = templates[f"{name}.weight"], templates[f"{name}.bias"]
    y: Array = np.einsum(
        "dcij,nchwij->ndhw", weight.astype(np.float64), _windows(x, operation, fill=0.0), optimize=True
    )
    y = y + bias[:, None, None]
    if operation.norm:
        y = _normalised(spec, y, templates, name)
    return np.maximum(y, 0) if operation.relu else y


def _windows(x: Array, operation: Operation, *, fill: float) -> Array:
    """Return the window of every output pixel, shape (n, channels, height, width, kernel, kernel)."""
    up, left = operation.pads
    padded = np.pad(x, ((0, 0), (0, 0), (up, up), (left, left)), constant_values=fill)
    return sliding_window_view(padded, operation.kernel, axis=(2, 3))[:, :, :: operation.stride, :: operation.stride]


def _convolved(x: Array, weight: Array, bias: Array) -> Array:
    """Apply a 1×1 convolution."""
    y: Array = np.einsum("dc,nchw->ndhw", weight[:, :, 0, 0].astype(np.float64), x, optimize=True)
    return y + bias[:, None, None]


def _normalised(spec: ModularSpec, x: Array, templates: Mapping[str, Array], name: str) -> Array:
    """Apply GroupNorm: mean and variance per sample, over the channels of a group and all pixels; then γ and β."""
    grouped = x.reshape(len(x), spec.norm_groups, -1)
    mean, variance = grouped.mean(axis=2, keepdims=True), grouped.var(axis=2, keepdims=True)
    y: Array = ((grouped - mean) / np.sqrt(variance + spec.norm_eps)).reshape(x.shape)
    return y * templates[f"{name}.gamma"] + templates[f"{name}.beta"]
