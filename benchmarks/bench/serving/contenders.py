"""Who is measured, in which settings: ours, and each rival in every setting that its documentation recommends for CPUs.

LitServe: one process predicts per worker, as many listen; ``fast_queue`` is for more than 100 requests per second; up to 8 requests that
wait together run together. MLServer: it predicts in the process that listens, or in ``parallel_workers``; adaptive batching; ``debug``
off; its metrics stay on, as ours do. Flask alone: ours without what ours does, the floor. Nobody gets more predicting processes than
another, 1 or 2; each is judged by the best of its settings.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.serving.environments import RIVALS, environment
from bench.serving.http_servers import (
    Server,
    start_flask,
    start_isoform,
    start_litserve,
    start_mlserver,
    wait_until_ready,
)  # fmt: skip

__all__ = ["FLOOR", "start_all"]

FLOOR = "flask"
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "isoform": [{"workers": 1}, {"workers": 2}],
    "flask": [{"workers": 1}, {"workers": 2}],
    "litserve": [
        {"workers": 1, "queue": "fast", "batch": 1}, {"workers": 2, "queue": "fast", "batch": 1},
        {"workers": 1, "queue": "plain", "batch": 1}, {"workers": 2, "queue": "plain", "batch": 1},
        {"workers": 1, "queue": "fast", "batch": 8}, {"workers": 2, "queue": "fast", "batch": 8},
    ],
    "mlserver": [
        {"workers": 0, "batch": 1}, {"workers": 1, "batch": 1}, {"workers": 2, "batch": 1}, {"workers": 0, "batch": 8},
    ],
}  # fmt: skip
QUICK = {"isoform": [0, 1], "flask": [1], "litserve": [1, 4], "mlserver": [0]}
"""Which of them are measured when there is less time: those that were best at one thing or another."""


def start_all(
    rivals: Iterable[str], stack: contextlib.ExitStack, *, bundle: Path, model: Path, folder: Path, environments: Path,
    quick: bool,
) -> list[Server]:  # fmt: skip
    """Start ours and those rivals that can be installed, and wait until all answer.

    Args:
        rivals: Names; of those that cannot be installed a line on stderr says why.
        stack: What ends them.
        bundle: The network, for ours.
        model: The same network as an ONNX file, for the others.
        folder: For their files.
        environments: Where the rivals' environments are, or are made.
        quick: Whether only the settings in ``QUICK``.

    Raises:
        RuntimeError: If none of the rivals is there, or one does not start.
    """
    pythons = dict[str, Path | None]({"isoform": None})
    for rival in rivals:
        try:
            pythons[rival] = environment(rival, environments) if rival in RIVALS else None
        except RuntimeError as problem:
            print(f"without {rival}: {problem}", file=sys.stderr)
    if len(pythons) == 1:
        raise RuntimeError("there is no rival to compare with")
    servers = list[Server]()
    for name, python in pythons.items():
        for place, setting in enumerate(SETTINGS[name]):
            if quick and place not in QUICK[name]:
                continue
            if name == "isoform":
                server = start_isoform(bundle, folder, **setting)
            elif python is None:
                server = start_flask(model, folder, **setting)
            else:
                start = start_litserve if name == "litserve" else start_mlserver
                server = start(python, model, folder, **setting)
            stack.enter_context(server.process)
            servers.append(server)
    for server in servers:
        wait_until_ready(server)
    return servers
