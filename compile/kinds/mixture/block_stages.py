"""The block as three graphs that each end before BN, so that statistics can be computed while samples pass through.

Each step normalises the features u of the step before and ends with its own convolution. m₀ is any number per channel, such as the
expected mean; the convolution subtracts it as its bias, at no cost:

    expand      u₁ = W₁x - m₀
    depthwise   u₂ = W_d ⊛ ω(BN(u₁)) - m₀
    project     u₃ = (W₂∘q) ω(BN(u₂)) - m₀                with the gate q of ``block.py``

The graphs also return, per sample and channel, the mean over the pixels and the sum of squares. The statistics that BN normalises by
are chosen between the steps, in numpy (``isoform.runtime.kinds.mixture.learn.normalised``), so every method uses the same three graphs.
Source: Compositional Models, section 3.2.
"""

from __future__ import annotations

from typing import Any

from isoform.compile.kinds.mixture.block import Block, file_of, weight_shapes
from isoform.runtime.kinds.mixture.spec import NetworkSpec

__all__ = ["block_stage_graphs"]

BN = ("gamma", "beta", "mean", "variance")
"""Inputs of BatchNormalization, one number per channel; the mean is relative to m₀."""


def block_stage_graphs(spec: NetworkSpec, *, lanes: int | None = None) -> dict[str, bytes]:
    """Encode the graphs; with ``lanes`` only ``depthwise``, the one that differs between layouts.

    Args:
        spec: The network's sizes.
        lanes: As in ``Block``.

    Returns:
        Step → ONNX file. Inputs: ``x`` (n, C, height, width) or ``u`` (n, E, height, width) with ``BN``, (E,) each; the step's weights
        as ``unfolded_feeds`` gives them; and ``centre``, minus m₀. Outputs ``output``, ``sample mean`` and ``sample squares``, the last
        two (n, channels). float32.
    """
    graphs = {"depthwise": _depthwise(spec, lanes)}
    if lanes is None:
        graphs |= {"expand": _expand(spec), "project": _project(spec)}
    return graphs


def _expand(spec: NetworkSpec) -> bytes:
    block = Block(spec, None)
    block("Conv", ["x", "expand.weight", "centre"], "output")
    return _file(block, ["expand.weight"], {"x": spec.channels}, [spec.expanded], spec.expanded)


def _depthwise(spec: NetworkSpec, lanes: int | None) -> bytes:
    block = Block(spec, lanes)
    _normalise(block, spec, "a", "h")
    block.depthwise.forward("h", "output", bias="centre")
    filled = weight_shapes(spec, lanes, biases=True)["depthwise.bias"]
    return _file(block, ["depthwise.weight"], {"u": spec.expanded}, filled, spec.expanded)


def _project(spec: NetworkSpec) -> bytes:
    block = Block(spec, None)
    _normalise(block, spec, "d", "y")
    block.gate()
    block("Add", [block.projection(), "centre"], "output")
    weights = ["squeeze.weight", "squeeze.bias", "excite.weight", "excite.bias", "project.weight"]
    return _file(block, weights, {"u": spec.expanded}, [1, spec.channels, 1, 1], spec.channels)


def _normalise(block: Block, spec: NetworkSpec, u: str, output: str) -> None:
    block("BatchNormalization", ["u", *BN], u, epsilon=spec.bn_eps)
    block.hard_swish(u, output)


def _file(block: Block, weights: list[str], takes: dict[str, int], centre: list[int], channels: int) -> bytes:
    spec = block.spec
    # Squares of u - m₀, not of u: the variance (mean of squares less squared mean) then loses no digits where means are large.
    block("ReduceMean", ["output"], "sample mean", axes=[2, 3], keepdims=0)
    block("ReduceSumSquare", ["output"], "sample squares", axes=[2, 3], keepdims=0)
    shapes = weight_shapes(spec, block.lanes, biases=False)
    inputs: dict[str, list[Any]] = {name: ["n", width, *spec.grid] for name, width in takes.items()}
    inputs |= {name: shapes[name] for name in weights} | {"centre": centre}
    if "u" in takes:  # expand reads the block's input, which no BN precedes
        inputs |= {name: [spec.expanded] for name in BN}
    outputs: dict[str, list[Any]] = {"output": ["n", channels, *spec.grid]}
    return file_of(block, inputs, {**outputs, "sample mean": ["n", channels], "sample squares": ["n", channels]})
