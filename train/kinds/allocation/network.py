"""The modular network in torch: the reference that the fold, the numpy twin and ONNX Runtime must match.

Components of a layer with the same operations are a *bank*: their first operation is one convolution with the outputs of all, later ones
are grouped convolutions, so that a layer of 16 small convolutions is two calls. All components of a layer run, whatever the mask: those
that are not used have the gate 0, and their output still gives the gradient of the gate (section III-B).

Source: Gumbel-Matrix, figures 3 and 4; its initial weights (Glorot-uniform, biases 0) are Keras' defaults.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isoform.runtime.kinds.allocation.operations import Operation
from isoform.runtime.kinds.allocation.spec import Layer, LayerSizes, ModularSpec, component_name, layer_name
from isoform.train.kinds.allocation.router import Router
from isoform.train.measuring.record import empty_record
from isoform.train.parallel.reduced import dropout as dropout_of

__all__ = ["ModularNetwork"]


class ModularNetwork(nn.Module):
    """Shared components, a router, and a logits layer for each of T tasks.

    Args:
        spec: The network's sizes.
        classes: Number of classes of each task; T is its length.
        initial: Probability of every component at the start.
        generator: Random generator for the initial weights.

    Attributes:
        router: The allocations' logits.
        heads: Weights of all logits layers, shape (T, most classes, embedding); rows beyond a task's classes are not used.
        biases: Their biases, shape (T, most classes).
        updates: Number of losses so far, on which the temperature depends; a buffer.
        recorded: Probabilities over time (``train/measuring/record.py``); a buffer.
    """

    def __init__(
        self, spec: ModularSpec, classes: Sequence[int], *, initial: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.spec, self._classes = spec, tuple(classes)
        self.router = Router(spec, len(classes), initial=initial)
        if spec.stem:
            after = (spec.channels, *spec.input_shape[1:])
            stem = Operation(what="conv", before=spec.input_shape, after=after, norm=bool(spec.norm_groups), relu=True)
            self.stem = Bank(spec, (stem,), [0], generator)
        self._layers = nn.ModuleList(
            ModularLayer(spec, sizes, layer, generator) for sizes, layer in zip(spec.layers, spec.geometry, strict=True)
        )
        most = max(classes)
        weights = torch.zeros(len(classes), most, spec.embedding)
        for task, count in enumerate(classes):
            weights[task, :count] = glorot((count, spec.embedding), spec.embedding, count, generator)
        # One tensor, so that Adam's moments of a task's layer decay in the updates of other tasks too, as the authors' do.
        self.heads = nn.Parameter(weights)
        self.biases = nn.Parameter(torch.zeros(len(classes), most))
        self.updates: Tensor
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.recorded: Tensor
        self.register_buffer("recorded", empty_record(len(classes), *self.router.exists.shape))

    @property
    def layers(self) -> list[ModularLayer]:
        """The modular layers."""
        return [cast(ModularLayer, layer) for layer in self._layers]

    def gates(self, mask: Tensor) -> Tensor:
        """Return the weight of every component, shape (L, C), of a mask of that shape; differentiable."""
        return mask / mask.sum(dim=1, keepdim=True).clamp(min=1) if self.spec.combine == "mean" else mask

    def embeddings(self, x: Tensor, mask: Tensor) -> Tensor:
        """Compute the input of the logits layers.

        Args:
            x: Samples, shape (n, …), float32, not yet normalised.
            mask: Shape (L, C), 0 or 1.

        Returns:
            Shape (n, embedding), float32.
        """
        spec, gates = self.spec, self.gates(mask)
        mean, std = (x.new_tensor(value).reshape(1, -1, 1, 1) for value in (spec.mean, spec.std))
        x = (x - mean) / std
        if spec.stem:
            x = self.stem(x)[:, 0]
        for layer, row in zip(self.layers, gates, strict=True):
            x = layer(x, row)
        return x.flatten(1)

    def logits(self, embeddings: Tensor, task: int) -> Tensor:
        """Apply a task's logits layer: (n, embedding) → (n, classes of the task)."""
        count = self._classes[task]
        return F.linear(embeddings, self.heads[task, :count], self.biases[task, :count])

    def forward(self, x: Tensor, task: int, mask: Tensor, *, dropout: float = 0.0) -> Tensor:
        """Compute logits, shape (n, classes of the task), with dropout before the logits layer."""
        return self.logits(dropout_of(self.embeddings(x, mask), dropout), task)

    def decayed(self) -> list[Tensor]:
        """Return the weights that L2 regularisation is of: all but biases and allocations, as in the authors' code."""
        stem = self.stem.decayed() if self.spec.stem else []
        return [self.heads, *stem, *(weight for layer in self.layers for weight in layer.decayed())]

    def tensors(self) -> dict[str, Tensor]:
        """Return ``spec.template_shapes``' names → the shared weights, as views: assigning to them changes the network."""
        found: dict[str, Tensor] = {}
        if self.spec.stem:
            found |= {name.replace("op0", "stem"): tensor for name, tensor in self.stem.tensors(0).items()}
        for number, layer in enumerate(self.layers):
            found |= layer.tensors(number)
        return {name: found[name] for name in self.spec.template_shapes}


