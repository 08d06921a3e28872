"""Make a body of the nodes of an exported graph, and compare it with the module."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor

from isoform.runtime.arrays import Array
from isoform.runtime.bodies.body import Body
from isoform.runtime.bodies.reference import evaluate
from isoform.runtime.errors import CompileError, first_line
from isoform.runtime.inputs import AXES, Input
from isoform.train.modules.export import OPSET
from isoform.train.modules.graph import Drawn

__all__ = ["body_from", "check_body", "norm_rows"]

LIMIT = 1e-4
"""Largest accepted difference of logits from torch's, relative to the largest logit where that is above 1."""


def body_from(
    nodes: Drawn, takes: Input, shapes: Mapping[str, tuple[int, ...]], *, private_norms: bool
) -> tuple[Body, bytes]:
    """Return a body's description and its ONNX file.

    Args:
        nodes: The rewritten graph.
        takes: Its input.
        shapes: Shapes of the parameters.
        private_norms: Whether BN differs between signatures.
    """

    def described(size: int) -> Body:
        return Body(
            input=takes, embedding=nodes.embedding, size=size, weights={name: tuple(shapes[name]) for name in nodes.weights},
            norms=nodes.norms, private_norms=private_norms,
        )  # fmt: skip

    body = described(1)
    sizes = [AXES[takes.what][axis] if size is None else size for axis, size in enumerate(takes.shape)]
    numbers = TensorProto.INT64 if takes.what == "tokens" else TensorProto.FLOAT
    head = {"logits.weight": ("classes", body.embedding), "logits.bias": ("classes",)}
    inputs = [helper.make_tensor_value_info(takes.name, numbers, ["n", *sizes])]
    inputs += [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in {**body.graph_weights, **head}.items()
    ]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", "classes"])]
    model = helper.make_model(
        helper.make_graph(nodes.nodes, "body", inputs, outputs), opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8,
        producer_name="isoform",
    )  # fmt: skip
    onnx.checker.check_model(model)
    file = model.SerializeToString(deterministic=True)
    return described(len(file)), file


def norm_rows(body: Body, own: Mapping[str, Tensor], first: str, second: str) -> Tensor:
    """Return two rows of numbers of all BN layers, shape (2, N), from a module's parameters and buffers by name.

    ``first`` and ``second`` are their names in a layer: ``weight`` and ``bias``, which are 1 and 0 in BN without an affine map, or
    ``running_mean`` and ``running_var``.
    """
    absent = {"weight": 1.0, "bias": 0.0}
    rows = [
        [
            own.get(f"{norm.name}.{what}", torch.full((norm.channels,), absent.get(what, 0.0))).detach()
            for norm in body.norms
        ]
        for what in (first, second)
    ]
    return torch.stack([torch.cat([*row, torch.zeros(0)]) for row in rows])


def check_body(
    module: Callable[[Tensor], Tensor], example: Tensor, takes: Input, file: bytes, weights: Mapping[str, Array]
) -> float:
    """Compare a body with its module, on the example and on random samples of another number and length.

    Args:
        module: In evaluation mode.
        example: Samples.
        takes: Describes them.
        file: The body's ONNX file.
        weights: Values of all its inputs but the samples.

    Returns:
        The largest difference of logits.

    Raises:
        CompileError: If they differ, because the module does something that a graph cannot.
    """
    rng, largest = np.random.default_rng(0), 0.0
    for x in (example.numpy(), takes.random(rng, 3, length=max(takes.shortest, min(takes.longest, 17)))):
        with torch.no_grad():
            expected = module(torch.from_numpy(x)).numpy()
        try:
            found = evaluate(file, {takes.name: x, **weights})
        except Exception as problem:  # of numpy or the onnx package, without a common base
            raise CompileError(
                f"the exported graph cannot run {len(x)} samples of shape {x.shape[1:]}: {first_line(problem)}; torch's exporter has kept the example's "
                "sizes: pad all samples to one length, and leave lengths out"
            ) from None
        gap = float(np.abs(found - expected).max()) if found.shape == expected.shape else float("inf")
        if not gap <= LIMIT * max(1.0, float(np.abs(expected).max())):
            raise CompileError(
                f"the exported graph differs from the module by {gap:.1e} on {len(x)} samples of shape {x.shape[1:]}, but at most {LIMIT:.0e} was expected; "
                "look for sizes or random numbers that the module computes anew in each call"
            )
        largest = max(largest, gap)
    return largest
