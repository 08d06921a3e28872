"""One user's network in torch on the GPU: eager, and replayed as a CUDA graph; samples come from pinned memory, and logits go back there."""

from __future__ import annotations

from collections.abc import Callable

import torch

from bench.gpu.subjects import Subject
from bench.swapping.as_torch import as_torch
from isoform.runtime.arrays import Array

__all__ = ["torch_runs"]


def torch_runs(subject: Subject, x: Array) -> dict[str, Callable[[], Array]]:
    """Return what runs a batch; none without torch's CUDA.

    Args:
        subject: The network; its first user's weights are used.
        x: The batch.
    """
    if not torch.cuda.is_available():
        return {}
    # as TensorRT is run: without the shortened products of TF32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    bundle, dtype = subject.bundle, torch.float32 if subject.precision == "fp32" else torch.float16
    parts = bundle.resolve(bundle.base("base")).parts
    network = as_torch(bundle.spec, bundle.tensors, parts).cuda().to(dtype)
    given = torch.from_numpy(x).pin_memory()
    held = torch.empty(x.shape, dtype=dtype, device="cuda")
    answers = torch.empty((len(x), len(parts["logits.bias"])), dtype=torch.float32).pin_memory()

    @torch.inference_mode()
    def work() -> None:
        held.copy_(given, non_blocking=True)
        answers.copy_(network(held), non_blocking=True)

    def eager() -> Array:
        work()
        torch.cuda.synchronize()
        found: Array = answers.numpy().copy()
        return found

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):  # cuDNN chooses its algorithms before the capture
        for _ in range(3):
            work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()

    def replayed() -> Array:
        graph.replay()
        torch.cuda.synchronize()
        found: Array = answers.numpy().copy()
        return found

    return {"torch_eager": eager, "torch_graph": replayed}
