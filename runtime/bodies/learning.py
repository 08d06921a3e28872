"""A learner for bodies: gradients of the weights that differ between signatures, and BN's moments, by graphs that ``compile`` wrote.

A kind says which weights those are (``Parts``): how parts become weights, and gradients of weights gradients of parts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.bodies.body import Body
from isoform.runtime.bodies.differences import differences
from isoform.runtime.engines.onnx.per_signature import portable_session
from isoform.runtime.engines.onnx.session import ort
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kind import HEAD
from isoform.runtime.learn.learner import AFFINE, BATCH, STATISTICS, Choose, Loss, Moments, Pass, Point

__all__ = ["EMBEDDING", "GIVEN", "BodyLearner", "Parts", "gradient_name", "input_name", "output_name"]

EMBEDDING, GIVEN = "embedding", "gradient.of.embedding"
"""Names of the output of ``forward``, and of an input of ``backward``."""
CHUNK = 64  # bounds memory
"""Samples per forward pass without gradients."""


def gradient_name(weight: str) -> str:
    """Return the name of a weight's gradient in ``backward``."""
    return f"gradient.of.{weight}"


def input_name(norm: str) -> str:
    """Return the name of what a BN reads, in segments."""
    return f"{norm}.input"


def output_name(norm: str) -> str:
    """Return the name of what a BN writes, in segments."""
    return f"{norm}.output"


class Parts(Protocol):
    """What a kind knows of its parts."""

    @property
    def constants(self) -> Mapping[str, Array]:
        """Weights that all signatures share, in the graph's order."""

    def fold(self, parts: Mapping[str, Array]) -> Mapping[str, Array]:
        """Compute all weights, as ``Graph.fold``."""

    def chain(self, parts: Mapping[str, Array], gradients: Mapping[str, Array]) -> dict[str, Array]:
        """Return part → gradient, float64, given the gradients of the weights that differ; BN's and the logits layer's left out."""


