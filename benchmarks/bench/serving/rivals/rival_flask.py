"""The floor: Flask and ONNX Runtime and nothing else, behind gunicorn; the network's file is ``$MODEL``."""

from __future__ import annotations

import os

import numpy as np
import onnxruntime as ort
from flask import Flask, Response, request

app = Flask(__name__)
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = ort.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
shape = (-1, *session.get_inputs()[0].shape[1:])


@app.get("/health")
def health() -> str:
    """Whether it answers."""
    return "ok"


@app.post("/predict")
def predict() -> Response | dict[str, object]:
    """Logits, in the form of the samples."""
    binary = request.mimetype == "application/octet-stream"
    values = np.frombuffer(request.get_data(), "<f4") if binary else np.array(request.get_json()["image"], np.float32)
    logits = session.run(["logits"], {"image": values.reshape(shape)})[0]
    return (
        Response(logits.tobytes(), mimetype="application/octet-stream")
        if binary
        else {"logits": logits.ravel().tolist()}
    )
