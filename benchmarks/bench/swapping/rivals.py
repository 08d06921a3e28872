"""Every other way to give a user their own weights with ONNX Runtime alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bench.swapping.as_torch import as_exported, as_torch
from isoform.runtime.arrays import Array
from isoform.runtime.engines.onnx.per_signature import portable_session
from isoform.runtime.engines.onnx.session import open_session, ort, session_options
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kind import HEAD
from isoform.runtime.kinds.mixture.fold import fold, row_shapes, template_matrix
from isoform.runtime.kinds.mixture.normalisation import bn_scale_shift

Run = Callable[[Array], Array]
"""Samples → logits."""


def exported(bundle: Bundle, signature: Signature) -> Run:
    """A session of the user's network as torch exports it."""
    network = as_torch(bundle.spec, bundle.tensors, bundle.resolve(signature).parts)
    file = as_exported(network, bundle.spec.input_shape)
    return _bound(open_session(file, session_options(1), what="torch's graph"), {})


def constant(bundle: Bundle, signature: Signature) -> Run:
    """A session whose weights are constants."""
    weights = fold(bundle.spec, bundle.tensors, bundle.resolve(signature).parts)
    session = portable_session(bundle.require_compiled().graphs["portable"], weights, threads=1)
    return _bound(session, {name: weights[name] for name in HEAD})


def plain_inputs(bundle: Bundle, signature: Signature) -> Run:
    """The portable graph with its weights as plain inputs, optimised as far as ONNX Runtime can."""
    weights = fold(bundle.spec, bundle.tensors, bundle.resolve(signature).parts)
    model = onnx.load_from_string(bundle.require_compiled().graphs["portable"])
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, onnx.TensorProto.FLOAT, list(tensor.dims)))
    del model.graph.initializer[:]
    return _bound(_session(model), weights)


def mixture_graph(bundle: Bundle, base: Signature) -> onnx.ModelProto:
    """The portable graph with the mixing, and the base's BN scale, in it; input ``xi`` (L, K), the mixture weights."""
    spec, parts = bundle.spec, bundle.resolve(base).parts
    weights = fold(spec, bundle.tensors, parts)
    model = onnx.load_from_string(bundle.require_compiled().graphs["portable"])
    graph, theta = model.graph, template_matrix(spec, bundle.tensors)
    scale = np.ones((spec.layers, theta.shape[1]), dtype=np.float32)
    start, s = 0, bn_scale_shift(spec, bundle.tensors, parts)[0]
    for name, shape in row_shapes(spec).items():
        for layer in range(spec.layers):
            place = spec.bn_slices.get(f"layer{layer:02d}.{name.removesuffix('.weight')}")
            if place is not None:
                scale[layer, start : start + math.prod(shape)] = np.repeat(s[place], math.prod(shape[1:]))
        start += math.prod(shape)
    sizes = np.array([math.prod(shape) for shape in row_shapes(spec).values()])
    constants = {"theta": theta, "scale": scale, "sizes": sizes}
    constants.update({f"shape {name}": np.array(shape) for name, shape in row_shapes(spec).items()})
    rows = [f"row{layer}" for layer in range(spec.layers)]
    nodes = [
        helper.make_node("MatMul", ["xi", "theta"], ["mixed"]),
        helper.make_node("Mul", ["mixed", "scale"], ["scaled"]),
        helper.make_node("Split", ["scaled"], rows, axis=0),
    ]
    for layer, row in enumerate(rows):
        flat = [f"flat {row} {name}" for name in row_shapes(spec)]
        nodes.append(helper.make_node("Split", [row, "sizes"], flat, axis=1))
        nodes += [
            helper.make_node("Reshape", [piece, f"shape {name}"], [f"layer{layer:02d}.{name}"])
            for piece, name in zip(flat, row_shapes(spec), strict=True)
        ]
    mixed = {node.output[0] for node in nodes}
    kept = [numpy_helper.from_array(weights[t.name], t.name) for t in graph.initializer if t.name not in mixed]
    del graph.initializer[:]
    graph.initializer.extend([*kept, *(numpy_helper.from_array(value, name) for name, value in constants.items())])
    network = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *network])
    graph.input.append(helper.make_tensor_value_info("xi", onnx.TensorProto.FLOAT, [spec.layers, spec.templates]))
    return model


def mixture_in_graph(bundle: Bundle, base: Signature, xi: Array) -> Run:
    """Mixing at every run: a user is L·K numbers in the feed."""
    return _bound(_session(mixture_graph(bundle, base)), {"xi": xi, **_head(bundle, base)})


def adapter(bundle: Bundle, base: Signature, xi: Array, folder: Path) -> tuple[Run, Callable[[], object]]:
    """ONNX Runtime's adapters: the mixture graph, its ``xi`` an initializer that an adapter file overrides.

    Returns:
        What runs, and what loads a user's file.
    """
    model = mixture_graph(bundle, base)
    model.graph.initializer.append(numpy_helper.from_array(np.full_like(xi, 0.25), "xi"))
    session, head, path = _session(model), _head(bundle, base), str(folder / "user.onnx_adapter")
    file = ort.AdapterFormat()
    file.set_adapter_version(1)
    file.set_model_version(1)
    file.set_parameters({"xi": ort.OrtValue.ortvalue_from_numpy(xi)})
    file.export_adapter(path)

    def load() -> tuple[ort.LoraAdapter, ort.RunOptions]:
        loaded, options = ort.LoraAdapter(), ort.RunOptions()
        loaded.Load(path)
        options.add_active_adapter(loaded)
        return loaded, options

    # Runs with a binding ignore adapters, so this one is fed by name.
    loaded = load()  # the adapter must outlive its options
    return lambda x: session.run(None, {"image": x, **head}, loaded[1])[0], load


def _bound(session: ort.InferenceSession, feeds: dict[str, Array]) -> Run:
    """Everything but the samples bound once: the fastest way to run that ONNX Runtime's interface has."""
    binding, samples = session.io_binding(), -1
    for name, value in feeds.items():
        binding.bind_cpu_input(name, value)

    def run(x: Array) -> Array:
        nonlocal samples
        binding.bind_cpu_input("image", x)
        if len(x) != samples:
            binding.bind_output("logits", "cpu")
        session.run_with_iobinding(binding)
        samples = len(x)
        return binding.copy_outputs_to_cpu()[0]

    return run


def _head(bundle: Bundle, signature: Signature) -> dict[str, Array]:
    parts = bundle.resolve(signature).parts
    return {name: parts[name] for name in HEAD}


def _session(model: onnx.ModelProto) -> ort.InferenceSession:
    return open_session(model.SerializeToString(), session_options(1), what="a rival's graph")