class ModularLayer(nn.Module):
    """One modular layer: banks of components, and what follows their mean.

    Args:
        spec: The network's sizes.
        sizes: The layer's components.
        layer: The layer with all shapes.
        generator: Random generator for the initial weights.
    """

    def __init__(self, spec: ModularSpec, sizes: LayerSizes, layer: Layer, generator: torch.Generator) -> None:
        super().__init__()
        self._spec, self._layer = spec, layer
        self._banks = nn.ModuleList()
        for text in dict.fromkeys(sizes.components):
            places = [place for place, other in enumerate(sizes.components) if other == text]
            self._banks.append(Bank(spec, layer.components[places[0]], places, generator))
        rows = spec.channels if layer.norm else 0
        self._norm = nn.Parameter(torch.stack([torch.ones(rows, 1, 1), torch.zeros(rows, 1, 1)]))
        """γ and β, shape (2, channels, 1, 1); empty without a norm."""

    @property
    def banks(self) -> list[Bank]:
        """Components with the same operations."""
        return [cast(Bank, bank) for bank in self._banks]

    def forward(self, x: Tensor, gates: Tensor) -> Tensor:
        """Run the layer: feature maps (n, c, h, w) → (n, c', h', w'); ``gates``, shape (C,)."""
        # as products of matrices, which make no scaled copy of every output
        means = [torch.einsum("k,nkchw->nchw", bank.own(gates), bank(x)) for bank in self.banks]
        x = means[0] if len(means) == 1 else torch.stack(means).sum(0)
        if self._layer.norm:
            x = F.relu(F.group_norm(x, self._spec.norm_groups, eps=self._spec.norm_eps) * self._norm[0] + self._norm[1])
        return F.avg_pool2d(x, self._layer.pool) if self._layer.pool > 1 else x

    def decayed(self) -> list[Tensor]:
        """As ``ModularNetwork.decayed``."""
        return [self._norm, *(weight for bank in self.banks for weight in bank.decayed())]

    def tensors(self, number: int) -> dict[str, Tensor]:
        """Return names of ``template_shapes`` → weights of this layer, as views."""
        found = {
            f"{component_name(number, place)}.{name}": tensor
            for bank in self.banks
            for index, place in enumerate(bank.places)
            for name, tensor in bank.tensors(index).items()
        }
        norm = {f"{layer_name(number)}.{part}": self._norm[row] for row, part in enumerate(("gamma", "beta"))}
        return {**found, **(norm if self._layer.norm else {})}


