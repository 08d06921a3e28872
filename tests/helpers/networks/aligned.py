"""Networks of different architectures that share blocks, small enough for tests."""

import numpy as np
import torch
from strangers import stranger

from isoform.train.data.samples import Dataset, Split
from isoform.train.kinds.alignment.network import AlignedNetworks, Subject
from isoform.train.kinds.alignment.search import Search

TASKS = ("residual", "recurrent", "attention")


def aligned(*, context=2, seed=0, initial="own", tasks=TASKS, m=4, n=8, **options):
    """Aligned strangers, with a random alignment and contexts that differ; and task → samples of its own."""
    torch.manual_seed(seed)
    subjects, samples = {}, {}
    for task in tasks:
        module, samples[task], classes = stranger(task)
        subjects[task] = Subject(module=module, example=samples[task](3), classes=classes, **options)
    networks = AlignedNetworks(
        subjects, m=m, n=n, context=context, search=Search(), initial=initial, generator=torch.Generator().manual_seed(seed)
    )  # fmt: skip
    return networks, samples, subjects


def shuffled(networks, modules=12, seed=1):
    """Give the locations few modules, most of them used often, some once or twice."""
    blocks, rng = networks.hypermodules, np.random.default_rng(seed)
    count = len(blocks.alignment)
    chosen = np.minimum(rng.geometric(0.12, count) - 1, modules + 8)
    with torch.no_grad():
        blocks.alignment.copy_(torch.from_numpy(chosen))
        if blocks.contexts.requires_grad:
            blocks.contexts.mul_(torch.rand(blocks.contexts.shape) + 0.5)
    blocks.changed()
    return networks


def datasets(networks, samples, count=24):
    """Random samples with labels in turn, for every task."""
    found = {}
    for task in networks.tasks:
        classes = networks.classes[task]
        halves = [
            Split(images=samples[task](count, seed).numpy(), labels=np.arange(count) % len(classes)) for seed in (5, 6)
        ]
        found[task] = Dataset(train=halves[0], test=halves[1], classes=classes)
    return found
