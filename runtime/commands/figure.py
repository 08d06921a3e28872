"""``isoform figure``: signatures as heat maps, side by side, to show which templates tasks share; other views in ``task_figures.py``.

One panel per signature: rows are templates, columns are layers, the shade is ξ. Layers whose strongest template is the same in
all panels are underlined as shared. Next to a user's signature, a second panel shows the change from its start, or from its base
if the start is neither in the bundle nor given: red for more, blue for less, with the distance (``arithmetic.distance``). What a
``delta`` adds to templates counts as change of ξ; what it adds along random directions counts in the distance alone.
Requires matplotlib: ``pip install 'isoform[figure]'``.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from isoform.runtime.arithmetic import distance
from isoform.runtime.commands.sharing_figures import draw_layers, draw_modules, read_sharing
from isoform.runtime.commands.stream_figure import draw_stream, read_history
from isoform.runtime.commands.task_figures import draw_history, draw_similarity, draw_tasks, read_record
from isoform.runtime.errors import UsageError
from isoform.runtime.extras import needs
from isoform.runtime.formats import files
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature
from isoform.runtime.samples.names import text_of

__all__ = ["add_arguments_figure", "draw_signatures", "run_figure", "save_figure"]


VIEWS = ("signatures", "tasks", "similarity", "clusters", "history", "modules", "layers")
MANY = 12
"""Number of signatures up to which each gets a panel by default."""


def add_arguments_figure(parser: argparse.ArgumentParser) -> None:
    """Declare ``isoform figure``'s arguments."""
    parser.add_argument("bundle", type=Path, help="a bundle, or a .json history written by 'isoform adapt --history'")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the image file to write: .png, .svg or .pdf")
    parser.add_argument(
        "--signature",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a signature file to draw next to the bundle's signatures; may be repeated",
    )
    parser.add_argument(
        "--trained",
        action="store_true",
        help="draw the trained signatures, not the compiled (snapped) ones",
    )
    parser.add_argument(
        "--view",
        choices=VIEWS,
        metavar="VIEW",
        help="signatures: a panel for each (the default for up to 12, but of kind alignment layers); tasks: a row for each; similarity: of every two, or by "
        "clusters; history: what --task used during training; modules: how many each set of tasks shared during training; layers: which "
        "layers share them",
    )
    parser.add_argument("--task", help="the task of --view history; default: the first")
    parser.epilog = "example:\n  isoform figure bundle/ -o signatures.png"
    parser.epilog += "\n  isoform figure bundle/ --view similarity -o alike.png"
    parser.epilog += "\n  isoform figure here.json -o here.png"


def run_figure(arguments: argparse.Namespace) -> None:
    """Draw and write one figure."""
    if arguments.bundle.suffix == ".json":
        save_figure(draw_stream(read_history(arguments.bundle)), arguments.output)
        return
    bundle = Bundle.load(arguments.bundle)
    chosen = {task: bundle.signatures[task] if arguments.trained else bundle.base(task) for task in bundle.signatures}
    for path in arguments.signature:
        name = text_of(path.stem).replace("$", r"\$")  # matplotlib would parse text between $ signs as a formula
        while name in chosen:
            name += "′"
        chosen[name] = Signature.load(path)
    view = arguments.view or _default(bundle, len(chosen))
    if view == "history":
        save_figure(_history(bundle, arguments.task), arguments.output)
        return
    if view in ("modules", "layers"):
        sharing = read_sharing(bundle.training)
        save_figure(draw_modules(sharing) if view == "modules" else draw_layers(sharing), arguments.output)
        return
    if arguments.task is not None:
        raise UsageError(f"--task chooses what --view history draws, but the view is {view}; leave it out")
    xis = {name: bundle.kind.usage(bundle.resolve(signature).parts) for name, signature in chosen.items()}
    if view == "tasks":
        save_figure(draw_tasks(xis), arguments.output)
        return
    if view in ("similarity", "clusters"):
        save_figure(draw_similarity(xis, clustered=view == "clusters"), arguments.output)
        return
    known = {**bundle.bases(), **{signature.digest: signature for signature in chosen.values()}}
    changes, origins, gaps = {}, {}, {}
    # parent after base: if both are known, the change from the start is shown
    for name, signature in list(chosen.items())[len(bundle.signatures) :]:
        for digest, what in ((signature.base, "base"), (signature.parent, "start")):
            if digest is not None and digest in known:
                changes[name], origins[name] = bundle.kind.usage(bundle.resolve(known[digest]).parts), what
                gaps[name] = distance(bundle, known[digest], signature)
    save_figure(draw_signatures(xis, changes=changes, origins=origins, gaps=gaps), arguments.output)


def _default(bundle: Bundle, count: int) -> str:
    """Return the view of a bundle with so many signatures to draw."""
    record = bundle.training.get("record")
    if isinstance(record, dict) and "between" in record:
        return "layers"
    return "signatures" if count <= MANY else "tasks"


def _history(bundle: Bundle, task: str | None) -> Any:
    """Draw what a task used during training. Raises ``BundleError`` if there is no such task."""
    name = next(iter(bundle.signatures)) if task is None else task
    shape = bundle.kind.usage(bundle.resolve(bundle.base(name)).parts).shape
    return draw_history(*read_record(bundle.training, name, shape), task=name)


