"""LitServe: ``python rival_litserve.py PORT WORKERS QUEUE BATCH``; the network's file is ``$MODEL``.

As its documentation says for production: the device by name, as many workers as there are cores, ``fast_queue`` (ZeroMQ) for more than
100 requests per second; as many API servers as workers is its default. QUEUE is ``fast`` or ``plain``;
up to BATCH requests that are waiting run together.
"""

# No annotations as texts here: LitServe reads those of ``decode_request`` itself.

import os
import sys
from typing import Annotated, Any

import litserve
import numpy as np
import onnxruntime as ort
from fastapi import Depends, Request, Response


async def content(request: Request) -> Any:
    """JSON, or bytes as they came."""
    binary = request.headers.get("content-type") == "application/octet-stream"
    return await request.body() if binary else await request.json()


class Network(litserve.LitAPI):
    """One ONNX file."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - LitServe calls it so
        """In every worker."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
        self.shape = (-1, *self.session.get_inputs()[0].shape[1:])

    def decode_request(self, request: Annotated[Any, Depends(content)]) -> tuple[bool, np.ndarray]:
        """To samples, and whether they were bytes."""
        binary = isinstance(request, bytes)
        values = np.frombuffer(request, "<f4") if binary else np.array(request["image"], np.float32)
        return binary, values.reshape(self.shape)

    def predict(self, x: tuple[bool, np.ndarray]) -> tuple[bool, np.ndarray]:
        """To logits."""
        return x[0], self.session.run(["logits"], {"image": x[1]})[0]

    def encode_response(self, output: tuple[bool, np.ndarray]) -> Any:
        """In the form that they came in."""
        binary, logits = output
        if binary:
            return Response(logits.tobytes(), media_type="application/octet-stream")
        return {"logits": logits.ravel().tolist()}


class BatchedNetwork(Network):
    """Several requests in one run, each with as many samples as it has."""

    def batch(self, inputs: list[tuple[bool, np.ndarray]]) -> list[tuple[bool, np.ndarray]]:
        """As they are: ``predict`` joins the samples."""
        return inputs

    def predict(self, x: list[tuple[bool, np.ndarray]]) -> list[tuple[bool, np.ndarray]]:
        """To logits, request by request."""
        logits = super().predict((True, np.concatenate([samples for _, samples in x])))[1]
        ends = np.cumsum([len(samples) for _, samples in x])[:-1]
        return [(binary, part) for (binary, _), part in zip(x, np.split(logits, ends), strict=True)]

    def unbatch(self, output: list[tuple[bool, np.ndarray]]) -> list[tuple[bool, np.ndarray]]:
        """As they are."""
        return output


if __name__ == "__main__":
    port, workers, queue, batch = sys.argv[1:]
    network = BatchedNetwork(max_batch_size=int(batch), batch_timeout=0.0) if int(batch) > 1 else Network()
    server = litserve.LitServer(
        network, accelerator="cpu", devices=1, workers_per_device=int(workers), fast_queue=queue == "fast"
    )
    server.run(host="127.0.0.1", port=int(port), log_level="warning", generate_client_file=False)
