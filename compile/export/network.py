"""A signature's network as one complete ONNX file, front included, compared with the runtime's answers."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import onnx
from onnx import helper

from isoform.compile.export.comparison import Comparison, compare
from isoform.compile.export.half import halved
from isoform.compile.export.int8 import quantised
from isoform.compile.kind import Task, exporter_of
from isoform.compile.nodes import IR_VERSION
from isoform.compile.verify import latencies
from isoform.runtime.arrays import Array
from isoform.runtime.batches import slices
from isoform.runtime.engines.engine import Engine
from isoform.runtime.engines.onnx.features import Features
from isoform.runtime.engines.onnx.session import open_session, session_options
from isoform.runtime.errors import CompileError, UsageError
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kind import Front
from isoform.train.data.samples import Loaded

__all__ = ["PRECISIONS", "Compared", "compared", "network_file"]

PRECISIONS = ("fp32", "fp16", "int8")
LIMIT = 1e-5
"""Largest accepted difference of logits in float32, relative to the largest logit or 1."""
RUN = 64


def network_file(
    bundle: Bundle,
    signature: Signature,
    *,
    layout: str = "fast",
    precision: str = "fp32",
    calibration: Array | None = None,
) -> bytes:
    """Write a signature's network.

    Args:
        bundle: A compiled bundle.
        signature: A signature made for it.
        layout: ``fast``, or another one that the bundle's kind has, as ``small``.
        precision: One of ``PRECISIONS``.
        calibration: Samples for int8, shape (n, …), as the network takes them.

    Returns:
        An ONNX file: samples in, logits out. Its metadata has the signature's digest, the labels, and how samples are to be given.

    Raises:
        UsageError: If the kind has no such layout, or int8 has no samples.
        SignatureError: If the signature does not fit.
        CompileError: If ONNX Runtime cannot quantise the network.
    """
    resolved = bundle.resolve(signature)
    name, graph = bundle.graph(resolved)
    none = Loaded(images=np.zeros((0, *graph.input.largest), dtype=np.float32), labels=np.zeros(0, dtype=np.int64))
    task = Task(
        name=signature.task, trained=signature, signature=signature, parts=resolved.parts, graph=name, weights=graph.fold(resolved.parts),
        labels=resolved.labels, train=none, test=none,
    )  # fmt: skip
    layouts = exporter_of(bundle).layouts(bundle, task)
    if layout not in layouts:
        raise UsageError(f"layout is {layout!r}, but a network of kind {bundle.spec.kind} has {', '.join(layouts)}")
    front, file, takes = bundle.network.front(signature.task), layouts[layout], graph.input
    metadata = {entry.key: entry.value for entry in onnx.load_from_string(file).metadata_props}
    if precision == "fp16":
        file = halved(file, samples=takes.name)
    elif precision == "int8":
        if calibration is None or not len(calibration):
            raise UsageError("int8 is calibrated on samples; give some with --data")
        features = calibration if front is None else Features(front, threads=1).checked(calibration)
        file = quantised(file, samples=takes.name, x=features)
    if front is not None:
        file, takes = _joined(front, file), front.samples
    model = onnx.load_from_string(file)
    metadata |= {"precision": precision, "input": json.dumps(takes.to_json(), sort_keys=True)}
    helper.set_model_props(model, dict(sorted(metadata.items())))
    model.producer_name = "isoform"
    return bytes(model.SerializeToString(deterministic=True))


def _joined(front: Front, file: bytes) -> bytes:
    """Put a front before the network that takes its features."""
    head, body = onnx.load_from_string(front.file), onnx.load_from_string(file)
    body = onnx.compose.add_prefix(body, "personal/", rename_inputs=False, rename_outputs=False)
    head = onnx.compose.add_prefix(head, "front/", rename_inputs=False)
    # the versions that both need; operators keep their meaning in newer ones of the same domain, or the converter says what it cannot convert
    versions = {entry.domain: entry.version for entry in body.opset_import}
    newest = max([versions.get("", 0), *(entry.version for entry in head.opset_import if entry.domain == "")])
    try:
        head, body = (
            part
            if newest in (entry.version for entry in part.opset_import if entry.domain == "")
            else onnx.version_converter.convert_version(part, newest)
            for part in (head, body)
        )
        return _merged(head, body, front)
    except Exception as problem:  # onnx's errors have no common base
        raise CompileError(
            f"the front cannot be joined with the network: {' '.join(str(problem).split())[:300]}"
        ) from problem


def _merged(head: onnx.ModelProto, body: onnx.ModelProto, front: Front) -> bytes:
    for part in (head, body):
        part.ir_version = max(IR_VERSION, head.ir_version, body.ir_version)
    joined = onnx.compose.merge_models(
        head, body, io_map=[(head.graph.output[0].name, front.features.name)], outputs=["logits"]
    )
    return bytes(joined.SerializeToString(deterministic=True))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compared:
    """A file beside the runtime."""

    answers: Comparison
    milliseconds: float
    """Median of one sample on one thread, of the file."""
    milliseconds_before: float
    """The same of the runtime."""

    def to_json(self) -> dict[str, float | None]:
        """Return all figures."""
        times = {"milliseconds": self.milliseconds, "milliseconds_before": self.milliseconds_before}
        return {**self.answers.to_json(), **times}


def compared(
    file: bytes, engine: Engine, bundle: Bundle, signature: Signature, x: Array, labels: Array | None, *, precision: str, max_drop_points: float
) -> Compared:  # fmt: skip
    """Compare a file's answers with the runtime's.

    Args:
        file: The result of ``network_file``.
        engine: An engine of the bundle.
        bundle: The bundle.
        signature: The signature.
        x: Samples as the network takes them, shape (n, …).
        labels: Indices into the signature's labels, shape (n,); None if they are not known.
        precision: That of the file.
        max_drop_points: Points of accuracy (percent) that it may cost; without labels, percent of the answers.

    Raises:
        CompileError: If the file computes something else, or costs more.
    """
    front = bundle.network.front(signature.task)
    features = x if front is None else Features(front, threads=1).checked(x)
    session = open_session(file, session_options(1), what="the exported file")
    (taken,) = session.get_inputs()
    expected = np.concatenate([engine.logits(features[place], signature) for place in slices(len(x), RUN)])
    found = np.concatenate([session.run(["logits"], {taken.name: x[place]})[0] for place in slices(len(x), RUN)])
    answers = compare(found, expected, labels)
    if precision == "fp32":
        answers.check_gap(LIMIT, "the exported file", "the runtime")
    answers.check_drop(max_drop_points, precision, "export in another precision, or raise --max-drop")
    times = latencies({
        "file": lambda: session.run(["logits"], {taken.name: x[:1]}), "runtime": lambda: engine.logits(features[:1], signature),
    })  # fmt: skip
    return Compared(answers=answers, milliseconds=times["file"], milliseconds_before=times["runtime"])
