"""A bundle in a table for a person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from isoform.runtime.commands.inspecting.facts import sizes_of
from isoform.runtime.commands.inspecting.signatures import layers_of
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.inputs import Input, Reading
from isoform.runtime.samples.account import plural
from isoform.runtime.samples.names import text_of
from isoform.runtime.tables import aligned, named, size, tail

__all__ = ["bundle_lines", "reading_text"]


def bundle_lines(bundle: Bundle) -> list[str]:
    """Describe a bundle."""
    sizes = sizes_of(bundle.path)
    title = f"{tail(text_of(bundle.path))}: {plural(len(bundle.signatures), 'task')}, {size(sum(sizes.values()))}"
    accuracies = bundle.training.get("test_accuracy")
    rows = [_row(task, bundle, accuracies if isinstance(accuracies, Mapping) else {}) for task in bundle.signatures]
    columns = ["task", "classes", "input", "accuracy", "bytes", "templates by layer"]
    inputs = {reading_text(bundle.spec.input_of(task), bundle.reading): None for task in bundle.signatures}
    return [
        *named("bundle", title),
        *named("network", _network(bundle)),
        "",
        *aligned(columns, rows, left=(0, 2, 5)),
        "",
        *named("samples", "; ".join(inputs)),
        *named("parts", _parts(sizes)),
        *named("compiled", _compiled(bundle, sizes)),
        *named("trained", _training(bundle.training)),
        *named("templates", bundle.digest),
    ]


def reading_text(takes: Input, reading: Reading) -> str:
    """Return how samples of an input are read from files."""
    stride = "" if reading.stride is None else f", one every {reading.stride}"
    sizes = [size or f"{takes.shortest} to {takes.longest}" for size in takes.shape]
    if reading.sound is not None:
        sound = reading.sound
        return (
            f"sounds of {sound.rate:,} Hz as log-mel spectrograms: {sound.bands} bands, {sound.low:g} to {sound.top:g} Hz; "
            f"windows of {sizes[-1]} frames{stride}"
        )
    if reading.columns is not None:
        named_so = ", ".join(reading.columns)
        return f"recordings, in windows of {sizes[-1]} rows{stride}; columns {named_so}"
    if takes.what == "image" and takes.shape[0] in (1, 3) and takes.shape[1] != 1:
        return f"images, resized to {sizes[1]} × {sizes[2]}, {'grey' if takes.shape[0] == 1 else 'RGB'}, 0 to 1"
    shape = " × ".join(map(str, sizes))
    return f"{takes.plural} of {shape}" + (f", of a vocabulary of {takes.vocabulary:,}" if takes.vocabulary else "")


def _row(task: str, bundle: Bundle, accuracies: Mapping[str, Any]) -> list[str]:
    signature, takes, share = bundle.base(task), bundle.spec.input_of(task), accuracies.get(task)
    shape = "×".join("…" if size is None else str(size) for size in takes.shape)
    right = f"{100 * share:.2f} %" if isinstance(share, int | float) else "-"
    layers = layers_of(signature, bundle) or "-"
    count = len(bundle.labels(signature))
    return [task, str(count), f"{takes.what} {shape}", right, f"{len(signature.encode()):,}", layers]


def _network(bundle: Bundle) -> str:
    """Return the sizes that the network states: its whole numbers, and how many entries its lists of anything else have."""
    told = [f"kind {bundle.spec.kind}"]
    for name, value in bundle.spec.to_json().items():
        words = name.replace("_", " ")
        if isinstance(value, int) and not isinstance(value, bool):
            told.append(f"{words} {value:,}")
        elif isinstance(value, list) and value and not all(isinstance(entry, int | float) for entry in value):
            told.append(f"{words} {len(value)}")
    return ", ".join(told)


def _parts(sizes: Mapping[str, int]) -> str:
    """Return the bytes of the files at the top, and of each folder."""
    found: Counter[str] = Counter()
    for path, count in sizes.items():
        parts = path.split("/")
        found["/".join(parts[:-1][:2]) + "/" if len(parts) > 1 else path] += count
    return ", ".join(f"{name} {count:,}" for name, count in found.items())


def _compiled(bundle: Bundle, sizes: Mapping[str, int]) -> str:
    if bundle.compiled is None:
        return f"no; run 'isoform compile {text_of(bundle.path)}'"
    graphs, files = bundle.compiled.graphs, bundle.compiled.manifest["files"]
    # of a bundle that was made small, the complete files are listed, but not there
    layouts = [layout for layout in ("fast", "small") if any(name.startswith(f"compiled/{layout}/") for name in sizes)]
    told = [f"graph{'' if len(graphs) == 1 else 's'} {', '.join(graphs)}"]
    told += [f"a file per task in {' and '.join(layouts)}/"] if layouts else []
    learns = any(name.startswith("training/") for name in files) or "forward" in graphs
    return "; ".join([*told, "with graphs for learning on the device"] if learns else told)


def _training(training: Mapping[str, Any]) -> str:
    recipe = training.get("recipe")
    told = [f"{name} {recipe[name]:,}" for name in ("steps", "seed") if isinstance(recipe, Mapping) and isinstance(recipe.get(name), int)]  # fmt: skip
    if isinstance(training.get("torch"), str):
        told.append(f"torch {training['torch']}")
    return ", ".join(told) or "nothing is known"
