"""``isoform figure``: signatures as heat maps, side by side, to show which templates tasks share (``figures/``), and other views.

Next to a user's signature is its change from its start, or from its base if the start is neither in the bundle nor given. What a
``delta`` adds to templates counts as change of ξ; what it adds along random directions counts in the distance alone.
Requires matplotlib: ``pip install 'isoform[figure]'``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from isoform.runtime.arithmetic import distance
from isoform.runtime.commands.figures.graph import draw_graph
from isoform.runtime.commands.figures.sharing import draw_layers, draw_modules, read_sharing
from isoform.runtime.commands.figures.signatures import Origin, draw_signatures
from isoform.runtime.commands.figures.stream import draw_stream, read_history
from isoform.runtime.commands.figures.style import save_figure
from isoform.runtime.commands.figures.tasks import draw_history, draw_similarity, draw_tasks, read_record
from isoform.runtime.errors import UsageError
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature
from isoform.runtime.samples.names import text_of

__all__ = ["add_arguments_figure", "run_figure"]


VIEWS = ("signatures", "tasks", "similarity", "clusters", "history", "graph", "modules", "layers")
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
        "clusters; history: what --task used during training; graph: tasks as paths "
        "through templates; modules: how many each set of tasks shared during training; layers: which "
        "layers share them",
    )
    parser.add_argument(
        "--sort", action="store_true", help="of signatures: put templates in the order of their first use"
    )
    parser.add_argument("--task", help="the task of --view history; default: the first")
    parser.epilog = "example:\n  isoform figure bundle/ -o signatures.png"
    parser.epilog += "\n  isoform figure bundle/ --view similarity -o alike.png"
    parser.epilog += "\n  isoform figure bundle/ --view graph -o paths.png"
    parser.epilog += "\n  isoform figure here.json -o here.png"


def run_figure(arguments: argparse.Namespace) -> None:
    """Draw and write one figure."""
    save_figure(_drawn(arguments), arguments.output)
    print(f"wrote {text_of(arguments.output)}", file=sys.stderr)


def _drawn(arguments: argparse.Namespace) -> Any:
    if arguments.bundle.suffix == ".json":
        return draw_stream(read_history(arguments.bundle))
    bundle = Bundle.load(arguments.bundle)
    chosen = {task: bundle.signatures[task] if arguments.trained else bundle.base(task) for task in bundle.signatures}
    for path in arguments.signature:
        name = text_of(path.stem)
        while name in chosen:
            name += "′"
        chosen[name] = Signature.load(path)
    view = arguments.view or _default(bundle, len(chosen))
    if arguments.sort and view != "signatures":
        raise UsageError(f"--sort is for --view signatures, but the view is {view}; leave it out")
    if view == "history":
        return _history(bundle, arguments.task)
    if view in ("modules", "layers"):
        sharing = read_sharing(bundle.training)
        return draw_modules(sharing) if view == "modules" else draw_layers(sharing)
    if arguments.task is not None:
        raise UsageError(f"--task chooses what --view history draws, but the view is {view}; leave it out")
    xis = {name: bundle.kind.usage(bundle.resolve(signature).parts) for name, signature in chosen.items()}
    if view == "graph":
        return draw_graph(xis, several=_branches(bundle))
    if view == "tasks":
        return draw_tasks(xis)
    if view in ("similarity", "clusters"):
        return draw_similarity(xis, clustered=view == "clusters")
    users = {name: signature for name, signature in chosen.items() if name not in bundle.signatures}
    origins = _origins(bundle, users)
    return draw_signatures(xis, origins=origins, ordered=arguments.sort)


def _origins(bundle: Bundle, users: Mapping[str, Signature]) -> dict[str, Origin]:
    """Return what each user's signature is compared with, where that is known."""
    known, found = {**bundle.bases(), **{signature.digest: signature for signature in users.values()}}, {}
    for name, signature in users.items():
        # parent after base: if both are known, the change from the start is shown
        for digest, what in ((signature.base, "base"), (signature.parent, "start")):
            if digest is not None and digest in known:
                before, after = bundle.resolve(known[digest]).parts, bundle.resolve(signature).parts
                differing = [part for part in after if not np.array_equal(after[part], before[part])]
                gap = distance(bundle, known[digest], signature)
                usage = bundle.kind.usage(before)
                found[name] = Origin(usage=usage, name=what, distance=gap, changed=differing)
    return found


def _branches(bundle: Bundle) -> bool:
    """Return whether a layer may use several templates as they are. Raises ``UsageError`` for kinds whose layers use none."""
    kind = bundle.spec.kind
    if kind not in ("mixture", "allocation"):
        raise UsageError(
            f"--view graph is for kinds mixture and allocation, but this bundle is of kind {kind}; take --view similarity"
        )
    return kind == "allocation"


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
