"""What shapes a mixture's signatures: temperature, discrete and free layers, and what they start from; and what a bundle has of it."""

import dataclasses

import numpy as np
import pytest
import torch
from resumed import whole_and_resumed
from support import SMALL, isoform_here

from isoform.compile.build import compile_bundle
from isoform.runtime import Runtime
from isoform.runtime.commands.figures.tasks import read_record
from isoform.runtime.kinds.mixture.directions import STEP, mixing, template_sequence
from isoform.runtime.kinds.mixture.reference import reference_logits
from isoform.train.data.load import load_tasks
from isoform.train.kinds.mixture.bundling import bundle_from_network, network_from_bundle
from isoform.train.kinds.mixture.network import IsometricNetwork
from isoform.train.kinds.mixture.patterns import start_signatures
from isoform.train.kinds.mixture.recipe import MixtureTable
from isoform.train.loop import train
from isoform.train.recipe import read_recipe

LEARNED = MixtureTable()


def made(table=LEARNED, **changes) -> IsometricNetwork:
    """A small network of two tasks with the signatures that training starts with."""
    spec = dataclasses.replace(SMALL, **changes)
    network = IsometricNetwork(spec, (3, 3), generator=torch.Generator().manual_seed(0))
    start_signatures(network, table, seed=0)
    return network


def bundled(network):
    """Its bundle."""
    return bundle_from_network(network, {"a": tuple("xyz"), "b": tuple("xyz")}, training={})


