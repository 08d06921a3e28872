"""Build an engine from a form of a graph (``form.py``). Needs no onnx package: TensorRT has its own parser.

Types are those of the graph wherever the product lets a network be strongly typed; TensorRT before 10 is told by a flag that it may use
float16 or int8. TF32 is off, because logits are compared with ONNX Runtime's.
"""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from isoform.runtime.engines.tensorrt.cuda import architecture_or_none, gpu_or_none
from isoform.runtime.engines.tensorrt.form import MANY, TABLE, USER, UserVector
from isoform.runtime.engines.tensorrt.products import Messages, Product
from isoform.runtime.errors import BundleError, EngineError, UsageError
from isoform.runtime.inputs import Input, is_whole

__all__ = ["SHARED", "BuildOptions", "Built", "architectures_of", "build_engine"]

SHARED = ("in", "refit", "stripped")
"""Values of ``BuildOptions.shared``."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How engines are built. Raises ``UsageError`` unless 1 ≤ usual ≤ largest, and ``shared`` is known."""

    usual: int = 32
    """The batch size that an engine is optimised for."""
    largest: int = 1024
    """The largest batch that it takes."""
    shared: str = "in"
    """Weights that all users share: ``in`` the engine for good, ``refit`` if others can be put in their place when new templates are
    rolled out, ``stripped`` if the engine is stored without them and gets them from its form when it is loaded."""
    structures: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Path of a form → digest of it without its shared weights."""

    @property
    def on_device(self) -> str:
        """``shared`` of engines that are built where they run: to strip them would serve nobody."""
        return "in" if self.shared == "in" else "refit"

    def here(self) -> Self:
        """Return the options for a build on the device that runs the engine."""
        return dataclasses.replace(self, shared=self.on_device)

    def encode(self) -> bytes:
        """Return the file's content."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True).encode()

    @classmethod
    def decode(cls, data: bytes, *, name: str) -> Self:
        """Read a file's content; ``name`` is for errors. Raises ``BundleError`` if it is malformed."""
        try:
            content = json.loads(data)
            found = cls(
                **{**content, "structures": {str(key): str(value) for key, value in content["structures"].items()}}
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, UsageError) as problem:
            raise BundleError(f"{name} is malformed: {problem}; run 'isoform compile' again") from None
        return found

    def __post_init__(self) -> None:
        """Check every value."""
        if self.shared not in SHARED:
            raise UsageError(f"shared weights are {self.shared!r}, but one of {', '.join(SHARED)} was expected")
        if not is_whole(self.usual, 1, 1 << 20) or not is_whole(self.largest, 1, 1 << 20):
            raise UsageError(
                f"batches are {self.usual!r} and {self.largest!r}, but numbers from 1 to {1 << 20} were expected"
            )
        if not 1 <= self.usual <= self.largest:
            raise UsageError(
                f"batches are {self.usual} and {self.largest}, but the usual size, and one as large or larger were expected"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Built:
    """An engine, and what it was built from."""

    engine: bytes
    layers: int
    """Layers of the parsed network, before TensorRT fuses them."""
    inputs: dict[str, tuple[int, ...]]
    """Name → shape; -1 for a dynamic size."""
    timing_cache: bytes
    """What the next build of a similar network can go on from; empty if the product has none."""
    seconds: float


def architectures_of(product: Product) -> tuple[str, ...]:
    """Return the GPU architectures that a product builds for without such a GPU, such as sm89; none for TensorRT."""
    capability = getattr(product.module, "ComputeCapability", None)
    if capability is None:
        return ()
    names = [name.lower() for name in dir(capability) if re.fullmatch(r"SM\d+", name)]
    return tuple(sorted(names, key=lambda name: int(name[2:])))


def build_engine(
    product: Product, file: bytes, *, form: str, vector: UserVector, takes: Input, precision: str = "fp32", options: BuildOptions | None = None,
    architectures: Sequence[str] = (), timing_cache: bytes = b"", progress: Callable[[str], None] = lambda _: None,
) -> Built:  # fmt: skip
    """Build one engine.

    Args:
        product: The product to build with.
        file: The form's ONNX file.
        form: ``ONE``, ``MANY`` or ``TASK``.
        vector: A user's vector; of form ``TASK`` it does not matter.
        takes: The network's input.
        precision: That of the file, of ``TASK_PRECISIONS``.
        options: How to build; None for the defaults.
        architectures: Those to build for, of ``architectures_of``; none for the GPU at hand.
        timing_cache: Of an earlier build; ignored if it is of another device or version.
        progress: Called with one line at each stage.

    Raises:
        UsageError: If the product does not know an architecture, or cannot build what the options want.
        EngineError: If there is no GPU and no architecture is named, the parser does not take a node, or the build fails.
    """
    _check_architectures(product, architectures)
    options, trt, messages, started = options or BuildOptions(), product.module, Messages(product), time.monotonic()
    builder = _builder(product, messages, architectures)
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, messages.logger)
    progress(f"{product.title} reads {form}")
    if not parser.parse(file):
        raise _parse_error(product, parser, messages)
    config = builder.create_builder_config()
    if hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)
    # a strongly typed network has its types from the graph, and refuses the flags
    if precision != "fp32" and not hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        config.set_flag(trt.BuilderFlag.FP16 if precision == "fp16" else trt.BuilderFlag.INT8)
    for flag in _shared_flags(product, options):
        config.set_flag(flag)
    if hasattr(
        trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"
    ):  # or a run of TensorRT-RTX's cannot be captured as a CUDA graph
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    if not architectures and (own := architecture_or_none()) in architectures_of(product):
        architectures = (str(own),)  # TensorRT-RTX's default leaves out Turing
    for place, name in enumerate(architectures):
        config.num_compute_capabilities = len(architectures)
        config.set_compute_capability(getattr(trt.ComputeCapability, name.upper()), place)
    config.add_optimization_profile(_profile(builder, form, vector, takes, options))
    timed = product.name == "tensorrt"  # TensorRT-RTX times nothing when it builds
    if timed:
        config.set_timing_cache(
            config.create_timing_cache(timing_cache) or config.create_timing_cache(b""), ignore_mismatch=False
        )
    progress(f"{product.title} builds {form}, {network.num_layers} layers")
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"{product.title} cannot build the form {form}: {messages.text()}")
    kept = config.get_timing_cache() if timed else None
    inputs = [network.get_input(place) for place in range(network.num_inputs)]
    return Built(
        engine=bytes(plan), layers=network.num_layers, inputs={tensor.name: tuple(tensor.shape) for tensor in inputs},
        timing_cache=bytes(kept.serialize()) if kept is not None else b"", seconds=time.monotonic() - started,
    )  # fmt: skip


