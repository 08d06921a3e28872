"""From trained networks to a bundle: generic modules as hypermodules, specific ones as the blocks that they generate."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from isoform.runtime.arrays import Array
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature
from isoform.runtime.formats.templates import template_digest
from isoform.runtime.kinds.alignment.network import AlignedNetwork, graph_name
from isoform.runtime.kinds.alignment.spec import AlignedTask, AlignmentSpec
from isoform.train.kinds.alignment.network import AlignedNetworks
from isoform.train.modules.body import check_body, norm_rows
from isoform.train.modules.export import parameters_of

__all__ = ["Stored", "bundle_from_networks", "stored"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stored:
    """Modules and contexts as a bundle stores them."""

    hypermodules: Array
    """The generic ones, shape (K, c, m · n)."""
    blocks: Array
    """The blocks of the specific ones, shape (S, m · n)."""
    alignment: Array
    """ψ of all locations, shape (L,): up to K generic, from K on specific."""
    contexts: Array
    """Of all locations, shape (L, c); of specific ones without a meaning."""


def stored(tensors: Array, contexts: Array, alignment: Array) -> Stored:
    """Divide modules into generic and specific ones.

    A module used u times takes c · m · n numbers and c per context, or u · m · n as blocks. Whatever is less is stored, so that networks
    are never larger than their originals; of blocks of 16×16 and contexts of 4, modules used more than c times are generic, as in the paper.

    Args:
        tensors: All hypermodules, shape (K', c, m · n).
        contexts: Shape (L, c); (L, 0) for blocks that are shared as they are.
        alignment: Shape (L,).
    """
    size, context = tensors.shape[2], contexts.shape[1]
    used, place, count = np.unique(alignment, return_inverse=True, return_counts=True)
    generic = count * size > context * size + count * context if context else np.zeros(len(used), dtype=bool)
    number = np.cumsum(generic) - 1
    kept = tensors[used[generic]] if context else np.zeros((0, 0, size), dtype=np.float32)
    numbers, blocks = np.empty(len(alignment), dtype=np.int64), list[Array]()
    seen: dict[int, int] = {}
    for location, module in enumerate(place.tolist()):
        if generic[module]:
            numbers[location] = number[module]
            continue
        # without contexts, all locations of a module have the same block
        if context or module not in seen:
            own = contexts[location] if context else np.ones(1, dtype=np.float32)
            seen[module] = int(generic.sum()) + len(blocks)
            blocks.append(own @ tensors[used[module]])
        numbers[location] = seen[module]
    return Stored(
        hypermodules=np.ascontiguousarray(kept, dtype=np.float32),
        blocks=np.array(blocks, dtype=np.float32).reshape(-1, size), alignment=numbers, contexts=contexts,
    )  # fmt: skip


def bundle_from_networks(networks: AlignedNetworks, *, training: Mapping[str, Any]) -> Bundle:
    """Make a bundle, not yet on disk, with one complete base signature per task.

    Args:
        networks: The trained networks; no location is challenged.
        training: The record of the training run for ``bundle.json``.

    Raises:
        CompileError: If a graph with the stored weights differs from its module.
    """
    blocks, shared = networks.hypermodules, dict[str, Array]()
    contexts = _array(blocks.contexts)[:, : networks.context]
    held = stored(_array(blocks.tensors), contexts, _array(blocks.alignment))
    if len(held.hypermodules):
        shared["hypermodules"] = held.hypermodules
    if len(held.blocks):
        shared["blocks"] = held.blocks
    tasks: dict[str, AlignedTask] = {}
    parts: dict[str, dict[str, Array]] = {}
    for place, task in enumerate(networks.tasks):
        outline = networks.outlines[place]
        alignment = held.alignment[networks.slices()[place]]
        generic = alignment < len(held.hypermodules)
        tasks[task] = AlignedTask(
            body=outline.body, aligned=tuple(networks.cuts[place]), private=outline.sources.private, contexts=bool(generic.any())
        )  # fmt: skip
        parts[task] = {"alignment": alignment}
        if generic.any():
            parts[task]["contexts"] = np.ascontiguousarray(held.contexts[networks.slices()[place]][generic])
        own, common = _own(networks, place, tasks[task])
        parts[task] |= own
        shared |= {f"shared.{task}/{name}": common[name] for name in tasks[task].shared}
        shared |= {f"{name}.{task}": common[name] for name in ("bn.affine", "bn.statistics") if name in common}
        shared[f"body.{task}"] = np.frombuffer(outline.file, dtype=np.int8)
    spec = AlignmentSpec(
        m=networks.m, n=networks.n, context=networks.context, hypermodules=len(held.hypermodules), specific=len(held.blocks), tasks=tasks
    )  # fmt: skip
    gap = _checked(networks, AlignedNetwork(spec, shared), parts)
    digest = template_digest(spec, shared)
    signatures = {
        task: Signature(parts=some, template=digest, task=task, labels=networks.classes[task], kind=spec.kind)
        for task, some in parts.items()
    }
    return Bundle.create(
        spec=spec, tensors=shared, signatures=signatures, training={**training, "torch_max_abs_diff": gap}
    )  # fmt: skip


def _own(networks: AlignedNetworks, place: int, task: AlignedTask) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return a task's parts but for the alignment, and what all its signatures share."""
    outline, values = networks.outlines[place], parameters_of(networks.networks[place])
    parts, common = dict[str, Array](), {name: _array(values[name]) for name in task.shared}
    if task.private:
        parts["private"] = np.concatenate([_array(values[name]).ravel() for name in task.private])
    if task.body.norms:
        rows = {
            "bn.affine": norm_rows(task.body, values, "weight", "bias"),
            "bn.statistics": norm_rows(task.body, values, "running_mean", "running_var"),
        }
        (parts if task.body.private_norms else common).update({name: _array(row) for name, row in rows.items()})
    weight, bias = outline.head
    parts["logits.weight"] = _array(values[weight])
    rows_of_bias = torch.zeros(len(values[weight])) if bias is None else values[bias]
    parts["logits.bias"] = _array(rows_of_bias)
    return parts, common


def _checked(networks: AlignedNetworks, stored: AlignedNetwork, parts: Mapping[str, Mapping[str, Array]]) -> float:
    """Compare every task's graph, with the weights that the bundle will make, with its module; returns the largest difference of logits."""
    with torch.no_grad():
        weights, largest = networks.eval().weights(), 0.0
        for place, task in enumerate(networks.tasks):

            def run(x: Tensor, place: int = place) -> Tensor:
                found: Tensor = networks.run(place, x, weights[place])
                return found

            folded, file = stored.graph(graph_name(task)).fold(parts[task]), networks.outlines[place].file
            largest = max(largest, check_body(run, networks.examples[task], networks.takes[place], file, folded))
    return largest


def _array(value: Tensor) -> Array:
    found: Array = np.array(value.detach().numpy())
    return found
