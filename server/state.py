"""What every request can reach: the runtime of the application that handles it."""

from __future__ import annotations

from flask import Flask, current_app

from isoform.runtime.runtime import Runtime

__all__ = ["attach_runtime", "get_runtime"]


def attach_runtime(app: Flask, runtime: Runtime) -> None:
    """Give an application its runtime."""
    app.extensions["isoform"] = runtime


def get_runtime() -> Runtime:
    """The runtime of the application that handles this request."""
    runtime: Runtime = current_app.extensions["isoform"]
    return runtime
