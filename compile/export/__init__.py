"""One signature's network taken out of a bundle, as a complete ONNX file in any precision, or as an adapter of ONNX Runtime's."""
