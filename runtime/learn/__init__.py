"""Learning on the device: fits a signature with gradients from numpy and ONNX Runtime. Never imports torch."""
