"""TensorRT and TensorRT-RTX: engines whose weights are inputs, so that changing the user copies weights on the device."""
