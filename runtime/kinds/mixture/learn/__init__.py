"""Gradients and BN statistics of the kind ``mixture``, with numpy and ONNX Runtime. Never imports torch."""
