"""All graphs for learning on the device, the files of ``compiled/training/``: plain and blocked forms, and a probe for the layout."""

from __future__ import annotations

from isoform.compile.kinds.mixture.block import block_forward_graph, file_of
from isoform.compile.kinds.mixture.block_stages import block_stage_graphs
from isoform.compile.kinds.mixture.block_vjp import block_vjp_graph
from isoform.compile.kinds.mixture.depthwise import NCHWC
from isoform.compile.nodes import Nodes
from isoform.runtime.kinds.mixture.learn.lanes import LANES
from isoform.runtime.kinds.mixture.spec import NetworkSpec

__all__ = ["probe_graph", "training_graphs"]


def training_graphs(spec: NetworkSpec) -> dict[str, bytes]:
    """Encode the graphs. File name → content: ``block_forward.onnx``, ``block_vjp.onnx`` and ``block_depthwise.onnx``, each also as ``…_8.onnx`` and
    ``…_16.onnx`` for the blocked layouts; ``block_expand.onnx`` and ``block_project.onnx``; and ``probe.onnx``.
    """
    graphs = {"probe.onnx": probe_graph()}
    for lanes in (None, *LANES):
        suffix = "" if lanes is None else f"_{lanes}"
        graphs[f"block_forward{suffix}.onnx"] = block_forward_graph(spec, lanes=lanes)
        stages = block_stage_graphs(spec, lanes=lanes)
        graphs |= {f"block_{stage}{suffix}.onnx": graph for stage, graph in stages.items()}
        graphs[f"block_vjp{suffix}.onnx"] = block_vjp_graph(spec, lanes=lanes)
    return graphs


def probe_graph() -> bytes:
    """Encode a graph whose output shows the blocked layout's number of channels; see ``isoform.runtime.kinds.mixture.learn.lanes``."""
    nodes = Nodes()
    # ONNX Runtime does not report its layout; the order in which it stores known numbers shows it.
    nodes("ReorderInput", ["x"], "blocked", domain=NCHWC)
    return file_of(nodes, {"x": [1, 64, 1, 2]}, {"blocked": [1, 64, 1, 2]})
