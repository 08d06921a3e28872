"""BN statistics of a user's samples, against torch in training mode."""

import dataclasses

import numpy as np
import pytest
import torch
from support import SMALL, make_bundle

from isoform.compile.kinds.mixture.training import training_graphs
from isoform.runtime.kinds.mixture.learn.blocks import open_blocks
from isoform.runtime.kinds.mixture.learn.statistics import estimate_statistics
from isoform.train.kinds.mixture.bundling import network_from_bundle

SPECS = {
    "small": SMALL,
    "sensor": dataclasses.replace(
        SMALL, input_shape=(6, 1, 64), adapter_kernel=(1, 8), kernel=5, mean=(0.1,) * 6, std=(2.0,) * 6
    ),
    "shared": dataclasses.replace(SMALL, affine="task", templates=3),
}


def estimate(bundle, x, alpha):
    """Statistics and logits of task a, without torch."""
    blocks = open_blocks(bundle.spec, training_graphs(bundle.spec), threads=1)
    parts = bundle.resolve(bundle.signatures["a"]).parts
    found = estimate_statistics(bundle.spec, bundle.tensors, parts, x, run_on=blocks, alpha=alpha)
    return found.statistics, found.logits


@pytest.mark.parametrize("name", SPECS)
def test_statistics_are_torchs_in_training_mode(name) -> None:
    """Normalised by the batch alone, logits are torch's; and so are the statistics, but for its unbiased variance."""
    bundle = make_bundle(SPECS[name], seed=1)
    x = np.random.default_rng(0).uniform(0, 1, (12, *bundle.spec.input_shape)).astype(np.float32)
    network = network_from_bundle(bundle, {"a": bundle.signatures["a"]}).double()
    expected = network(torch.from_numpy(x).double(), 0, momentum=1.0).detach().numpy()
    found, logits = estimate(bundle, x, 1.0)
    assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()
    mean, variance = network.bn_statistics[0].numpy()
    samples = len(x) * np.prod(bundle.spec.grid)
    assert np.abs(found[0] - mean).max() <= 1e-4 * np.abs(mean).max()
    assert np.abs(found[1] - variance * (samples - 1) / samples).max() <= 1e-4 * variance.max()


def test_alpha_leads_from_the_given_to_the_batchs(runtime, samples) -> None:
    """α = 0 changes nothing and gives the runtime's own logits; between, the stem's statistics are the blend."""
    x = np.array(samples[0][:40])
    base = runtime.signature("plain")
    bundle, parts = runtime.bundle, runtime.bundle.resolve(base).parts
    blocks = open_blocks(bundle.spec, training_graphs(bundle.spec), threads=1)

    def found(alpha):
        result = estimate_statistics(bundle.spec, bundle.tensors, parts, x, run_on=blocks, alpha=alpha)
        return result.statistics, result.logits

    same, logits = found(0.0)
    assert np.array_equal(same, parts["bn.statistics"])
    assert np.abs(logits - runtime.predict(x, base)).max() <= 1e-3
    place = bundle.spec.bn_slices["input_adapter"]
    blend = 0.75 * parts["bn.statistics"][:, place] + 0.25 * found(1.0)[0][:, place]
    assert np.abs(found(0.25)[0][:, place] - blend).max() <= 1e-5 * np.abs(blend).max()
