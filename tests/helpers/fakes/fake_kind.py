# fmt: off
"""A kind in a few lines, to show that the doors are doors: embedding = relu((g · Θ) x), a vector g per task and one matrix product."""

import dataclasses
import math

import numpy as np

from isoform.compile.network_file import NetworkFile
from isoform.runtime.inputs import Input
from isoform.runtime.kind import HEAD, OneGraph, Part


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    input_shape: tuple[int, ...]
    embedding: int
    kind: str = "gains"
    bytewise, required_of = frozenset(), staticmethod(lambda task: frozenset({"gains", *HEAD}))
    sample_bytes = staticmethod(lambda task, shape: 8 * math.prod(shape))
    template_shapes = property(lambda self: {"matrix": (self.embedding, math.prod(self.input_shape))})
    part_shapes = property(lambda self: {"gains": (self.embedding,), "logits.weight": (None, self.embedding), "logits.bias": (None,)})
    to_json = dataclasses.asdict
    def input_of(self, task):
        return Input(what="image", shape=self.input_shape)

class Gains(OneGraph):
    def __init__(self, spec, templates):
        self.spec, self.templates, self.constants, self.weights = spec, templates, {}, {"scaled": spec.template_shapes["matrix"]}
        self.input, self.embedding = spec.input_of(""), spec.embedding
    complete = staticmethod(lambda task, parts: dict(parts))
    folder = staticmethod(lambda layout: None)
    def fold(self, parts):
        return {"scaled": parts["gains"][:, None] * self.templates["matrix"], **{name: parts[name] for name in HEAD}}
    def reference(self, task, parts, x):
        e = np.maximum(x.reshape(len(x), -1).astype(np.float64) @ self.fold(parts)["scaled"].T, 0)
        return (e @ parts["logits.weight"].T + parts["logits.bias"]).astype(np.float32)

class Kind:
    name, smallest, network, moves = "gains", "gains", Gains, {"head": HEAD}
    default_moves = full_moves = ("head",)
    searched, changes = frozenset(), staticmethod(lambda spec, others: ())
    parts = {"gains": Part(1), "logits.weight": Part(2), "logits.bias": Part(1)}
    read_spec = staticmethod(lambda value: Sizes(**{**value, "input_shape": tuple(value["input_shape"])}))
    check_part = staticmethod(lambda name, array: None)
    learner = staticmethod(lambda bundle, *, threads: None)
    average = staticmethod(lambda name, arrays, share: np.tensordot(share, np.stack(arrays), axes=1).astype(np.float32))
    usage = staticmethod(lambda parts: np.abs(parts["gains"])[:, None] / max(1.0, np.abs(parts["gains"]).max()))
    distance = staticmethod(lambda first, second: float(np.abs(first["gains"] - second["gains"]).mean() / 2))
    describe = staticmethod(lambda parts: {"gains": parts["gains"].tolist()} if "gains" in parts else {})

class Exporter(Kind):
    snap = staticmethod(lambda signature, *, tau: signature)
    learning = staticmethod(lambda bundle: None)
    trained, columns = staticmethod(lambda bundle, signature: None), {}
    told = staticmethod(lambda bundle, task: {})
    cuts = staticmethod(lambda bundle, task: {"gains_only": task.signature.keep("gains")})
    def graphs(self, bundle, tasks):
        return {"portable": self.drawn(bundle.spec, {}).portable(bundle.network.weights, template=bundle.digest)}
    def layouts(self, bundle, task):
        return {"fast": self.drawn(bundle.spec, task.weights).complete(task.signature, task.labels, layout="fast")}
    def drawn(self, spec, weights):
        file = NetworkFile(spec.input_of(""), spec.embedding)
        file.initializers.update(weights)
        x = file.node("Gemm", [file.node("Flatten", ["image"], "flat"), "scaled"], "product", transB=1)
        file.node("Gemm", [file.node("Relu", [x], "embedding"), *HEAD], "logits", transB=1)
        return file

KIND, EXPORTER = Kind(), Exporter()
