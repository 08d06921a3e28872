"""Bodies: networks of any architecture, as ONNX graphs whose weights are inputs. The kinds ``module`` and ``alignment`` make their weights."""
