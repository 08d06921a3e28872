"""What every request can reach: the runtime of the application that handles it."""

from __future__ import annotations

from flask import Flask, current_app
from werkzeug.exceptions import NotFound

from isoform.runtime.runtime import Runtime
from isoform.runtime.signature import Signature

__all__ = ["attach_runtime", "get_runtime", "get_signature"]


def attach_runtime(app: Flask, runtime: Runtime) -> None:
    """Give an application its runtime."""
    app.extensions["isoform"] = runtime


def get_runtime() -> Runtime:
    """The runtime of the application that handles this request."""
    runtime: Runtime = current_app.extensions["isoform"]
    return runtime


def get_signature(task: str) -> Signature:
    """The base signature that answers for a task; 404 if there is none of that name."""
    runtime = get_runtime()
    if task not in runtime.tasks:
        raise NotFound(f"there is no task {task!r}; there are {', '.join(runtime.tasks)}")
    return runtime.signature(task)
