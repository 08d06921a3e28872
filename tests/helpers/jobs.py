"""What tests of jobs share: a request's body, waiting for an end, and learning that goes on until it is let go."""

import threading
import time

from isoform.runtime.runtime import Runtime

__all__ = ["Slow", "body", "ended"]


def body(x, labels=None, *, datatype="BYTES"):
    """A request's JSON."""
    inputs = [{"name": "image", "shape": list(x.shape), "datatype": "FP32", "data": x.ravel().tolist()}]
    if labels is not None:
        data = [str(label) if datatype == "BYTES" else int(label) for label in labels]
        inputs.append({"name": "label", "shape": [len(data)], "datatype": datatype, "data": data})
    return {"inputs": inputs}


def ended(client, job, seconds=60):
    """The job, once it has ended."""
    until = time.monotonic() + seconds
    while job["state"] in ("queued", "running") and time.monotonic() < until:
        time.sleep(0.05)
        job = client.get(f"/v1/jobs/{job['id']}").json
    return job


class Slow:
    """A stand-in for learning that waits to be let go: what is tested is what happens around it."""

    def __init__(self, monkeypatch, runtime) -> None:
        self.go, self.begun, base = threading.Event(), threading.Event(), runtime.signature("plain")

        def adapt(_self, x, start, *, method, progress):
            self.begun.set()
            for step in range(1200):
                progress(step, 1200)
                if self.go.wait(0.05):
                    return base.replace(created="slowly")
            raise AssertionError("nobody let it go")

        monkeypatch.setattr(Runtime, "adapt", adapt)
