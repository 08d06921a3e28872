"""A runtime for MLServer, as its documentation says to write one: the network's file is ``$MODEL``."""

from __future__ import annotations

import os

import numpy as np
import onnxruntime as ort
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.codecs.base64 import Base64Codec
from mlserver.types import InferenceRequest, InferenceResponse


class Network(MLModel):
    """One ONNX file."""

    async def load(self) -> bool:
        """In every worker."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
        self.shape = (-1, *self.session.get_inputs()[0].shape[1:])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Logits, in the form of the samples."""
        image = payload.inputs[0]
        binary = image.datatype == "BYTES"
        if binary:  # several requests, where MLServer runs those that are waiting together
            parts = [np.frombuffer(data, "<f4").reshape(self.shape) for data in Base64Codec.decode_input(image)]
            values = np.concatenate(parts) if len(parts) > 1 else parts[0]
        else:
            values = NumpyCodec.decode_input(image).astype(np.float32, copy=False)
        logits = self.session.run(["logits"], {"image": values.reshape(self.shape)})[0]
        if binary:
            ends = np.cumsum([len(part) for part in parts])[:-1]
            texts = [part.tobytes() for part in np.split(logits, ends)]
            output = Base64Codec.encode_output("logits", texts, use_bytes=False)
        else:
            output = NumpyCodec.encode_output("logits", logits)
        return InferenceResponse(model_name=self.name, outputs=[output])
