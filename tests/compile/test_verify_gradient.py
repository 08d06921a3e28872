"""The gate before training graphs are written."""

import numpy as np
import onnx
import pytest

from isoform.compile.kinds.mixture.training import training_graphs
from isoform.compile.kinds.mixture.verify_gradient import check_gradients, gradient_gap
from isoform.runtime.errors import CompileError
from isoform.train.data.samples import Split


def test_a_wrong_graph_is_noticed(runtime, samples) -> None:
    """The exported product agrees with torch on real samples; one with another slope in it does not."""
    bundle = runtime.bundle
    test = Split(images=np.array(samples[0]), labels=samples[1].astype(np.int64))
    graphs = training_graphs(bundle.spec)
    assert gradient_gap(bundle, "plain", test, graphs) <= 1e-4
    for name in graphs:
        if name.startswith("block_vjp"):
            model = onnx.load_from_string(graphs[name])
            (half,) = (entry for entry in model.graph.initializer if entry.name == "float32 0.5")
            half.raw_data = np.float32(0.51).tobytes()
            graphs[name] = model.SerializeToString()
    gap = gradient_gap(bundle, "plain", test, graphs)
    assert gap > 1e-4
    with pytest.raises(CompileError, match="task 'plain': gradients differ by .*; nothing was written"):
        check_gradients({"plain": gap})


def test_the_gate_refuses_what_is_no_number() -> None:
    """NaN is no agreement."""
    check_gradients({"a": 1e-5})
    with pytest.raises(CompileError, match="differ by nan"):
        check_gradients({"a": float("nan")})
