"""TensorRT and the kernel on a GPU, beside other ways to run a user's network there."""
