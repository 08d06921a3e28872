"""ONNX Runtime on the CPU: a device plan whose weights are inputs, or a session per signature."""
