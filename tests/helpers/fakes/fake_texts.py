# fmt: off
"""A kind whose tasks take different things, in graphs of their own: texts of any length, and vectors. A signature says by bits what it keeps.

    embedding = relu(mean of rows of Θ · scale · keep)      texts: the rows of its tokens;   vectors: x Θ
"""

import dataclasses

import numpy as np
from fake_kind import Exporter as OfGains
from fake_kind import Kind as OfGainsKind

from isoform.compile.network_file import NetworkFile
from isoform.runtime.errors import SignatureError
from isoform.runtime.inputs import Input
from isoform.runtime.kind import HEAD, NoFront, Part

WIDTH = 16


@dataclasses.dataclass(frozen=True)
class Sizes:
    inputs: dict
    kind: str = "texts"
    bytewise, required_of = frozenset(), staticmethod(lambda task: frozenset({"scale", "keep", *HEAD}))
    part_shapes = {"scale": (WIDTH,), "keep": (WIDTH,), "logits.weight": (None, WIDTH), "logits.bias": (None,)}
    template_shapes = property(lambda self: {name: (self.rows(name), WIDTH) for name in self.inputs})
    sample_bytes = staticmethod(lambda task, shape: 64 * shape[0])
    def input_of(self, task):
        if task not in self.inputs:
            raise SignatureError(f"there is no task {task!r}, but {', '.join(self.inputs)}")
        return self.inputs[task]
    def rows(self, task):
        return self.inputs[task].vocabulary or self.inputs[task].shape[0]
    def to_json(self):
        return {name: entry.to_json() for name, entry in self.inputs.items()}

class Graph:
    embedding, constants, folder = WIDTH, {}, staticmethod(lambda layout: None)
    def __init__(self, spec, table, name):
        task = name.removesuffix("-whole")
        self.input, self.table, self.whole = spec.input_of(task), table[task], name != task
        self.weights = {"rows": self.table.shape}
    def fold(self, parts):
        kept = 1 if self.whole else parts["keep"]
        return {"rows": np.ascontiguousarray(self.table * parts["scale"] * kept), **{name: parts[name] for name in HEAD}}

class Network(NoFront):
    def __init__(self, spec, templates):
        self.spec, self.templates = spec, templates
    complete = staticmethod(lambda task, parts: dict(parts))
    graphs = staticmethod(lambda task, parts: (f"{task}-whole", task) if parts["keep"].all() else (task,))
    def graph(self, name):
        return Graph(self.spec, self.templates, name)
    def reference(self, task, parts, x):
        table = (self.templates[task] * parts["scale"] * parts["keep"]).astype(np.float64)
        e = np.maximum(table[x].mean(axis=1) if x.dtype == np.int64 else x @ table, 0)
        return (e @ parts["logits.weight"].T + parts["logits.bias"]).astype(np.float32)

class Kind(OfGainsKind):
    name, smallest, network, moves = "texts", "keep", Network, {"head": HEAD}
    parts = {"scale": Part(1), "keep": Part(1, "bit"), "logits.weight": Part(2), "logits.bias": Part(1)}
    read_spec = staticmethod(lambda value: Sizes({name: Input.from_json(entry) for name, entry in value.items()}))
    usage = staticmethod(lambda parts: parts["keep"][:, None].astype(np.float64))
    describe = staticmethod(lambda parts: {"keep": parts["keep"].astype(int).tolist()} if "keep" in parts else {})

class Exporter(OfGains):
    cuts = staticmethod(lambda bundle, task: {})
    def graphs(self, bundle, tasks):
        names = [name for task in tasks for name in (task.graph, task.name)]
        return {name: self.drawn(bundle.network.graph(name)).portable(bundle.network.graph(name).weights, template=bundle.digest) for name in names}
    def layouts(self, bundle, task):
        file = self.drawn(bundle.network.graph(task.graph))
        file.initializers.update(task.weights)
        return {"fast": file.complete(task.signature, task.labels, layout="fast")}
    def drawn(self, graph):
        file, name = NetworkFile(graph.input, WIDTH), graph.input.name
        if graph.input.what == "tokens":
            x = file.node("ReduceMean", [file.node("Gather", ["rows", name], "found")], "mean", axes=[1], keepdims=0)
        else:
            x = file.node("MatMul", [name, "rows"], "product")
        file.node("Gemm", [file.node("Relu", [x], "embedding"), *HEAD], "logits", transB=1)
        return file

KIND, EXPORTER = Kind(), Exporter()
