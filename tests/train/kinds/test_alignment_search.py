"""Hypermodules and the search of MUIR: what is generated, how the judge decides, who is challenged, and what is cleared."""

import pytest
import torch

from isoform.train.kinds.alignment.hypermodules import Hypermodules
from isoform.train.kinds.alignment.search import Search, unused_modules


def made(count=12, *, context=3, block=4, search=None) -> Hypermodules:
    """Hypermodules with contexts that differ."""
    search = search or Search(challengers=2)
    modules = Hypermodules(
        torch.ones(count), context=context, block=block, challenged=search.challenged(count), challengers=search.challengers,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    with torch.no_grad():
        modules.contexts.copy_(torch.rand(count, context, generator=torch.Generator().manual_seed(1)))
    return modules


def adam(modules: Hypermodules) -> torch.optim.Optimizer:
    """One optimiser for everything, with a step behind it."""
    optimizer = torch.optim.Adam(modules.parameters(), lr=1e-2)
    modules.blocks().square().sum().backward()
    modules.scores.grad = torch.ones_like(modules.scores)
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


def plainly(modules: Hypermodules) -> torch.Tensor:
    """Equations 5 and 8, location by location."""
    found = []
    for place in range(len(modules.alignment)):
        context = modules.contexts[place]
        if place in modules.places.tolist():
            row = modules.places.tolist().index(place)
            share = torch.softmax(modules.scores[row], dim=0)
            parts = zip(share, modules.candidates[row].tolist(), strict=True)
            found.append(sum(weight * (context @ modules.tensors[module]) for weight, module in parts))
        else:
            found.append(context @ modules.tensors[modules.alignment[place]])
    return torch.stack(found)


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_blocks_are_those_of_the_equations(share) -> None:
    """With and without challengers, and their gradients."""
    search = Search(share=share, challengers=2, alpha=0.5)
    modules = made(search=search)
    assert torch.allclose(modules.blocks(), plainly(modules), atol=1e-6)
    torch.manual_seed(0)
    search.challenge(modules, adam(modules))
    with torch.no_grad():
        modules.scores.add_(torch.rand_like(modules.scores))
    target = torch.rand(12, 4)
    assert torch.allclose(modules.blocks(), plainly(modules), atol=1e-6)
    for name, parameter in modules.named_parameters():
        ours, theirs = (
            torch.autograd.grad((blocks - target).square().sum(), parameter)[0]
            for blocks in (modules.blocks(), plainly(modules))
        )
        assert torch.allclose(ours, theirs, atol=1e-5), name


def test_variance_at_the_start() -> None:
    """A block's numbers have the deviation that its layer asks for, whatever the length of the context."""
    for context in (1, 4):
        modules = Hypermodules(
            torch.full((400,), 0.25), context=context, block=256, challenged=0, challengers=1,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        assert modules.blocks().std().item() == pytest.approx(0.25, rel=0.02)


def test_challengers_are_drawn_in_proportion_to_use() -> None:
    """With three quarters of the locations at one hypermodule, so are three quarters of the challengers; no others without reactivation."""
    search = Search(challengers=4, reactivation=0)
    modules = made(400, search=search)
    modules.alignment[:300] = 7
    torch.manual_seed(0)
    search.challenge(modules, adam(modules))
    challengers = modules.candidates[:, 1:]
    assert (challengers == 7).float().mean().item() == pytest.approx(0.75, abs=0.05)
    assert torch.equal(modules.candidates[:, 0], modules.alignment[modules.places])
    assert len(modules.places.unique()) == 200
    assert not torch.isin(challengers, unused_modules(modules)).any()


def test_the_share_of_challengers() -> None:
    """α is what all challengers of a location have together; without it all candidates have the same."""
    for alpha, champion in ((0.5, 0.5), (0.2, 0.8), (None, 1 / 3)):
        search = Search(challengers=2, alpha=alpha)
        modules = made(search=search)
        search.challenge(modules, adam(modules))
        assert torch.softmax(modules.scores, 1)[:, 0].tolist() == pytest.approx([champion] * 6)


def test_what_the_optimiser_forgets() -> None:
    """All of the scores, the rows of hypermodules that are active again, and nothing else."""
    search = Search(challengers=2, reactivation=1)
    modules = made(search=search)
    modules.alignment.copy_(torch.tensor([0] * 6 + [1] * 6))
    optimizer = adam(modules)
    before, moments = modules.tensors.detach().clone(), optimizer.state[modules.tensors]["exp_avg"]
    moments.fill_(1.0)
    contexts = optimizer.state[modules.contexts]["exp_avg"].clone()
    torch.manual_seed(0)
    search.challenge(modules, optimizer)
    revived = sorted(set(modules.candidates[:, 1:].flatten().tolist()))
    assert revived
    assert min(revived) >= 2
    for module in range(12):
        changed = module in revived
        assert torch.equal(modules.tensors[module], before[module]) != changed
        assert moments[module].unique().tolist() == [0.0 if changed else 1.0]
    assert modules.scores not in optimizer.state
    assert torch.equal(optimizer.state[modules.contexts]["exp_avg"], contexts)


def test_the_judge() -> None:
    """The largest probability wins, duplicates count together, the champion wins a tie, and who was not challenged stays."""
    search = Search(share=0.5, challengers=2)
    modules = made(6, search=search)
    search.challenge(modules, adam(modules))
    modules.places.copy_(torch.tensor([0, 2, 4]))
    modules.candidates.copy_(torch.tensor([[0, 1, 3], [2, 5, 5], [4, 1, 3]]))
    with torch.no_grad():
        modules.scores.copy_(torch.tensor([[0.0, 1.0, 0.5], [0.5, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    search.settle(modules)
    assert modules.alignment.tolist() == [1, 1, 5, 3, 4, 5]
    assert not modules.challenging
    assert torch.allclose(modules.blocks(), plainly(modules), atol=1e-6)


def test_a_random_choice() -> None:
    """The control chooses each candidate equally often, whatever the scores."""
    search = Search(challengers=1, choice="random")
    modules = made(2000, context=1, block=1, search=search)
    torch.manual_seed(0)
    search.challenge(modules, adam(modules))
    modules.candidates[:, 1] = 3
    with torch.no_grad():
        modules.scores[:, 0] = 100.0
    search.settle(modules)
    assert (modules.alignment == 3).float().mean().item() == pytest.approx(0.25, abs=0.03)
