"""Backward passes of any ONNX graph, as ONNX graphs: reverse-mode differentiation, node by node."""
