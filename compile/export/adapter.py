"""A signature as an adapter of ONNX Runtime's, for its bindings of other languages, with the graph that it is for.

The graph has the weights of a base signature as initializers that are also inputs; an adapter file overrides them. Such a graph is slower
than the runtime's plans, because ONNX Runtime cannot lay out weights that may change (``benchmarks/swap.py``).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from isoform.compile.nodes import IR_VERSION
from isoform.runtime.arrays import Array
from isoform.runtime.engines.onnx.session import ort
from isoform.runtime.errors import UsageError
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kind import HEAD

__all__ = ["adapter_file", "adapter_graph", "run_adapter"]

VERSION = 1
"""Version of the adapters and of the graph, as ONNX Runtime stores it."""


def adapter_graph(bundle: Bundle, signature: Signature) -> bytes:
    """Write the graph that adapters of a task's users are for; without one it computes the network of ``signature``.

    Raises:
        UsageError: If the network has a front, or signatures of one task run on different graphs.
    """
    resolved = bundle.resolve(signature)
    name, graph = bundle.graph(resolved)
    if bundle.network.front(signature.task) is not None:
        raise UsageError(
            "adapters are for graphs that take samples, but this network has a front; export a complete file"
        )
    model = onnx.load_from_string(bundle.require_compiled().graphs[name])
    del model.graph.initializer[:]
    weights = graph.fold(resolved.parts)
    heads = {value.name: value for value in model.graph.input if value.name in HEAD}
    for value in heads.values():
        model.graph.input.remove(value)
    given = {**{name: weights[name] for name in graph.weights}, **{name: resolved.parts[name] for name in HEAD}}
    for key, array in given.items():
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array, dtype=np.float32), key))
        if key not in graph.constants:
            # the number of classes may differ from user to user
            shape = [None, *array.shape[1:]] if key in HEAD else array.shape
            model.graph.input.append(helper.make_tensor_value_info(key, TensorProto.FLOAT, shape))
    model.ir_version = max(model.ir_version, IR_VERSION)
    return bytes(model.SerializeToString(deterministic=True))


def adapter_file(bundle: Bundle, signature: Signature) -> bytes:
    """Write a signature's adapter: its folded weights, BN in them, and its logits layer."""
    resolved = bundle.resolve(signature)
    _, graph = bundle.graph(resolved)
    weights = graph.fold(resolved.parts)
    given = {name: weights[name] for name in graph.weights if name not in graph.constants}
    given |= {name: resolved.parts[name] for name in HEAD}
    file = ort.AdapterFormat()
    file.set_adapter_version(VERSION)
    file.set_model_version(VERSION)
    file.set_parameters(
        {
            name: ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array, dtype=np.float32))
            for name, array in given.items()
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "adapter")
        file.export_adapter(str(path))
        return path.read_bytes()


def run_adapter(graph: bytes, adapter: bytes, x: Array) -> Array:
    """Return the logits that ONNX Runtime computes of samples with a graph and an adapter, shape (n, classes)."""
    from isoform.runtime.engines.onnx.session import open_session, session_options

    session = open_session(graph, session_options(1), what="the graph for adapters")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "adapter")
        path.write_bytes(adapter)
        loaded, options = ort.LoraAdapter(), ort.RunOptions()
        loaded.Load(str(path))
        options.add_active_adapter(loaded)  # ``loaded`` must outlive the run: options do not keep it
        taken = session.get_inputs()[0].name
        result: Array = session.run(["logits"], {taken: x}, options)[0]
        del options, loaded
    return result
