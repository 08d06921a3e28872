"""Export a module with torch's own exporter, so that every parameter is an initializer of the same name.

The exporter merges parameters of equal values, such as the ones of fresh BN, and folds BN into convolutions. So a copy with random numbers
is exported, in a mode that leaves BN alone; only names and nodes are used.
"""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import onnx
import torch
from torch import Tensor, nn
from torch.jit import TracerWarning  # type: ignore[attr-defined]

from isoform.runtime.errors import CompileError, first_line
from isoform.runtime.inputs import AXES, Input

__all__ = ["OPSET", "exported", "parameters_of"]

OPSET = 17
"""ONNX operator set, that of all compiled graphs; a test compares."""


def parameters_of(module: nn.Module) -> dict[str, Tensor]:
    """Return the module's parameters and BN's statistics by name, in its order; parameters that are the same object once."""
    statistics = {
        f"{prefix}.{name}" if prefix else name
        for prefix, part in module.named_modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.track_running_stats
        for name in ("running_mean", "running_var")
    }
    buffers = {name: value for name, value in module.named_buffers() if name in statistics}
    return {**dict(module.named_parameters()), **buffers}


def exported(module: nn.Module, example: Tensor, takes: Input) -> onnx.ModelProto:
    """Export a module.

    Args:
        module: In evaluation mode. Not changed.
        example: Samples, shape (n, …); two or more.
        takes: Describes them; open lengths stay open.

    Returns:
        The graph, from ``takes.name`` to ``logits``, its batch size and open lengths dynamic; numbers of the parameters are random.

    Raises:
        CompileError: If torch cannot export it, or what it computes depends on the values of the samples.
    """
    twin = copy.deepcopy(module).requires_grad_(False)
    for name, value in parameters_of(twin).items():
        value.data = torch.rand_like(value) + (1 if name.endswith("running_var") else 0)
    axes = {0: "n"} | {axis + 1: AXES[takes.what][axis] for axis, size in enumerate(takes.shape) if size is None}
    # the exporter would pass defaults of other arguments too, and trace them as if they were samples
    forward, file = twin.forward, io.BytesIO()
    twin.forward = lambda x: forward(x)
    with _quiet(), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            torch.onnx.export(
                twin, (example,), cast(Any, file), input_names=[takes.name], output_names=["logits"], opset_version=OPSET,
                dynamic_axes={takes.name: axes, "logits": {0: "n"}}, dynamo=False, do_constant_folding=False,
                training=torch.onnx.TrainingMode.PRESERVE,
            )  # fmt: skip
        except Exception as problem:  # torch's errors of exporting have no common base
            where = _failing(twin, example)
            raise CompileError(
                f"torch cannot export {where}: {first_line(problem)}; replace that layer, or wrap the part of the module without it"
            ) from None
    _check_tracing(told)
    return onnx.load_from_string(file.getvalue())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Switch off fused attention, which has no ONNX operator."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _check_tracing(told: list[warnings.WarningMessage]) -> None:
    """Raise an error if the module's own code used a tensor as a condition or a number; torch's own code does so harmlessly."""
    own = Path(torch.__file__).parent
    for warning in told:
        if issubclass(warning.category, TracerWarning) and own not in Path(warning.filename).parents:
            raise CompileError(
                f"what the module computes depends on the values of its samples ({Path(warning.filename).name}, line {warning.lineno}), "
                "but a graph has one path for all; use torch.where instead of if, and sizes that do not depend on values"
            )


def _failing(module: nn.Module, example: Tensor) -> str:
    """Return a description of the first innermost layer that cannot be exported alone."""
    seen: dict[str, tuple[nn.Module, tuple[object, ...]]] = {}
    hooks = [
        part.register_forward_pre_hook(lambda part, given, name=name: seen.setdefault(name, (part, given)) and None)
        for name, part in module.named_modules()
        if name and not [*part.children()]
    ]
    with contextlib.suppress(Exception), torch.no_grad():
        module(example)
    for hook in hooks:
        hook.remove()
    for name, (part, given) in seen.items():
        if not all(isinstance(value, Tensor) for value in given):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.onnx.export(part, given, io.BytesIO(), opset_version=OPSET, dynamo=False)  # type: ignore[arg-type]
        except Exception:
            return f"layer {name!r} ({type(part).__name__})"
    return f"the module ({type(module).__name__})"
