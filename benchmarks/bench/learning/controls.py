"""What as many numbers can do that are spent otherwise, each fitted in torch on the same network, samples and steps.

    random directions       every parameter moves by one of ``NUMBERS`` numbers times a random sign, over the root of how many share it
                            (Li et al. 2025, "Uni-LoRA": a random projection with one entry per row)
    principal directions    the right singular vectors of networks that were fine-tuned as a whole for other users
                            (Kaushik et al. 2025, "EigenLoRAx"); as many as there are other users
    logits layer            W + a bᵀ and a bias per class, a (classes,), b (embedding,)
    LoRA                    rank 1 on the 1×1 convolutions of the last layers, as many as ``LORA_NUMBERS`` allow (Hu et al. 2022)

A number counts as two bytes, as float16, or one byte for LoRA, as if that lost nothing, so that each file would have 1 KiB. Rates and
numbers of steps are the best of a few on held-out samples, as for all of the network in torch (``torch_rival.py``).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.learning.torch_rival import TUNING, fine_tuned
from isoform.runtime.arrays import Array
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kinds.mixture.discrete import discrete_logits
from isoform.runtime.kinds.mixture.fold import mix, template_matrix
from isoform.runtime.learn.fits.trial import held_back
from isoform.runtime.learn.samples import balanced_batches, moved
from isoform.train.kinds.mixture.bundling import network_from_bundle
from isoform.train.kinds.mixture.network import IsometricNetwork

__all__ = ["CONTROLS", "Control", "by_layers", "fitted", "principal_directions", "size_of", "tuned_for"]

NUMBERS, LORA_NUMBERS = 512, 1024
RATES = (1e-3, 3e-3, 1e-2)
Control = Callable[[IsometricNetwork], tuple[list[Tensor], Callable[[], dict[str, Tensor]]]]
"""A network → the numbers to fit, all of which start at no change, and what parameters they make."""


def by_layers(bundle: Bundle, signature: Signature) -> IsometricNetwork:
    """The signature's network with a template of its own for every layer, so that layers can be changed one by one."""
    spec, parts = bundle.spec, bundle.resolve(signature).parts
    plain = network_from_bundle(bundle, {"task": signature})
    own = dataclasses.replace(spec, templates=spec.layers, bn_directions=0)
    network = IsometricNetwork(own, (len(parts["logits.bias"]),), generator=torch.Generator())
    rows = mix(spec, template_matrix(spec, bundle.tensors), parts)
    state = plain.state_dict()
    state["templates"] = torch.from_numpy(np.concatenate([r.reshape(spec.layers, -1) for r in rows.values()], axis=1))
    state["mixture"] = torch.from_numpy(discrete_logits(range(spec.layers), spec.layers))[None]
    state["bn_directions"] = torch.zeros(0, 2, spec.bn_channels)
    network.load_state_dict(state)
    network.mixture.requires_grad_(False)
    return network


def random_directions(network: IsometricNetwork) -> tuple[list[Tensor], Callable[[], dict[str, Tensor]]]:
    """See the module's docstring; directions of each tensor are as large as its numbers."""
    rng, start = torch.Generator().manual_seed(0), _start(network)
    z, chosen = torch.zeros(NUMBERS, requires_grad=True), {}
    for name, value in start.items():
        places = torch.randint(NUMBERS, value.shape, generator=rng)
        signs = 2.0 * torch.randint(2, value.shape, generator=rng) - 1
        chosen[name] = places, signs * value.square().mean().sqrt()
    return [z], lambda: {name: start[name] + z[places] * sign for name, (places, sign) in chosen.items()}


def principal_directions(networks: list[IsometricNetwork]) -> Control:
    """The control whose directions come from other users' networks, less the network that they started from, which comes first."""
    first, *others = [torch.cat([value.flatten() for value in _start(network).values()]) for network in networks]
    _, singular, right = torch.linalg.svd(torch.stack(others) - first, full_matrices=False)
    rows = right * (singular / np.sqrt(len(others)))[:, None]

    def control(network: IsometricNetwork) -> tuple[list[Tensor], Callable[[], dict[str, Tensor]]]:
        start, z = _start(network), torch.zeros(len(rows), requires_grad=True)
        sizes = [value.numel() for value in start.values()]

        def made() -> dict[str, Tensor]:
            change = (100 * z @ rows).split(sizes)  # rates are those of the other controls
            return {name: v + part.reshape(v.shape) for (name, v), part in zip(start.items(), change, strict=True)}

        return [z], made

    return control


def logits_layer(network: IsometricNetwork) -> tuple[list[Tensor], Callable[[], dict[str, Tensor]]]:
    """See the module's docstring."""
    weight, bias = (network.heads[place].detach() for place in (0, 1))
    a, c = torch.zeros(len(weight), requires_grad=True), torch.zeros(len(weight), requires_grad=True)
    b = (0.1 * torch.randn(weight.shape[1], generator=torch.Generator().manual_seed(0))).requires_grad_()
    return [a, b, c], lambda: {"heads.0": weight + torch.outer(a, b), "heads.1": bias + c}


