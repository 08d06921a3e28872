"""Bodies of requests for predictions, binary."""

import json

import numpy as np

__all__ = ["HEAD", "INFER", "binary"]

INFER = "/v2/models/plain/infer"
HEAD = "Inference-Header-Content-Length"


def binary(x, *, size=None, outputs=None, **parameters) -> tuple[bytes, dict]:
    """A body with its numbers behind the JSON, and its header."""
    data = np.ascontiguousarray(x, dtype="<f4").tobytes()
    tensor = {"name": "image", "shape": list(x.shape), "datatype": "FP32"}
    tensor["parameters"] = {"binary_data_size": len(data) if size is None else size}
    head = json.dumps(
        {"inputs": [tensor], "parameters": parameters, **({"outputs": outputs} if outputs else {})}
    ).encode()
    return head + data, {HEAD: str(len(head)), "Content-Type": "application/octet-stream"}
