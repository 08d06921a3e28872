"""TensorRT: graphs in the forms that its engines are built from, and the engines that a bundle is shipped with."""
