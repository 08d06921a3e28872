"""Snapping, and the three layouts of the ONNX graph."""

import dataclasses

import numpy as np
import onnx
import pytest
from support import SMALL, make_bundle

from isoform.compile.kinds.mixture.graph import fast_graph, portable_graph, small_graph
from isoform.compile.kinds.mixture.snap import snap
from isoform.compile.nodes import IR_VERSION, OPSET
from isoform.runtime.engines.onnx.per_signature import portable_session
from isoform.runtime.engines.onnx.session import open_session, session_options
from isoform.runtime.errors import CompileError
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kinds.mixture.discrete import discrete_logits, sequence_of, xi_of
from isoform.runtime.kinds.mixture.fold import fold, folded_shapes
from isoform.runtime.kinds.mixture.reference import reference_logits


def layouts(bundle, signature):
    """The fast and small files, the portable graph, the folded weights and the resolved parts of a signature."""
    parts, labels = bundle.resolve(signature).parts, bundle.labels(signature)
    weights = fold(bundle.spec, bundle.tensors, parts)
    fast = fast_graph(bundle.spec, weights, signature=signature, labels=labels)
    small = small_graph(bundle.spec, bundle.tensors, parts, signature=signature, labels=labels)
    return fast, small, portable_graph(bundle.spec, template=bundle.digest), weights, parts


@pytest.mark.parametrize("affine", ["layer", "task", "mixed"])
@pytest.mark.parametrize(("shape", "kernel"), [((1, 8, 8), (2, 2)), ((3, 8, 4), (4, 2)), ((6, 1, 16), (1, 4))])
@pytest.mark.parametrize("sequence", [(None, None, None), (0, None, 0), (1, 0, 1)])
def test_every_layout_is_the_twin(affine, shape, kernel, sequence) -> None:
    """All layouts agree with the slow numpy twin to 1e-4, for mixed, partly and wholly discrete signatures, any batch size."""
    channels = shape[0]
    spec = dataclasses.replace(
        SMALL, affine=affine, input_shape=shape, adapter_kernel=kernel, mean=(0.4,) * channels, std=(0.3,) * channels
    )
    bundle = make_bundle(spec)
    base = bundle.signatures["a"]
    mixture = np.array(base.parts["mixture"])
    for layer, template in enumerate(sequence):
        if template is not None:
            mixture[layer] = discrete_logits((template,), spec.templates)[0]
    signature = base.replace(parts={**base.parts, "mixture": mixture})
    assert sequence_of(xi_of(signature.parts)) == sequence
    fast, small, portable, weights, parts = layouts(bundle, signature)
    head = {name: weights[name] for name in ("logits.weight", "logits.bias")}
    for batch in (1, 5):
        x = np.random.default_rng(batch).uniform(0, 1, (batch, *shape)).astype(np.float32)
        expected = reference_logits(spec, bundle.tensors, parts, x)
        sessions = [open_session(file, session_options(1), what="the file") for file in (fast, small)]
        runs = [session.run(None, {"image": x})[0] for session in sessions]
        runs.append(portable_session(portable, weights, threads=1).run(None, {"image": x, **head})[0])
        for found in runs:
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_the_files_say_what_they_are() -> None:
    """Opset, file format, a dynamic batch, plain operators, and metadata with digests; nothing mixes at run time."""
    bundle = make_bundle(SMALL)
    signature = bundle.signatures["a"]
    fast, small, portable, *_ = layouts(bundle, signature)
    plain = {"Conv", "HardSwish", "HardSigmoid", "Relu", "GlobalAveragePool", "Mul", "Add", "Flatten", "Gemm"}
    for file, layout in ((fast, "fast"), (small, "small"), (portable, "portable")):
        model = onnx.load_from_string(file)
        assert model.ir_version == IR_VERSION
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
        filled = {"Constant", "Pad"} if layout == "portable" else set()  # the optimiser computes both once
        assert {node.op_type for node in model.graph.node} == plain | filled
        assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "n"
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        assert (metadata["layout"], metadata["template"]) == (layout, bundle.digest)
        assert metadata.get("signature", signature.digest) == signature.digest
    assert "BatchNormalization" not in {node.op_type for node in onnx.load_from_string(small).graph.node}


def test_small_shares_templates() -> None:
    """In ``small`` discrete layers point at one copy of their template, bit for bit; in ``fast`` every layer has its own."""
    bundle = make_bundle(SMALL)
    base = bundle.signatures["a"]
    signature = base.replace(parts={**base.parts, "mixture": discrete_logits((1, 1, 1), 2)})
    fast, small, *_ = layouts(bundle, signature)
    weights = {
        entry.name: onnx.numpy_helper.to_array(entry) for entry in onnx.load_from_string(small).graph.initializer
    }
    expands = [node.input[1] for node in onnx.load_from_string(small).graph.node if node.name.endswith("expand.conv")]
    assert expands == ["template1.expand.weight"] * 3
    for name in SMALL.block_shapes:
        assert weights[f"template1.{name}"].tobytes() == bundle.tensors[f"template.{name}"][1].tobytes()
    assert not any(name.startswith("template0") for name in weights)
    names = [entry.name for entry in onnx.load_from_string(fast).graph.initializer]
    assert names == [*folded_shapes(SMALL), "logits.weight", "logits.bias"]
    assert len(small) < len(fast)


def test_the_same_input_gives_the_same_bytes() -> None:
    """Files are a function of their input."""
    one, two = (layouts(make_bundle(SMALL), make_bundle(SMALL).signatures["b"])[:3] for _ in range(2))
    assert one == two


def test_snapping() -> None:
    """Layers that reach τ become discrete, the others keep their numbers; the trained signature is the parent."""
    logits = np.array([[5.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
    trained = Signature(parts={"mixture": logits}, template="ab" * 32, task="a")
    snapped = snap(trained, tau=0.95)
    assert sequence_of(xi_of(snapped.parts)) == (0, None, 1)
    assert np.array_equal(snapped.parts["mixture"][1], trained.parts["mixture"][1])
    assert snapped.parent == trained.digest
    assert sequence_of(xi_of(snap(trained, tau=1.0).parts)) == (None, None, None)
    assert sequence_of(xi_of(snap(trained, tau=0.7).parts)) == (0, 1, 1)


@pytest.mark.parametrize("tau", [0.5, 0, 1.01, float("nan")])
def test_tau_out_of_range(tau) -> None:
    """τ is above one half, so that no layer is two templates at once."""
    with pytest.raises(CompileError, match="tau is"):
        snap(Signature(parts={"mixture": np.zeros((1, 2))}, template="ab" * 32, task="a"), tau=tau)