def lora(network: IsometricNetwork) -> tuple[list[Tensor], Callable[[], dict[str, Tensor]]]:
    """See the module's docstring."""
    spec, rows, rng = network.spec, network.templates.detach(), torch.Generator().manual_seed(0)
    each = spec.channels + spec.expanded
    places, start = {}, 0
    for name, shape in spec.block_shapes.items():
        size = int(np.prod(shape))
        if name in ("expand.weight", "project.weight"):
            places[name] = slice(start, start + size), shape[:2]
        start += size
    pairs = list(itertools.product(reversed(range(spec.layers)), places.values()))[: LORA_NUMBERS // each]
    numbers = []
    for _, (_, (out, inner)) in pairs:
        numbers += [
            torch.zeros(out, requires_grad=True),
            (torch.randn(inner, generator=rng) / inner**0.5).requires_grad_(),
        ]

    def made() -> dict[str, Tensor]:
        moved = rows.clone()
        for place, (layer, (columns, _)) in enumerate(pairs):
            moved[layer, columns] += torch.outer(numbers[2 * place], numbers[2 * place + 1]).flatten()
        return {"templates": moved}

    return numbers, made


CONTROLS: Mapping[str, Control] = {"random directions": random_directions, "logits layer": logits_layer, "LoRA": lora}
"""Those that need no other users."""


def size_of(way: str, control: tuple[list[Tensor], object]) -> int:
    """Bytes of a control's numbers: a byte each for LoRA, else two."""
    return sum(value.numel() for value in control[0]) * (1 if way == "LoRA" else 2)


def _start(network: IsometricNetwork) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.named_parameters() if name != "mixture"}


def fitted(make: Callable[[], IsometricNetwork], control: Control, x: Array, labels: Array, *, seed: int) -> Callable[[Array], Array]:  # fmt: skip
    """Fit a control; returns samples → logits.

    Args:
        make: Makes the network that it starts from.
        control: One of ``CONTROLS``, or ``principal_directions``.
        x: Samples to learn from.
        labels: Class indices.
        seed: Of batches and folds.
    """
    torch.set_num_threads(1)
    everything, back = np.arange(len(labels)), held_back(labels, seed=seed)
    losses = np.zeros((len(RATES), len(TUNING)))
    for fold in back:
        rows = np.setdiff1d(everything, fold)
        for place, rate in enumerate(RATES):
            states = _states(make(), control, x[rows], labels[rows], rate=rate, seed=seed)
            found = [F.cross_entropy(run(x[fold]), torch.from_numpy(labels[fold])).item() for run in states]
            losses[place] += len(fold) * np.array(found)
    rate, steps = np.unravel_index(losses.argmin(), losses.shape) if back else (1, len(TUNING) - 1)
    states = _states(make(), control, x, labels, rate=RATES[rate], seed=seed)
    run = next(itertools.islice(states, int(steps), None))
    return lambda samples: run(samples).numpy()


def _states(
    network: IsometricNetwork, control: Control, x: Array, labels: Array, *, rate: float, seed: int
) -> Iterator[Callable[[Array], Tensor]]:
    """The network after every number of steps in ``TUNING``, as a function of samples; valid until the next."""
    numbers, made = control(network)
    optimizer, rng = torch.optim.Adam(numbers, lr=rate), np.random.default_rng(seed)
    batches = balanced_batches(labels, 16, rng)

    def run(samples: Array) -> Tensor:
        with torch.no_grad():
            found: Tensor = torch.func.functional_call(network, made(), (torch.from_numpy(samples), 0))
        return found

    for step in range(TUNING[-1] + 1):
        if step in TUNING:
            yield run
        rows = next(batches)
        samples = torch.from_numpy(moved(x[rows], rng))
        optimizer.zero_grad()
        logits = torch.func.functional_call(network, made(), (samples, 0))
        F.cross_entropy(logits, torch.from_numpy(labels[rows])).backward()
        optimizer.step()


def tuned_for(bundle: Bundle, base: Signature, x: Array, labels: Array, *, seed: int) -> IsometricNetwork:
    """A network that was fine-tuned as a whole for another user, with a template of its own for every layer."""
    network = fine_tuned(bundle, lambda _: base, x, labels, seed=seed)
    own = by_layers(bundle, base)
    with torch.no_grad():
        rows = network.xi()[0] @ network.templates
        for name, value in network.named_parameters():
            if name not in ("templates", "mixture"):
                own.get_parameter(name).copy_(value)
        own.templates.copy_(rows)
    return own
