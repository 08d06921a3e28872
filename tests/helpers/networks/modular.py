"""Small modular networks of random weights, for tests of kind ``allocation``."""

import numpy as np

from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature
from isoform.runtime.formats.templates import template_digest
from isoform.runtime.kinds.allocation.spec import LayerSizes, ModularSpec

MIXED = ("conv3x3", "conv3x3", "conv1x3-conv3x1", "maxpool3x3", "avgpool3x3", "identity")
PLAIN = ModularSpec(  # as the 4-MNISTs: no padding, no norm, pools between layers
    input_shape=(1, 14, 14), layers=(LayerSizes(components=("conv3x3",) * 4, pool=2), LayerSizes(components=("conv3x3",) * 3)),
    channels=4, padding="valid",
)  # fmt: skip
NORMED = ModularSpec(  # as Omniglot's: a stem, norms, strides, pools and identities; an odd size, so that padding matters
    input_shape=(2, 9, 7), layers=(LayerSizes(components=MIXED, stride=2), LayerSizes(components=MIXED)), channels=8, stem=True,
    norm_groups=4, mean=(0.2, 0.4), std=(0.5, 2.0),
)  # fmt: skip
DENSE = ModularSpec(  # as the synthetic tasks': vectors and fully connected components, one of them linear
    input_shape=(1, 1, 12), layers=(LayerSizes(components=("dense8", "dense8", "dense16-linear8")), LayerSizes(components=("dense5",) * 2)),
    combine="sum",
)  # fmt: skip
ALL = {"plain": PLAIN, "normed": NORMED, "dense": DENSE}


def random_templates(spec, seed=0):
    """Weights of the scale that training begins with; γ about 1."""
    rng = np.random.default_rng(seed)
    return {
        name: (
            (1.0 if name.endswith("gamma") else 0.0) + rng.normal(size=shape) / max(2.0, np.sqrt(np.prod(shape[1:])))
        ).astype(np.float32)
        for name, shape in spec.template_shapes.items()
    }


def random_mask(spec, rng, share=0.6):
    """A mask that uses at least one component of each layer."""
    exists = np.array(spec.exists)
    mask = (rng.uniform(size=exists.shape) < share) & exists
    mask[np.arange(len(mask)), [rng.integers(row.sum()) for row in exists]] = True
    return mask


def random_bundle(spec, masks, classes=3, seed=0):
    """A bundle whose tasks, ``task0`` and so on, have these masks."""
    rng, templates = np.random.default_rng(seed + 1), random_templates(spec, seed)
    digest, signatures = template_digest(spec, templates), {}
    for number, mask in enumerate(masks):
        parts = {
            "allocation": mask, "logits.weight": rng.normal(size=(classes, spec.embedding)) / np.sqrt(spec.embedding),
            "logits.bias": rng.normal(size=classes),
        }  # fmt: skip
        signatures[f"task{number}"] = Signature(
            parts=parts, template=digest, task=f"task{number}", labels=tuple(f"c{i}" for i in range(classes)), kind="allocation",
        )  # fmt: skip
    return Bundle.create(spec=spec, tensors=templates, signatures=signatures, training={})


def samples(spec, count, seed=0):
    """Random samples."""
    return np.random.default_rng(seed).uniform(0, 1, (count, *spec.input_shape)).astype(np.float32)
