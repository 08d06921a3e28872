"""``isoform figure``: signatures as heat maps, side by side, so that one sees where tasks share and where they part.

One panel per signature: rows are templates, columns layers, the shade is ξ. A layer whose strongest template is the same in
every panel is marked below as shared. Beside a user's signature stands what changed from its start, or where that is neither
the bundle's nor given from its base: red for more, blue for less, with the distance between them (``arithmetic.distance``).
Needs matplotlib: ``pip install 'isoform[figure]'``.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from isoform.runtime.commands.stream_figure import draw_stream, read_history
from isoform.runtime.errors import UsageError
from isoform.runtime.extras import needs
from isoform.runtime.formats import files
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature
from isoform.runtime.samples.names import text_of

__all__ = ["add_arguments_figure", "draw_signatures", "run_figure", "save_figure"]


def add_arguments_figure(parser: argparse.ArgumentParser) -> None:
    """Declare ``isoform figure``'s arguments."""
    parser.add_argument("bundle", type=Path, help="a bundle; or the history that 'isoform adapt' wrote, a .json")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the picture to write: .png, .svg or .pdf")
    parser.add_argument(
        "--signature",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a signature file to draw beside the bundle's own; may be repeated",
    )
    parser.add_argument(
        "--trained",
        action="store_true",
        help="draw the signatures as trained, even if compiled (snapped) ones are there",
    )
    parser.epilog = "example:\n  isoform figure bundle/ -o signatures.png"
    parser.epilog += "\n  isoform figure here.json -o here.png"


def run_figure(arguments: argparse.Namespace) -> None:
    """Draw and write one picture."""
    if arguments.bundle.suffix == ".json":
        save_figure(draw_stream(read_history(arguments.bundle)), arguments.output)
        return
    bundle = Bundle.load(arguments.bundle)
    chosen = {task: bundle.signatures[task] if arguments.trained else bundle.base(task) for task in bundle.signatures}
    for path in arguments.signature:
        name = text_of(path.stem).replace("$", r"\$")  # else matplotlib reads a formula
        while name in chosen:
            name += "′"
        chosen[name] = Signature.load(path)
    xis = {name: bundle.kind.usage(bundle.resolve(signature).parts) for name, signature in chosen.items()}
    known = {**bundle.bases(), **{signature.digest: signature for signature in chosen.values()}}
    changes, origins = {}, {}
    for name, signature in list(chosen.items())[len(bundle.signatures) :]:
        for digest, what in ((signature.base, "base"), (signature.parent, "start")):
            if digest is not None and digest in known:
                changes[name], origins[name] = bundle.kind.usage(bundle.resolve(known[digest]).parts), what
    save_figure(draw_signatures(xis, changes=changes, origins=origins), arguments.output)


def draw_signatures(
    xis: Mapping[str, Any], *, changes: Mapping[str, Any] | None = None, origins: Mapping[str, str] | None = None
) -> Any:
    """Draw which templates signatures use, side by side.

    Args:
        xis: Name → ``Kind.usage``, ξ of a mixture, shape (L, K); all of one shape.
        changes: Names among them → ξ of the signature that it began from: what changed is drawn beside it.
        origins: Names among them → what that signature is to it; "start" unless given.

    Returns:
        A matplotlib ``Figure``, not yet saved.
    """
    with needs("a figure", extra="figure"):
        from matplotlib.figure import Figure

    layers, templates = next(iter(xis.values())).shape
    # The picture shows templates in the order in which the first signature meets them: numbers are arbitrary, order is not.
    order = list(dict.fromkeys(int(k) for xi in xis.values() for k in xi.argmax(axis=1)))
    order += [k for k in range(templates) if k not in order]
    best = np.array([xi.argmax(axis=1) for xi in xis.values()])
    shared = (best == best[0]).all(axis=0)
    changed = {name: xis[name] - start for name, start in (changes or {}).items()}
    rows = [[name for name in xis if name not in changed], [name for name in xis if name in changed]]
    panels: list[list[tuple[str, Any, bool]]] = [[(name, xis[name], False) for name in rows[0]], []]
    for name in rows[1]:
        gap = float(np.abs(changed[name]).sum(axis=1).mean() / 2)
        panels[1] += [
            (name, xis[name], False),
            (f"{name} - its {(origins or {}).get(name, 'start')}: {gap:.3f}", changed[name], True),
        ]
    panels = [row for row in panels if row]
    columns = max(map(len, panels))
    size = 1.2 + columns * (0.8 + 0.28 * layers), 0.6 + len(panels) * (1.3 + 0.3 * templates)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(panels), columns, squeeze=False)
    reach = max([0.05, *(float(np.abs(change).max()) for change in changed.values())])
    for row, entries in zip(axes, panels, strict=True):
        row[0].set_ylabel("template")
        for axis, (name, values, change) in zip(row, entries, strict=False):
            shades = (
                {"vmin": -reach, "vmax": reach, "cmap": "RdBu_r"}
                if change
                else {"vmin": 0, "vmax": 1, "cmap": "magma_r"}
            )
            label = "change of ξ" if change else "ξ"
            image = axis.imshow(values[:, order].T, aspect="equal", **shades)
            axis.set_title(name, parse_math=False, fontsize=9 if change else None)
            _mark(axis, order, [] if change or len(xis) == 1 else np.flatnonzero(shared), layers=layers)
        for axis in row[len(entries) :]:
            axis.set_visible(False)
        figure.colorbar(image, ax=list(row), label=label, shrink=0.8)
    if len(xis) > 1:
        figure.suptitle(
            f"{int(shared.sum())} of {layers} layers use the same template in every signature (green)", fontsize=10
        )
    return figure


def _mark(axis: Any, order: Sequence[int], shared: Iterable[int], *, layers: int) -> None:
    """Name a panel's layers and templates, and underline the layers that all share."""
    bottom = len(order) - 0.5
    axis.set_ylim(bottom, -0.5)
    axis.set_xlabel("layer")
    axis.set_xticks(range(layers), [str(i + 1) for i in range(layers)], fontsize=8)
    axis.set_yticks(range(len(order)), [str(k) for k in order], fontsize=8)
    for column in shared:
        place = [column - 0.4, column + 0.4], [bottom + 0.08] * 2
        axis.plot(*place, color="tab:green", linewidth=3, clip_on=False)


def save_figure(figure: Any, path: Path) -> None:
    """Write a matplotlib figure whole or not at all, without a date in it.

    Raises:
        UsageError: If the file name's ending is not .png, .svg or .pdf.
    """
    with needs("a figure", extra="figure"):
        from matplotlib import rc_context

    kind = path.suffix.lower().lstrip(".")
    if kind not in ("png", "svg", "pdf"):
        raise UsageError(f"the picture {path} ends in {path.suffix!r}, but .png, .svg or .pdf was expected")
    buffer = io.BytesIO()
    dates = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with rc_context({"svg.hashsalt": "isoform"}):
        figure.savefig(buffer, format=kind, dpi=150, metadata=dates[kind])
    files.write_bytes(path, buffer.getvalue())
