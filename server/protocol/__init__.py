"""The Open Inference Protocol, V2 REST, with binary tensors: bytes → samples, logits → bytes. No Flask, no network, no state.

    request.py       decode a body: JSON, or JSON followed by binary tensors
    json_object.py   parse JSON
    tensors.py       decode tensors of samples and labels
    parameters.py    known parameters; unknown ones are refused
    bounds.py        memory limits while decoding
    response.py      encode logits as the answer's body
    metadata.py      a task's model metadata

Sources: kserve/open-inference-protocol, inference_rest.md; Triton's extension_binary_data.md.
"""