@pytest.mark.parametrize("affine", ["layer", "task", "mixed"])
@pytest.mark.parametrize("signature", ["learned", "discrete", "free"])
def test_bundles_compute_what_was_trained(signature, affine) -> None:
    """The numpy twin of the bundle, the torch network and the network made again from the bundle agree; a free δ to its rounding."""
    network, x = (
        made(MixtureTable(signature=signature), affine=affine),
        torch.linspace(0, 1, 6 * 64).reshape(6, *SMALL.input_shape),
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        network.mixture += torch.randn(network.mixture.shape, generator=generator) * network.mixture.requires_grad
        network.templates += 0.1 * torch.randn(network.templates.shape, generator=generator)
        if network.delta is not None:
            network.delta += 0.5 * torch.randn(network.delta.shape, generator=generator)
        network.temperature.fill_(1000 if signature == "discrete" else 0.3)
        before, xi = [network(x, task) for task in range(2)], network.xi()
        network.settle()
        after = [network(x, task) for task in range(2)]
    assert network.temperature == 1
    assert (network.xi() - xi).abs().max() <= (STEP / 2 if signature == "free" else 1e-6)
    bundle = bundled(network)
    again = network_from_bundle(bundle, bundle.signatures)
    for task, name in enumerate("ab"):
        parts = bundle.resolve(bundle.signatures[name]).parts
        if signature != "free":
            np.testing.assert_allclose(after[task], before[task], rtol=0, atol=1e-5)
        np.testing.assert_allclose(mixing(parts)[:, : SMALL.templates], network.xi()[task].detach(), atol=1e-6)
        expected = reference_logits(network.spec, bundle.tensors, parts, x.numpy())
        np.testing.assert_allclose(after[task], expected, rtol=0, atol=1e-4)
        np.testing.assert_array_equal(again(x, task).detach(), after[task])
        if signature == "discrete":
            assert {*np.unique(parts["mixture"]).tolist()} == {0.0, -10_000.0}
        exact = [None not in template_sequence(parts), np.any(mixing(parts) < 0)]
        assert exact == {"learned": [False, False], "discrete": [True, False], "free": [False, True]}[signature]


def test_discrete_layers_learn_by_the_softmax() -> None:
    """Every layer is one template in the forward pass; the gradient of ξ is that of the softmax at the same point."""
    network = made(MixtureTable(signature="discrete"))
    found = network.xi()
    assert {*found.detach().unique().tolist()} == {0.0, 1.0}
    assert torch.equal(found.argmax(-1), network.mixture.argmax(-1))
    slope = torch.randn(found.shape, generator=torch.Generator().manual_seed(0))
    expected = torch.autograd.grad((network.mixture.softmax(-1) * slope).sum(), network.mixture)[0]
    torch.testing.assert_close(torch.autograd.grad((found * slope).sum(), network.mixture)[0], expected)


def test_what_signatures_start_from() -> None:
    """Near 0, or with a lead for a pattern; free ones are exactly the pattern, and only δ is trained."""
    lead = made(MixtureTable(initial="cyclic"), layers=4, templates=2)
    assert lead.xi().argmax(-1).tolist() == [[0, 1, 0, 1]] * 2
    assert 0.75 < float(lead.xi().detach().max(-1).values.min()) < 0.95
    plain = made(layers=4, templates=2)
    pattern = torch.arange(4)[:, None] % 2 == torch.arange(2)
    torch.testing.assert_close((lead.mixture - plain.mixture).detach(), 2.0 * pattern.repeat(2, 1, 1))
    free = made(MixtureTable(signature="free"), layers=4, templates=2)
    assert free.xi().tolist() == [[[1, 0], [1, 0], [0, 1], [0, 1]]] * 2
    assert (free.mixture.requires_grad, free.delta.requires_grad) == (False, True)


def test_the_temperature_falls(tmp_path) -> None:
    """By the same factor in each step; the bundle has the mixture at T = 1, and a run that is resumed ends in the same one."""
    recipe = read_recipe("digits", {
        "steps": "9", "network.layers": "2", "batch": "8", "threads": "1", "mixture.temperature": "4", "mixture.temperature_end": "0.25",
        "mixture.entropy": "0", "mixture.attraction": "1", "optimizer.mixture_lr_ratio": "0.001", "network.bn_directions": "0",
    })  # fmt: skip
    datasets = load_tasks(recipe.tasks, recipe.data, root=None)
    bundle = whole_and_resumed(recipe, datasets, tmp_path, killed_at=4)
    largest = [entry["mean_max_xi"] for entry in bundle.training["history"]]
    assert largest == sorted(largest)
    start = IsometricNetwork(bundle.spec, (10,) * 4, generator=torch.Generator().manual_seed(0)).mixture.detach()
    for temperature, found in ((4.0, largest[0]), (1.0, largest[4]), (0.25, largest[-1])):
        assert found == pytest.approx(float((start / temperature).softmax(-1).max(-1).values.mean()), abs=2e-3)
    xi = [mixing(signature.parts).max(axis=1).mean() for signature in bundle.signatures.values()]
    assert np.mean(xi) == pytest.approx(bundle.training["mean_max_xi"], abs=1e-5)
    assert -1 <= bundle.training["template_cosine"] <= 1


def test_free_signatures_run_on_a_device(tmp_path) -> None:
    """Compiled, they answer as torch does; the report names no template for their layers; a few labelled samples personalize them further."""
    recipe = read_recipe("digits", {
        "steps": "40", "network.layers": "2", "batch": "16", "threads": "1", "mixture.signature": "free", "network.bn_directions": "0",
    })  # fmt: skip
    datasets = load_tasks(recipe.tasks, recipe.data, root=None)
    bundle = train(recipe, datasets, checkpoint=tmp_path / "state")
    bundle.write(tmp_path / "bundle")
    told = compile_bundle(tmp_path / "bundle", datasets=datasets)["tasks"]
    assert {tuple(entry["sequence"]) for entry in told.values()} == {(None, None)}
    test = datasets["plain"].test
    with Runtime.open(tmp_path / "bundle") as runtime:
        base = runtime.signature("plain")
        assert runtime.bundle.kind.describe(base.parts)["sequence"] == [None, None]
        assert np.abs(STEP * base.parts["delta"]).max() > 0.05
        accuracy = float((runtime.predict(test.images, base).argmax(1) == test.labels).mean())
        assert accuracy == pytest.approx(bundle.training["test_accuracy"]["plain"], abs=0.01)
        labels = np.array(runtime.labels(base))[test.labels[:60]]
        outcome = runtime.fit(test.images[:60], labels, base, steps=20)
        assert outcome.after.loss <= outcome.before.loss


def test_what_layers_chose_is_recorded_over_time(tmp_path) -> None:
    """ξ at up to 50 times and at the end, for the figure of a task's history; nothing where it is fixed."""
    recipe = read_recipe(
        "digits", {"steps": "60", "network.layers": "2", "batch": "8", "threads": "1", "network.bn_directions": "0"}
    )
    datasets = load_tasks(recipe.tasks, recipe.data, root=None)
    bundle = train(recipe, datasets, checkpoint=tmp_path / "state")
    steps, usage = read_record(bundle.training, "edges", (2, 4))
    assert (steps[0], steps[-1], len(steps)) == (0, 60, 51)
    np.testing.assert_allclose(usage.sum(-1), 1, atol=4 / 255)
    start = IsometricNetwork(bundle.spec, (10,) * 4, generator=torch.Generator().manual_seed(0)).xi().detach()[3]
    for time, expected in ((0, start), (-1, mixing(bundle.signatures["edges"].parts))):
        np.testing.assert_allclose(usage[time], expected, atol=0.6 / 255)
    bundle.write(tmp_path / "bundle")
    assert isoform_here("figure", tmp_path / "bundle", "--view", "history", "-o", tmp_path / "h.svg").returncode == 0
    assert (tmp_path / "h.svg").read_text().count("layer ") >= 2
    fixed = dataclasses.replace(recipe, steps=2, mixture=MixtureTable(signature="cyclic"))
    assert "record" not in train(fixed, datasets, checkpoint=tmp_path / "other").training
