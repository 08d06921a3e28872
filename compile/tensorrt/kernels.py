"""A kind's kernel, compiled ahead for named architectures or the GPU at hand, so that the device needs no compiler."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from isoform.runtime.engines.tensorrt.cuda import Device
from isoform.runtime.engines.tensorrt.form import UserVector
from isoform.runtime.engines.tensorrt.nvrtc import compile_kernel, nvrtc_version
from isoform.runtime.engines.tensorrt.stored import KERNEL_PRODUCT, EngineKey, encode_engine, engine_name
from isoform.runtime.errors import EngineError, MissingExtraError
from isoform.runtime.kind import Graph

__all__ = ["kernels_of"]


def kernels_of(
    name: str, graph: Graph, vector: UserVector, *, precision: str, architectures: Sequence[str]
) -> tuple[dict[str, bytes], str]:
    """Compile a graph's kernel; none if the kind has none for it.

    Args:
        name: The graph's name.
        graph: The graph.
        vector: A user's vector.
        precision: That of the vector, of ``PRECISIONS``.
        architectures: Those to compile for; none for the GPU at hand.

    Returns:
        File name → content, and why there is none; empty if there is.
    """
    kernel = graph.kernel(vector.places, row=vector.size, half=precision == "fp16")
    if kernel is None:
        return {}, "the kind has none for this graph"
    found = {}
    try:
        for architecture in architectures or (_at_hand(),):
            key = EngineKey(
                product=KERNEL_PRODUCT, version=nvrtc_version(), devices=(architecture,), graph=name, form="kernel", precision=precision,
                digest=hashlib.sha256(kernel.source.encode()).hexdigest(), structure="", shared="in", largest_batch=0,
            )  # fmt: skip
            found[engine_name(key)] = encode_engine(key, compile_kernel(kernel.source, architecture))
    except (EngineError, MissingExtraError) as problem:  # the device compiles it then, or does without
        return {}, str(problem)
    return found, ""


def _at_hand() -> str:
    with Device() as device:
        return device.architecture
