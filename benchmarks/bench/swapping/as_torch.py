"""One user's network as anybody would write it in torch, and as ``torch.onnx.export`` writes it: no isoform in the file."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from isoform.runtime.arrays import Array, softmax
from isoform.runtime.kinds.mixture.spec import NetworkSpec

__all__ = ["Gate", "as_exported", "as_torch"]


class Gate(nn.Module):
    """Squeeze and excite, as in MobileNetV3."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), self.squeeze, nn.ReLU(), self.excite, nn.Hardsigmoid()
        )  # fmt: skip

    def forward(self, y: Tensor) -> Tensor:
        """Scale every channel."""
        return y * self.gate(y)


class _Block(nn.Module):
    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        c, e, k = spec.channels, spec.expanded, spec.kernel
        self.expand, self.expand_bn = nn.Conv2d(c, e, 1, bias=False), nn.BatchNorm2d(e, spec.bn_eps)
        self.depthwise = nn.Conv2d(e, e, k, padding=k // 2, groups=e, bias=False)
        self.depthwise_bn, self.gate = nn.BatchNorm2d(e, spec.bn_eps), Gate(e, spec.squeezed)
        self.project, self.project_bn = nn.Conv2d(e, c, 1, bias=False), nn.BatchNorm2d(c, spec.bn_eps)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.hardswish(self.expand_bn(self.expand(x)))
        y = nn.functional.hardswish(self.depthwise_bn(self.depthwise(y)))
        return x + self.project_bn(self.project(self.gate(y)))


class _Network(nn.Module):
    def __init__(self, spec: NetworkSpec, classes: int) -> None:
        super().__init__()
        c, h = spec.channels, spec.head_channels
        self.register_buffer("mean", torch.tensor(spec.mean).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std).reshape(1, -1, 1, 1))
        self.input = nn.Conv2d(spec.input_shape[0], c, spec.adapter_kernel, stride=spec.adapter_kernel, bias=False)
        self.input_bn, self.output_bn = nn.BatchNorm2d(c, spec.bn_eps), nn.BatchNorm2d(h, spec.bn_eps)
        self.blocks = nn.Sequential(*(_Block(spec) for _ in range(spec.layers)))
        self.output = nn.Conv2d(c, h, 1, bias=False)
        self.embedding, self.logits = nn.Linear(h, spec.embedding), nn.Linear(spec.embedding, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.hardswish(self.input_bn(self.input((x - self.mean) / self.std)))
        x = nn.functional.hardswish(self.output_bn(self.output(self.blocks(x)))).mean((2, 3))
        return self.logits(nn.functional.hardswish(self.embedding(x)))


def as_torch(spec: NetworkSpec, tensors: Mapping[str, Array], parts: Mapping[str, Array]) -> nn.Module:
    """One signature's network, with its own convolutions and BN, for inference.

    Args:
        spec: The network's sizes.
        tensors: The arrays of ``templates.safetensors``.
        parts: A complete signature.
    """
    network, xi = _Network(spec, len(parts["logits.bias"])), softmax(parts["mixture"])

    def put(module: nn.Module, value: Array, name: str = "weight") -> None:
        getattr(module, name).data.copy_(torch.from_numpy(np.array(value, dtype=np.float32)))

    def bn(module: nn.Module, name: str) -> None:
        place = spec.bn_slices[name]
        values = (*parts["bn.affine"][:, place], *parts["bn.statistics"][:, place])
        for held, value in zip(("weight", "bias", "running_mean", "running_var"), values, strict=True):
            put(module, value, held)

    for name, module in (("input", network.input), ("output", network.output)):
        put(module, tensors[f"{name}_adapter.weight"])
        bn(getattr(network, f"{name}_bn"), f"{name}_adapter")
    for layer, block in enumerate(network.blocks):
        for name in ("expand", "depthwise", "project"):
            put(getattr(block, name), np.tensordot(xi[layer], tensors[f"template.{name}.weight"], axes=1))
            bn(getattr(block, f"{name}_bn"), f"layer{layer:02d}.{name}")
        for name in ("squeeze", "excite"):
            for held in ("weight", "bias"):
                put(
                    getattr(block.gate, name), np.tensordot(xi[layer], tensors[f"template.{name}.{held}"], axes=1), held
                )
    for held in ("weight", "bias"):
        put(network.embedding, tensors[f"embedding.{held}"], held)
        put(network.logits, parts[f"logits.{held}"], held)
    return network.eval()


def as_exported(network: nn.Module, shape: tuple[int, ...]) -> bytes:
    """The ONNX file that torch writes for inputs of a shape, in batches of any size; input ``image``, output ``logits``."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        torch.onnx.export(
            network, (torch.zeros(2, *shape),), file, input_names=["image"], output_names=["logits"],
            dynamic_axes={"image": {0: "n"}, "logits": {0: "n"}}, opset_version=17, dynamo=False,
        )  # fmt: skip
    return file.getvalue()
