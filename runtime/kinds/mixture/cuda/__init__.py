"""The network of this kind as a CUDA kernel."""