class BodyLearner:
    """A ``Normalising`` learner of a bundle's body.

    Args:
        bundle: The bundle.
        body: The body.
        parts: The kind's parts.
        graphs: ``forward``; ``backward``, without which gradients are estimated (``differences.py``); and, if BN differs, the segments.
            Other graphs are ignored.
        rates: Adam's rate of each part.
        threads: Threads per run; 0 lets ONNX Runtime choose.

    Raises:
        EngineError: If ONNX Runtime rejects a graph.
    """

    directions = None

    def __init__(
        self, bundle: Bundle, body: Body, parts: Parts, graphs: Mapping[str, bytes], *, rates: Mapping[str, float], threads: int
    ) -> None:  # fmt: skip
        self.bundle, self._body, self._parts, self.rates = bundle, body, parts, rates
        self._names = [name for name in body.graph_weights if name not in parts.constants]
        in_order = {name: parts.constants[name] for name in body.graph_weights if name in parts.constants}
        opened = [name for name in sorted(graphs) if name in {"forward", "backward"} or name.startswith("segment")]
        self._sessions = {name: portable_session(graphs[name], in_order, threads=threads) for name in opened}
        self._segments = [session for name, session in self._sessions.items() if name.startswith("segment")]

    def normalises(self, task: str) -> bool:  # noqa: ARG002
        """As ``Learner.normalises``: if the body has BN that differs between signatures."""
        return bool(self._segments)

    def backpropagates(self, task: str) -> bool:  # noqa: ARG002
        """As ``Learner.backpropagates``: if there is a backward graph."""
        return "backward" in self._sessions

    def point(self, signature: Signature, own: Collection[str] = ()) -> Point:  # noqa: ARG002 - no part follows from others
        """As ``Learner.point``."""
        return Point(self.bundle.resolve(signature).parts, task=signature.task)

    def softened(self, point: Point, moving: Collection[str]) -> Point:  # noqa: ARG002
        """As ``Learner.softened``: every part has a gradient everywhere."""
        return point

    def logits(self, point: Point, x: Array) -> Array:
        """As ``Learner.logits``."""
        return _logits(point, self.embeddings(point, x))

    def embeddings(self, point: Point, x: Array) -> Array:
        """As ``Learner.embeddings``."""
        weights = self._weights(point)
        chunks = [
            self._sessions["forward"].run([EMBEDDING], {self._body.input.name: x[i : i + CHUNK], **weights})[0]
            for i in range(0, len(x), CHUNK)
        ]
        return np.concatenate(chunks)

    def gradient(
        self, point: Point, x: Array, loss: Loss, *, moving: Collection[str] | None = None
    ) -> tuple[float, dict[str, Array]]:
        """As ``Learner.gradient``."""
        embeddings = self.embeddings(point, x)
        value, g = loss(_logits(point, embeddings))
        head = {"logits.weight": (g.T @ embeddings).astype(np.float64), "logits.bias": g.sum(axis=0, dtype=np.float64)}
        wanted = [*self.rates, AFFINE] if moving is None else moving
        wanted = [name for name in dict.fromkeys(wanted) if name in point.parts and name not in HEAD]
        if not wanted:
            return value, head
        if "backward" not in self._sessions:
            found = differences(point, wanted, lambda some: loss(self.logits(some, x))[0])
            return value, {**found, **head}
        weights, total = self._weights(point), dict[str, Array]()
        down = (g @ point.parts["logits.weight"]).astype(np.float32)
        for start in range(0, len(x), BATCH):
            feeds = {
                self._body.input.name: _filled(x[start : start + BATCH]),
                GIVEN: _filled(down[start : start + BATCH]),
            }
            names = [gradient_name(name) for name in self._names]
            rows = self._sessions["backward"].run(names, {**feeds, **weights})
            for name, array in zip(self._names, rows, strict=True):
                total[name] = total[name] + array if name in total else array
        return value, {**self._chain(point, total), **head}

    def _chain(self, point: Point, gradients: Mapping[str, Array]) -> dict[str, Array]:
        """Return part → gradient."""
        found = self._parts.chain(point.parts, gradients)
        body = self._body
        if not (body.norms and body.private_norms):
            return found
        scale, shift = (
            np.concatenate([gradients[f"{norm.name}.{what}"].ravel() for norm in body.norms]).astype(np.float64) for what in ("scale", "shift")
        )  # fmt: skip
        mean, variance = point.parts[STATISTICS].astype(np.float64)
        # scale = γ / √(v + ε), shift = β - m · scale
        found[AFFINE] = np.stack([(scale - mean * shift) / np.sqrt(variance + body.eps), shift])
        return found

    def normalised(self, point: Point, x: Array, choose: Choose) -> Pass:
        """As ``Normalising.normalised``: segment by segment, with BN in numpy."""
        body = self._body
        values = {body.input.name: x, **self._weights(point)}
        affine, given = (point.parts[name].astype(np.float64) for name in (AFFINE, STATISTICS))
        used, start = given.copy(), 0
        for session, norm in zip(self._segments, body.norms, strict=False):
            _run(session, values)
            place, u = slice(start, start + norm.channels), values[input_name(norm.name)]
            start, column, axes = place.stop, (1, -1, *(1,) * norm.axes), tuple(range(2, 2 + norm.axes))
            centred = u - given[0, place].reshape(column).astype(np.float32)
            mean, variance = choose(place, Moments(centred.mean(axis=axes), np.square(centred).mean(axis=axes)))
            used[:, place] = given[0, place] + mean, variance
            scale = affine[0, place] / np.sqrt(variance + norm.eps)
            shift = affine[1, place] - used[0, place] * scale
            values[output_name(norm.name)] = (u * scale.reshape(column) + shift.reshape(column)).astype(np.float32)
        _run(self._segments[-1], values)
        embeddings = values[EMBEDDING]
        return Pass(statistics=used.astype(np.float32), logits=_logits(point, embeddings), embeddings=embeddings)

    def statistics(self, point: Point, x: Array, *, alpha: float = 1.0) -> Array:
        """As ``Normalising.statistics``."""
        variance = point.parts[STATISTICS][1]

        def blended(place: slice, found: Moments) -> tuple[Array, Array]:
            mean = found.mean
            return alpha * mean, (1 - alpha) * variance[place] + alpha * (found.square - mean * mean)

        return self.normalised(point, x, blended).statistics

    def coefficients(self, point: Point, x: Array) -> dict[str, Array]:  # noqa: ARG002
        """As ``Normalising.coefficients``: there are none."""
        return {}

    def settled(self, signature: Signature) -> Signature:
        """As ``Normalising.settled``: every signature is."""
        return signature

    def _weights(self, point: Point) -> dict[str, Array]:
        """Return the weights that differ, float32."""
        parts = {
            name: array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array
            for name, array in point.parts.items()
        }
        folded = self._parts.fold(parts)
        return {name: folded[name] for name in self._names}


def _run(session: ort.InferenceSession, values: dict[str, Array]) -> None:
    """Run a segment, and add its outputs to the values."""
    names = [output.name for output in session.get_outputs()]
    values |= dict(
        zip(names, session.run(names, {given.name: values[given.name] for given in session.get_inputs()}), strict=True)
    )


def _logits(point: Point, embeddings: Array) -> Array:
    weight, bias = (point.parts[name] for name in HEAD)
    result: Array = (embeddings @ weight.T + bias).astype(np.float32)
    return result


def _filled(rows: Array) -> Array:
    """Return a batch of ``BATCH`` rows, the missing ones 0."""
    if len(rows) == BATCH:
        return rows
    return np.concatenate([rows, np.zeros((BATCH - len(rows), *rows.shape[1:]), dtype=rows.dtype)])
