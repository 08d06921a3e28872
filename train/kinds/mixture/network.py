"""The isometric network with mixture modules in torch: the reference that the fold, the numpy twin and ONNX Runtime must match.

For task t and layer ℓ, every mixed tensor of the block is θ_ℓ = Σ_k ξ_ℓk θ_k over the K templates, with

    ξ_ℓ = softmax(logits_tℓ / T)                 T: a temperature that training may lower
    ξ_ℓ = softmax(logits_tℓ / T) + δ_tℓ          free: δ is a signature's ``delta``, without random directions
    ξ_ℓ = one-hot(argmax logits_tℓ)              discrete, with the gradient of the softmax (straight-through)

All layers are mixed by one matrix product: the templates are one matrix Θ of shape (K, P).

    input adapter: conv (kernel = stride) · BN · h-swish
    L blocks:      see ``isoform.runtime.kinds.mixture.spec``
    output adapter: 1×1 conv · BN · h-swish → average pool → embedding · h-swish → the task's logits layer

BN's running statistics are per task, in the adapters as well: sharing them across domains costs 30 points of accuracy.
γ and β are shared, or per task, or mixed with ξ (``NetworkSpec.affine``).

Source: Compositional Models, sections 3.2 and 4.1; Bengio et al. 2013 for the straight-through gradient. Must never import the runtime's engines.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isoform.runtime.kind import WHOLE
from isoform.runtime.kinds.mixture.directions import STEP
from isoform.runtime.kinds.mixture.discrete import DISCRETE_GAP
from isoform.runtime.kinds.mixture.spec import NetworkSpec
from isoform.train.parallel.reduced import batch_norm

__all__ = ["IsometricNetwork"]


class IsometricNetwork(nn.Module):
    """K shared templates, and a signature, BN statistics and a logits layer for each of T tasks.

    Args:
        spec: The sizes.
        classes: Number of labels of each task; T is its length.
        generator: Random generator for the initial weights: He-normal templates, mixture logits with mean 0 and deviation 0.1.
        own_affine: Whether γ and β are each task's own even where ``spec.affine`` says otherwise.

    Attributes:
        templates: Θ, shape (K, P), float32; columns follow ``spec.block_shapes``.
        mixture: Logits of ξ, shape (T, L, K).
        temperature: T, shape (); a buffer, because it decides the answers.
        delta: δ, shape (T, L, K), or None where ξ is not free.
        offset: Logits that are added to ``mixture`` while a domain without labels is adapted (``adaptation.py``), shape (L, K); or None.
        offset_rows: 1 for the task that they are added to, 0 for the others, shape (T, 1, 1); a buffer that is not stored, beside ``offset``.
        discrete: Whether every layer uses its largest ξ alone.
        bn_affine: γ and β, shape (1 or T, 2, N).
        bn_statistics: Running mean and variance, shape (T, 2, N). A buffer; a forward pass in training mode moves it.
        bn_directions: Directions of those statistics, shape (D, 2, N), found at the end of training (``directions.py``); a buffer. A forward
            pass does not use them.
    """

    def __init__(
        self, spec: NetworkSpec, classes: tuple[int, ...], *, generator: torch.Generator, own_affine: bool = False
    ) -> None:
        super().__init__()
        self.spec, self.own_affine = spec, own_affine or spec.affine == "task"
        self._places, tasks = spec.bn_slices, len(classes)

        def he(*shape: int, fan_in: int) -> Tensor:
            return torch.randn(*shape, generator=generator) * math.sqrt(2 / fan_in)

        bank = []
        for name, shape in spec.block_shapes.items():
            if name.endswith("bias"):
                tensor = torch.zeros(spec.templates, *shape)
            elif name == "bn.affine":
                tensor = torch.stack(
                    [torch.ones(spec.templates, shape[1]), torch.zeros(spec.templates, shape[1])], dim=1
                )
            else:
                tensor = he(spec.templates, *shape, fan_in=math.prod(shape[1:]))
            bank.append(tensor.flatten(1))
        self.templates = nn.Parameter(torch.cat(bank, dim=1))
        # Small random logits: nearly uniform, but not equal, or all templates of a layer would get the same gradient.
        self.mixture = nn.Parameter(0.1 * torch.randn(tasks, spec.layers, spec.templates, generator=generator))
        self.temperature: Tensor
        self.register_buffer("temperature", torch.ones(()))
        self.delta: nn.Parameter | None
        self.register_parameter("delta", None)
        self.offset: nn.Parameter | None
        self.register_parameter("offset", None)
        self.offset_rows: Tensor
        self.discrete = False
        c, h = spec.channels, spec.head_channels
        cin, (kh, kw) = spec.input_shape[0], spec.adapter_kernel
        self.input_adapter = nn.Parameter(he(c, cin, kh, kw, fan_in=cin * kh * kw))
        self.output_adapter = nn.Parameter(he(h, c, 1, 1, fan_in=c))
        self.embedding_weight = nn.Parameter(he(spec.embedding, h, fan_in=h))
        self.embedding_bias = nn.Parameter(torch.zeros(spec.embedding))
        # γ = 1 and β = 0; flipped, they are the mean 0 and variance 1 of the statistics.
        start = torch.stack([torch.ones(spec.bn_channels), torch.zeros(spec.bn_channels)])
        self.bn_affine = nn.Parameter(start.repeat(tasks if self.own_affine else 1, 1, 1))
        self.bn_statistics: Tensor
        self.register_buffer("bn_statistics", start.flip(0).repeat(tasks, 1, 1))
        self.bn_directions: Tensor
        self.register_buffer("bn_directions", torch.zeros(spec.bn_directions, 2, spec.bn_channels))
        # Weight and bias of task t are heads[2t] and heads[2t + 1].
        self.heads = nn.ParameterList()
        for count in classes:
            self.heads.append(
                nn.Parameter(torch.randn(count, spec.embedding, generator=generator) / math.sqrt(spec.embedding))
            )
            self.heads.append(nn.Parameter(torch.zeros(count)))

    def tempered(self) -> Tensor:
        """Compute the logits that the softmax is of, shape (T, L, K)."""
        logits = self.mixture if self.offset is None else self.mixture + self.offset_rows * self.offset
        return logits / self.temperature

    def xi(self) -> Tensor:
        """Compute the mixture weights of every task, shape (T, L, K); rows sum to 1, unless they are free."""
        soft = self.tempered().softmax(dim=-1)
        if self.discrete:
            # in parentheses, because this difference is exactly 0
            return F.one_hot(soft.argmax(-1), soft.shape[-1]) + (soft - soft.detach())
        return soft if self.delta is None else soft + self.delta

    @torch.no_grad()
    def settle(self) -> None:
        """Let the signature's parts say what ``xi`` returns: at T = 1, with discrete logits where layers are discrete, and δ in whole steps."""
        if self.discrete:
            best = self.mixture.argmax(-1, keepdim=True)
            self.mixture.fill_(-DISCRETE_GAP).scatter_(-1, best, 0.0)
        elif self.temperature != 1:
            logits = self.tempered()
            # as far apart as discrete layers' are, which float16 holds as well
            self.mixture.copy_((logits - logits.max(-1, keepdim=True).values).clamp(min=-DISCRETE_GAP))
        self.temperature.fill_(1)
        if self.delta is not None:
            self.delta.copy_(STEP * (self.delta / STEP).round().clamp(-WHOLE, WHOLE))

    def blocks(self, task: int) -> Tensor:
        """Compute the weights of every layer's block of a task, shape (L, P), columns as those of the templates: one matrix product."""
        return self.xi()[task] @ self.templates

    def forward(self, x: Tensor, task: int, *, momentum: float | None = None) -> Tensor:
        """Compute the logits of one task.

        Args:
            x: Samples, shape (n, channels, height, width), float32, not yet normalised.
            task: Index of the task, 0 to T-1.
            momentum: Weight of this batch in BN's running statistics (training mode); ``None`` uses the running statistics
                unchanged (evaluation mode).

        Returns:
            Shape (n, classes of the task), float32.
        """
        z = self.embedded(self.features(x, task, momentum=momentum), task, momentum=momentum)
        return F.linear(z, self.heads[2 * task], self.heads[2 * task + 1])

    def features(self, x: Tensor, task: int, *, momentum: float | None = None) -> Tensor:
        """Compute the output of the last block, before the output adapter, shape (n, C, grid height, grid width); arguments as ``forward``'s."""
        spec = self.spec
        mixed = self.blocks(task)
        layers = [
            {
                n: part.reshape(s)
                for (n, s), part in zip(spec.block_shapes.items(), row.split(self._widths()), strict=True)
            }
            for row in mixed
        ]
        affine = self.bn_affine[task if self.own_affine else 0]
        if spec.affine == "mixed" and not self.own_affine:
            c, h = spec.channels, spec.head_channels
            # by ξ without δ: γ and β are not what a ``delta`` adds to
            rows = mixed if self.delta is None else (self.xi() - self.delta)[task] @ self.templates
            columns = rows[:, -2 * (2 * spec.expanded + spec.channels) :]
            body = columns.reshape(spec.layers, *spec.block_shapes["bn.affine"])
            affine = torch.cat([affine[:, :c], *body, affine[:, -h:]], dim=1)

        def bn(z: Tensor, name: str) -> Tensor:
            return self._normalised(z, name, affine, task, momentum)

        mean = x.new_tensor(spec.mean).reshape(1, -1, 1, 1)
        std = x.new_tensor(spec.std).reshape(1, -1, 1, 1)
        z = F.conv2d((x - mean) / std, self.input_adapter, stride=spec.adapter_kernel)
        # Channels-last, because ``_pointwise`` reads pixels as rows without a copy then.
        z = F.hardswish(bn(z.contiguous(memory_format=torch.channels_last), "input_adapter"))
        for index, layer in enumerate(layers):
            name = f"layer{index:02d}"
            y = F.hardswish(bn(_pointwise(z, layer["expand.weight"]), f"{name}.expand"))
            y = F.conv2d(y, layer["depthwise.weight"], padding=spec.kernel // 2, groups=spec.expanded)
            y = F.hardswish(bn(y, f"{name}.depthwise"))
            # Squeeze and excite: one gate per channel from the mean over all pixels.
            s = F.relu(F.linear(y.mean((2, 3)), layer["squeeze.weight"].flatten(1), layer["squeeze.bias"]))
            s = F.hardsigmoid(F.linear(s, layer["excite.weight"].flatten(1), layer["excite.bias"]))
            y = y * s[:, :, None, None]
            z = z + bn(_pointwise(y, layer["project.weight"]), f"{name}.project")
        return z

    def embedded(self, features: Tensor, task: int, *, momentum: float | None = None) -> Tensor:
        """Compute the input of the logits layer, shape (n, embedding), from what ``features`` returned."""
        # γ and β of the adapters are never mixed
        affine = self.bn_affine[task if self.own_affine else 0]
        z = self._normalised(_pointwise(features, self.output_adapter), "output_adapter", affine, task, momentum)
        return F.hardswish(F.linear(F.hardswish(z).mean((2, 3)), self.embedding_weight, self.embedding_bias))

    def _normalised(self, z: Tensor, name: str, affine: Tensor, task: int, momentum: float | None) -> Tensor:
        """Apply BN of one place; ``affine`` are γ and β of all places, shape (2, N), or those of the adapters alone where others are mixed."""
        place = self._places[name]
        mean, var = self.bn_statistics[task, :, place]
        # the output adapter's are the last ones, however many there are before
        rows = affine[:, -self.spec.head_channels :] if name == "output_adapter" else affine[:, place]
        return batch_norm(z, mean, var, rows, momentum=momentum, eps=self.spec.bn_eps)

    def _widths(self) -> list[int]:
        return [math.prod(shape) for shape in self.spec.block_shapes.values()]


def _pointwise(z: Tensor, weight: Tensor) -> Tensor:
    """Compute a 1×1 convolution as one matrix product over channels-last pixels: on a CPU, half the time of ``conv2d``."""
    return F.linear(z.permute(0, 2, 3, 1), weight.flatten(1)).permute(0, 3, 1, 2)
