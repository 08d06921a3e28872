"""The Open Inference Protocol, V2 REST, with binary tensors: bytes → samples, logits → bytes. No Flask, no network, no state.

    request.py       a body, JSON or JSON and tensors → samples, and what is wanted of them
    json_object.py   JSON as Python's objects
    tensors.py       numbers and labels, in the JSON or behind it
    bounds.py        what reading a body may take
    response.py      logits → a body of the same kind
    metadata.py      what a task takes and gives

Sources: kserve/open-inference-protocol, inference_rest.md; Triton's extension_binary_data.md.
"""
