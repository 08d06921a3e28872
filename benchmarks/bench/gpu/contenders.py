"""Every way to run users' networks on the GPU, opened at once: engines of TensorRT, the kernel, and torch."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable

import numpy as np

from bench.gpu.subjects import Subject
from bench.gpu.torch_rival import torch_runs
from bench.harness import Figures, in_turn
from bench.networks import CLASSES
from bench.swapping import rivals
from isoform.runtime.arrays import Array
from isoform.runtime.engines.tensorrt.builder import BuildOptions, build_engine
from isoform.runtime.engines.tensorrt.context import Context
from isoform.runtime.engines.tensorrt.cuda import Device
from isoform.runtime.engines.tensorrt.form import ONE, OPTIONS, TASK, form_file
from isoform.runtime.engines.tensorrt.loading import Loading
from isoform.runtime.engines.tensorrt.opened import OpenGraph
from isoform.runtime.engines.tensorrt.products import find_product
from isoform.runtime.engines.tensorrt.runner import Buffers, Runner
from isoform.runtime.errors import IsoformError
from isoform.runtime.formats.signature import Signature

__all__ = ["Contenders"]

log = logging.getLogger("isoform.bench")
CACHE_BYTES = 1 << 30


class Contenders:
    """One network on the GPU.

    Args:
        subject: The network.
        device: The GPU; its context is current.
        loading: Loads engines and kernels; None for the bundle's, those of the cache, or new ones.
    """

    def __init__(self, subject: Subject, device: Device, loading: Loading | None = None) -> None:
        self._subject, self._device = subject, device
        bundle, compiled = subject.bundle, subject.bundle.require_compiled()
        loading, base = loading or Loading(compiled, device), bundle.base("base")
        self._options = BuildOptions.decode(compiled.read(OPTIONS), name=OPTIONS)
        self._opened = OpenGraph(
            device, compiled, "portable", bundle.network.graph("portable"), loading.engine, loading.kernel,
            bases={base.digest: ("base", CLASSES)}, cache_bytes=CACHE_BYTES,
        )  # fmt: skip
        self.reasons = dict(self._opened.left_out)
        self._buffers = Buffers(device, bundle.network.input, classes=CLASSES)
        self._refit: tuple[Runner, Context, bytes] | None = None
        try:
            self._refit = self._refittable()
        except IsoformError as problem:
            self.reasons["refit"] = str(problem)

    def _refittable(self) -> tuple[Runner, Context, bytes]:
        """Build the engine with constant weights so that they can be replaced."""
        product, bundle = find_product(), self._subject.bundle
        file = bundle.require_compiled().read(form_file("base", TASK, self._subject.precision))
        built = build_engine(
            product, file, form=TASK, vector=self._opened.vector, takes=bundle.network.input, precision=self._subject.precision,
            options=dataclasses.replace(self._options, shared="refit"),
        )  # fmt: skip
        context = Context(product, self._device, built.engine)
        runner = Runner(
            self._device, context, TASK, vector=self._opened.vector, classes=CLASSES, takes=bundle.network.input, rows=self._opened.rows,
            buffers=self._buffers, half=self._subject.precision == "fp16", largest=self._options.largest,
        )  # fmt: skip
        return runner, context, file

    def _rows(self, signatures: list[Signature]) -> list[int]:
        resolved = {signature.digest: self._subject.bundle.resolve(signature) for signature in signatures}
        makes: dict[str, Callable[[], Array]] = {
            digest: (lambda some=some: self._opened.vector_of(some.parts))
            for digest, some in resolved.items()  # type: ignore[misc]
        }
        places = dict(zip(makes, self._opened.rows.rows(makes), strict=True))
        return [places[signature.digest] for signature in signatures]

    def running(self, batch: int, *, seconds: float) -> Figures:
        """Milliseconds of a batch, each way, samples and logits in pinned memory; and ratios to the engine with constant weights."""
        subject, base = self._subject, self._subject.bundle.base("base")
        x = subject.samples(batch)
        single = np.full(batch, self._rows([base])[0], dtype=np.int32)
        users = max(
            1, min(batch, self._opened.rows.count - 1)
        )  # beside the base; of a large network there is no room for more
        rows = self._rows([subject.signature(user) for user in range(users)])
        mixed = np.resize(np.array(rows, dtype=np.int32), batch)
        single[:] = self._rows([base])[0]  # the base may have made room for the others
        runs: dict[str, Callable[[], Array]] = {}
        if base.digest in self._opened.own:
            own = self._opened.own[base.digest][0]
            runs["constant"] = lambda: own.run(x, single)
        if self._refit is not None:
            refit = self._refit[0]
            runs["refit"] = lambda: refit.run(x, single)
        for way, runner in self._opened.runners.items():
            runs[way] = lambda runner=runner: runner.run(x, single)  # type: ignore[misc]
            if way != ONE:
                runs[f"{way}_mixed"] = lambda runner=runner: runner.run(x, mixed)  # type: ignore[misc]
        runs |= torch_runs(subject, x)
        self._compare({name: run for name, run in runs.items() if not name.endswith("_mixed")}, x)
        times = in_turn(runs, seconds=seconds)
        reference = (
            "constant" if "constant" in times else "torch_graph" if "torch_graph" in times else next(iter(times))
        )
        return {
            "users_mixed": users, **{f"{name}_ms": 1e3 * value for name, value in times.items()},
            **{f"{name}_over_{reference}": value / times[reference] for name, value in times.items() if name != reference},
        }  # fmt: skip

    def _compare(self, runs: dict[str, Callable[[], Array]], x: Array) -> None:
        """Every way must give the answers of ONNX Runtime on the processor."""
        expected = rivals.constant(self._subject.bundle, self._subject.bundle.base("base"))(x)
        limit = 1e-3 if self._subject.precision == "fp32" else 5e-2
        for name, run in runs.items():
            np.testing.assert_allclose(run(), expected, rtol=0, atol=limit * np.abs(expected).max(), err_msg=name)

    def swaps(self, *, repeats: int) -> Figures:
        """Microseconds until another user can be run: one whose weights are on the GPU, one from a file's bytes, and by a refit."""
        subject, rows, device = self._subject, self._opened.rows, self._device
        files = subject.users[: min(len(subject.users), rows.count)]
        signatures = [Signature.decode(file) for file in files]
        self._rows(signatures)
        target = device.memory(rows.row_bytes)
        warm, cold = [], []
        for turn in range(repeats):
            signature = signatures[turn % len(signatures)]
            started = time.perf_counter()
            (row,) = rows.rows({signature.digest: lambda: np.zeros(0, dtype=np.float32)})
            device.copy(target.address, rows.address_of(row), rows.row_bytes)
            device.synchronize()
            warm.append(time.perf_counter() - started)
        for turn in range(repeats):
            rows.clear()
            started = time.perf_counter()
            self._rows([Signature.decode(files[turn % len(files)])])
            device.synchronize()
            cold.append(time.perf_counter() - started)
        target.close()
        figures = {"warm_swap_us": 1e6 * float(np.median(warm)), "cold_swap_us": 1e6 * float(np.median(cold))}
        if self._refit is not None:
            _, context, file = self._refit
            times = []
            for _ in range(max(3, repeats // 100)):
                started = time.perf_counter()
                context.refit(file)
                device.synchronize()
                times.append(time.perf_counter() - started)
            figures["refit_us"] = 1e6 * float(np.median(times))
        return figures

    def close(self) -> None:
        """Free everything on the GPU."""
        if self._refit is not None:
            self._refit[0].close()
        self._buffers.close()
        self._opened.close()
