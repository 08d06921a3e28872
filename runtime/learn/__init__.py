"""Learning on the device: gradients of a signature with numpy and ONNX Runtime, and what is made of them. Never torch."""