def _check_architectures(product: Product, architectures: Sequence[str]) -> None:
    known = architectures_of(product)
    for name in architectures:
        if name not in known:
            what = f"one of {', '.join(known)}" if known else "none, it builds for the GPU at hand,"
            raise UsageError(f"architecture is {name!r}, but of {product.title} {what} was expected")


def _builder(product: Product, messages: Messages, architectures: Sequence[str]) -> Any:
    try:
        builder = product.module.Builder(messages.logger)
    except TypeError:  # pybind11's error for a factory that returned nullptr
        builder = None
    if builder is None:
        raise EngineError(f"{product.title} needs a GPU to build an engine: {messages.text()}")
    if not architectures and gpu_or_none() is None:  # TensorRT-RTX would build, for no GPU at all
        raise EngineError(
            f"{product.title} has no GPU here; name architectures to build for: {', '.join(architectures_of(product))}"
        )
    return builder


def _network_flags(trt: Any) -> int:
    flags = trt.NetworkDefinitionCreationFlag
    names = [name for name in ("STRONGLY_TYPED", "EXPLICIT_BATCH") if hasattr(flags, name)]
    return sum(1 << int(getattr(flags, name)) for name in names)


def _shared_flags(product: Product, options: BuildOptions) -> list[Any]:
    flags = product.module.BuilderFlag
    if options.shared == "in":
        return []
    if not hasattr(flags, "STRIP_PLAN"):  # since 10, as the refitter that reads a graph
        raise UsageError(
            f"{product.title} cannot replace shared weights by those of a graph; version 10 or newer was expected"
        )
    return [flags.REFIT] if options.shared == "refit" else [flags.REFIT, flags.STRIP_PLAN]


def _parse_error(product: Product, parser: Any, messages: Messages) -> EngineError:
    """Return the error for a graph that was not parsed: the node, its operator, and what the parser says of it."""
    if not parser.num_errors:
        return EngineError(f"{product.title} cannot read the graph: {messages.text()}")
    # the last one is about the node itself; those before it may be about what it was made of
    error = parser.get_error(parser.num_errors - 1)
    node = error.node_name() if hasattr(error, "node_name") else f"number {error.node()}"
    operator = f" ({error.node_operator()})" if hasattr(error, "node_operator") else ""
    return EngineError(f"{product.title} does not take node {node!r}{operator}: {' '.join(error.desc().split())[:300]}")


def _profile(builder: Any, form: str, vector: UserVector, takes: Input, options: BuildOptions) -> Any:
    """Declare the range of every dynamic size."""
    profile = builder.create_optimization_profile()
    counts = (1, options.usual, options.largest)
    profile.set_shape(takes.name, *((count, *takes.largest) for count in counts))
    if form == MANY:
        users = (1, min(1024, vector.most_users), vector.most_users)
        profile.set_shape(TABLE, *((count, vector.size) for count in users))
        profile.set_shape(USER, *((count,) for count in counts))
    return profile