def draw_signatures(
    xis: Mapping[str, Any],
    *,
    changes: Mapping[str, Any] | None = None,
    origins: Mapping[str, str] | None = None,
    gaps: Mapping[str, float] | None = None,
) -> Any:
    """Draw which templates signatures use, side by side.

    Args:
        xis: Name → ``Kind.usage``, ξ of a mixture, shape (L, K); all of the same shape.
        changes: Name → ξ of the signature to compare with; the difference is drawn next to the signature.
        origins: Name → what the compared signature is called in the title; default "start".
        gaps: Name → their distance; default: the mean over layers of half the differences' sum.

    Returns:
        A matplotlib ``Figure``, not yet saved.
    """
    with needs("a figure", extra="figure"):
        from matplotlib.figure import Figure  # not pyplot, which keeps every figure and may need a display

    layers, templates = next(iter(xis.values())).shape
    # Templates appear in the order in which the first signature uses them: their numbers are arbitrary, the order of layers is not.
    order = list(dict.fromkeys(int(k) for xi in xis.values() for k in xi.argmax(axis=1)))
    order += [k for k in range(templates) if k not in order]
    # a mixture is about its strongest template; a mask may have several of equal strength
    exclusive = all((xi.sum(axis=1) < 1 + 1e-6).all() for xi in xis.values())
    best = np.array([xi.argmax(axis=1)[:, None] if exclusive else xi >= 0.5 for xi in xis.values()])
    shared = (best == best[0]).all(axis=(0, 2))
    symbol = "ξ" if exclusive else "use"
    changed = {name: xis[name] - start for name, start in (changes or {}).items()}
    rows = [[name for name in xis if name not in changed], [name for name in xis if name in changed]]
    panels: list[list[tuple[str, Any, bool]]] = [[(name, xis[name], False) for name in rows[0]], []]
    for name in rows[1]:
        gap = (gaps or {}).get(name, float(np.abs(changed[name]).sum(axis=1).mean() / 2))
        panels[1] += [
            (name, xis[name], False),
            (f"{name} - its {(origins or {}).get(name, 'start')}: {gap:.3f}", changed[name], True),
        ]
    panels = [row for row in panels if row]
    columns = max(map(len, panels))
    size = 1.2 + columns * (0.8 + 0.28 * layers), 0.6 + len(panels) * (1.3 + 0.3 * templates)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(panels), columns, squeeze=False)
    # a floor of 0.05, so that rounding noise of an unchanged signature is not drawn in full colour
    reach = max([0.05, *(float(np.abs(change).max()) for change in changed.values())])
    for row, entries in zip(axes, panels, strict=True):
        row[0].set_ylabel("template")
        # strict=False: a row may have fewer panels than the figure has columns
        for axis, (name, values, change) in zip(row, entries, strict=False):
            shades = (
                {"vmin": -reach, "vmax": reach, "cmap": "RdBu_r"}
                if change
                else {"vmin": 0, "vmax": 1, "cmap": "magma_r"}
            )
            label = f"change of {symbol}" if change else symbol
            image = axis.imshow(values[:, order].T, aspect="equal", **shades)
            axis.set_title(name, parse_math=False, fontsize=9 if change else None)
            _mark(axis, order, [] if change or len(xis) == 1 else np.flatnonzero(shared), layers=layers)
        for axis in row[len(entries) :]:
            axis.set_visible(False)
        figure.colorbar(image, ax=list(row), label=label, shrink=0.8)
    if len(xis) > 1:
        figure.suptitle(
            f"{int(shared.sum())} of {layers} layers use the same template{'' if exclusive else 's'} in every signature (green)",
            fontsize=10,
        )
    return figure


def _mark(axis: Any, order: Sequence[int], shared: Iterable[int], *, layers: int) -> None:
    """Label a panel's layers and templates, and underline the shared layers."""
    bottom = len(order) - 0.5
    axis.set_ylim(bottom, -0.5)
    axis.set_xlabel("layer")
    axis.set_xticks(range(layers), [str(i + 1) for i in range(layers)], fontsize=8)
    axis.set_yticks(range(len(order)), [str(k) for k in order], fontsize=8)
    for column in shared:
        place = [column - 0.4, column + 0.4], [bottom + 0.08] * 2
        axis.plot(*place, color="tab:green", linewidth=3, clip_on=False)


def save_figure(figure: Any, path: Path) -> None:
    """Write a matplotlib figure atomically and reproducibly, without a date in it.

    Raises:
        UsageError: If the file name's extension is not .png, .svg or .pdf.
    """
    with needs("a figure", extra="figure"):
        from matplotlib import rc_context

    kind = path.suffix.lower().lstrip(".")
    if kind not in ("png", "svg", "pdf"):
        raise UsageError(f"the output {path} has extension {path.suffix!r}, but .png, .svg or .pdf was expected")
    buffer = io.BytesIO()
    # None leaves out the time of writing, which PNG files do not get
    dates = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with rc_context({"svg.hashsalt": "isoform"}):  # element ids in SVG are random without a fixed salt
        figure.savefig(buffer, format=kind, dpi=150, metadata=dates[kind])
    files.write_bytes(path, buffer.getvalue())