class Bank(nn.Module):
    """Components with the same operations.

    Args:
        spec: The network's sizes.
        chain: The operations of each.
        places: Their places in the layer.
        generator: Random generator for the initial weights.
    """

    def __init__(
        self, spec: ModularSpec, chain: Sequence[Operation], places: list[int], generator: torch.Generator
    ) -> None:
        super().__init__()
        self._spec, self._chain, self.places = spec, chain, places
        self._weights = nn.ParameterList()
        """Of every operation in order: those of ``Operation.shapes``, with a leading axis for the components."""
        for operation in chain:
            for name, shape in operation.shapes.items():
                whole = (len(places), *shape)
                if name == "weight":
                    area = math.prod(shape[2:])
                    value = glorot(whole, shape[1] * area, shape[0] * area, generator)
                else:
                    value = torch.ones(whole) if name == "gamma" else torch.zeros(whole)
                self._weights.append(nn.Parameter(value))

        self._names = [f"op{step}.{part}" for step, operation in enumerate(chain) for part in operation.shapes]

    def own(self, gates: Tensor) -> Tensor:
        """Return the gates of these components, of those of a layer."""
        first, last = self.places[0], self.places[-1] + 1
        # a slice where that is possible: an index would be a tensor that is made anew in every pass
        return gates[first:last] if last - first == len(self.places) else gates[self.places]

    def tensors(self, index: int) -> dict[str, Tensor]:
        """Return the weights of one component: ``op0.weight`` and so on, as views."""
        return {name: weight[index] for name, weight in zip(self._names, self._weights, strict=True)}

    def decayed(self) -> list[Tensor]:
        """Return the weights of all components but the biases."""
        return [weight for name, weight in zip(self._names, self._weights, strict=True) if not name.endswith("bias")]

    def forward(self, x: Tensor) -> Tensor:
        """Run all components: (n, c, h, w) → (n, components, c, h, w)."""
        count, start, alone = len(self.places), 0, True
        for operation in self._chain:
            weights = dict(zip(operation.shapes, self._weights[start : start + len(operation.shapes)], strict=True))
            start += len(weights)
            x = self._applied(operation, x, weights, groups=1 if alone else count)
            alone = alone and not weights  # without weights all components are still the same
        return x[:, None].expand(-1, count, -1, -1, -1) if alone else x.reshape(len(x), count, -1, *x.shape[2:])

    def _applied(self, operation: Operation, x: Tensor, weights: dict[str, Tensor], *, groups: int) -> Tensor:
        if operation.what == "identity":
            return x
        if operation.what == "maxpool":
            return F.max_pool2d(x, operation.kernel, operation.stride, operation.pads)
        if operation.what == "avgpool":
            return F.avg_pool2d(x, operation.kernel, operation.stride, operation.pads, count_include_pad=False)
        weight, bias = weights["weight"], weights["bias"].flatten()
        if operation.dense:  # as matrix products, in a fifth of the time of a convolution with one pixel
            flat = x.reshape(len(x), groups, -1)
            rows = weight.flatten(2) if groups > 1 else weight.reshape(1, bias.numel(), -1)
            x = (torch.einsum("ngc,gdc->ngd", flat, rows).flatten(1) + bias)[:, :, None, None]
        else:
            x = F.conv2d(x, weight.flatten(0, 1), bias, operation.stride, operation.pads, groups=groups)
        if operation.norm:
            x = F.group_norm(
                x,
                len(self.places) * self._spec.norm_groups,
                weights["gamma"].flatten(),
                weights["beta"].flatten(),
                self._spec.norm_eps,
            )
        return F.relu(x) if operation.relu else x


def glorot(shape: tuple[int, ...], fan_in: int, fan_out: int, generator: torch.Generator) -> Tensor:
    """Draw Glorot-uniform weights: U(-a, a) with a = √(6 / (fan in + fan out))."""
    bound = math.sqrt(6 / (fan_in + fan_out))
    return (2 * torch.rand(shape, generator=generator) - 1) * bound
