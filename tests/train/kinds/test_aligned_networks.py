"""Modules of different architectures under one set of hypermodules: what they compute, what is trained, and what a bundle keeps of them."""

import copy

import numpy as np
import pytest
import torch
from aligned import aligned, datasets, shuffled
from strangers import stranger
from torch import nn

from isoform.compile.build import compile_bundle
from isoform.runtime import Runtime
from isoform.runtime.bodies.tasks import graphs_of
from isoform.runtime.errors import SpecError, UsageError
from isoform.runtime.kinds.alignment.sizes import account
from isoform.runtime.learn.loss import cross_entropy
from isoform.server.app import create_app
from isoform.server.service.settings import Settings
from isoform.server.store.store import Store
from isoform.train.kinds.alignment.align import align
from isoform.train.kinds.alignment.bundling import bundle_from_networks, stored
from isoform.train.kinds.alignment.network import Subject
from isoform.train.modules import wrap


@pytest.mark.parametrize("context", [0, 1, 3])
def test_at_first_they_are_the_modules(context) -> None:
    """Every block is a piece of a module's own weight, whatever the size of contexts."""
    networks, samples, subjects = aligned(context=context)
    for place, (task, subject) in enumerate(subjects.items()):
        x = samples[task](5)
        with torch.no_grad():
            assert networks(x, place) == pytest.approx(subject.module(x), abs=1e-5), task


def test_fresh_blocks_have_the_variance_of_he() -> None:
    """2 / fan-in for dense layers and convolutions, 1 / hidden for recurrent ones, as in the authors' code."""
    networks, _, _ = aligned(initial="fresh", context=4)
    made = dict(zip(networks.tasks, networks.weights(), strict=True))
    conv, recurrent = made["residual"]["conv4.weight"], made["recurrent"]["lstm.weight_hh_l1"]
    assert conv.detach().std().item() == pytest.approx((2 / 72) ** 0.5, rel=0.15)
    assert recurrent.detach().std().item() == pytest.approx((1 / 16) ** 0.5, rel=0.15)


def test_only_what_blocks_divide_is_aligned() -> None:
    """First layers, grouped convolutions, biases, BN and logits layers stay a module's own; named weights may hang over the edges."""
    networks, _, _ = aligned()
    names = {task: [*cuts] for task, cuts in zip(networks.tasks, networks.cuts, strict=True)}
    assert names["residual"] == ["conv3.weight", "conv4.weight"]
    assert "fc.weight" not in names["recurrent"] + names["attention"]
    assert "lstm.weight_hh_l2" in names["recurrent"]
    trained = {id(parameter) for parameter in networks.own_parameters()}
    module = networks.networks[0]
    assert id(module.conv1.weight) in trained
    assert id(module.conv3.weight) not in trained
    named, samples, subjects = aligned(tasks=("residual",), aligned=["conv1.weight", "conv3.weight"])
    assert [*named.cuts[0]] == ["conv1.weight", "conv3.weight"]  # three inputs in blocks of four
    x = samples["residual"](4)
    with torch.no_grad():
        assert named(x, 0) == pytest.approx(subjects["residual"].module(x), abs=1e-5)


def test_gradients_reach_everything_that_is_trained() -> None:
    """Of a loss of all tasks: hypermodules in use, contexts, and the modules' own."""
    networks, samples, _ = aligned()
    shuffled(networks)
    weights = networks.weights()
    loss = sum(
        networks.run(place, samples[task](4), weights[place]).square().sum()
        for place, task in enumerate(networks.tasks)
    )
    loss.backward()
    used = networks.hypermodules.alignment.unique()
    assert networks.hypermodules.tensors.grad[used].abs().amax((1, 2)).gt(0).all()
    assert networks.hypermodules.contexts.grad.abs().sum(1).gt(0).all()
    residual = networks.networks[0]
    assert residual.conv1.weight.grad.abs().sum() > 0
    assert residual.conv3.weight.grad is None


@pytest.mark.parametrize("context", [0, 2])
def test_a_bundle_is_the_networks(context, tmp_path) -> None:
    """Engine, numpy twin and torch agree for every task; compiled, a folded network has as many numbers as the module."""
    networks, samples, subjects = aligned(context=context)
    bundle = bundle_from_networks(shuffled(networks), training={})
    bundle.write(tmp_path / "bundle")
    report = compile_bundle(tmp_path / "bundle", datasets=datasets(networks, samples))
    with Runtime.open(tmp_path / "bundle") as runtime, Runtime.open(tmp_path / "bundle", engine="reference") as twin:
        for place, task in enumerate(networks.tasks):
            x, signature = samples[task](7, 3), runtime.signature(task)
            with torch.no_grad():
                expected = networks(x, place).numpy()
            assert np.abs(runtime.predict(x.numpy(), signature) - expected).max() <= 1e-4, task
            assert np.abs(twin.predict(x.numpy(), signature) - expected).max() <= 1e-4, task
            resolved = runtime.bundle.resolve(signature)
            folded = runtime.bundle.graph(resolved)[1].fold(resolved.parts)
            body = networks.outlines[place].body
            own = {name: value.numel() for name, value in subjects[task].module.named_parameters()}
            assert sum(folded[name].size for name in body.weights) <= sum(own.values())
            assert report["tasks"][task]["numbers_over_plain"] <= 1
    assert (bundle.spec.hypermodules > 0) == (context > 0)


def test_generic_modules_are_those_that_save_numbers() -> None:
    """Of blocks of 16×16 and contexts of 4 those used more than 4 times (MUIR, section 4.2); without contexts each block once."""
    rng = np.random.default_rng(0)
    tensors, contexts = rng.normal(size=(9, 4, 256)).astype("f"), rng.normal(size=(30, 4)).astype("f")
    alignment = np.array([8] * 4 + [3] * 5 + [1] * 20 + [0])
    held = stored(tensors, contexts, alignment)
    assert held.hypermodules.shape == (2, 4, 256)
    assert np.array_equal(held.hypermodules, tensors[[1, 3]])
    assert held.blocks.shape == (5, 256)
    assert set(held.alignment[:4]) == {2, 3, 4, 5}
    assert held.blocks[0] == pytest.approx(contexts[0] @ tensors[8], abs=1e-6)
    assert (held.alignment[4:9] == 1).all()
    assert (held.alignment[9:29] == 0).all()
    plain = stored(tensors[:, :1], contexts[:, :0], alignment)
    assert len(plain.hypermodules) == 0
    assert plain.blocks.shape == (4, 256)
    assert len({*plain.alignment[:4]}) == 1


def test_who_keeps_what() -> None:
    """Numbers that a task has for itself, and that it shares; together never more than of networks of their own."""
    networks, _, _ = aligned()
    before = bundle_from_networks(networks, training={})
    alone = account(before.spec, {task: base.parts for task, base in before.signatures.items()})
    assert all(told["shared_numbers"] == told["shared_locations"] == 0 for told in alone.values())
    assert all(told["exclusive_numbers"] == told["plain_numbers"] for told in alone.values())
    after = bundle_from_networks(shuffled(networks), training={})
    shared = account(after.spec, {task: base.parts for task, base in after.signatures.items()})
    assert all(told["shared_locations"] > 0 for told in shared.values())
    assert shared["residual"]["numbers_over_plain"] < 1


def test_users_learn_contexts(tmp_path) -> None:
    """The device's gradients are torch's, of contexts and all other parts; a user's file has no alignment, and each task its own learner."""
    networks, samples, _ = aligned()
    bundle_from_networks(shuffled(networks), training={}).write(tmp_path / "bundle")
    compile_bundle(tmp_path / "bundle", datasets=datasets(networks, samples))
    with Runtime.open(tmp_path / "bundle") as runtime:
        for place, task in enumerate(networks.tasks):
            x, count = samples[task](16, 3), len(networks.classes[task])
            labels = torch.arange(16) % count
            networks.zero_grad()
            loss = nn.functional.cross_entropy(networks(x, place), labels)
            loss.backward()
            learner, base = runtime.learner, runtime.signature(task)
            point = learner.point(base)
            value, found = learner.gradient(
                point, x.numpy(), lambda some, labels=labels: cross_entropy(some, labels.numpy())
            )
            assert value == pytest.approx(loss.item(), rel=1e-4)
            rows = networks.hypermodules.contexts.grad[networks.slices()[place]].numpy()
            generic = point.parts["alignment"] < runtime.bundle.spec.hypermodules
            assert np.abs(found["contexts"] - rows[generic]).max() <= 1e-4 * np.abs(rows).max()
            assert learner.normalises(task) == (task == "residual")
            outcome = runtime.fit(x.numpy(), labels.numpy(), start=base, steps=5)
            assert "alignment" not in outcome.signature.parts or outcome.signature is base
            assert outcome.parts == ("contexts", "private", *(("bn",) if task == "residual" else ()), "head")
    assert not [name for name in point.parts if name.startswith("bn.")]  # the transformer has none


def test_a_task_with_bn_adapts_beside_one_without(tmp_path) -> None:
    """Methods of BN run where there is BN, and are refused with a reason where there is none."""
    networks, samples, _ = aligned()
    bundle_from_networks(networks, training={}).write(tmp_path / "bundle")
    compile_bundle(tmp_path / "bundle", datasets=datasets(networks, samples))
    with Runtime.open(tmp_path / "bundle") as runtime:
        moved = 2 * samples["residual"](64, 3).numpy() + 1
        adapted = runtime.adapter(runtime.signature("residual"), method="ema")
        adapted(moved)
        assert "bn.statistics" in adapted.signature.parts
        with pytest.raises(UsageError, match="has no BN"):
            runtime.adapter(runtime.signature("recurrent"), method="ema")
        with pytest.raises(UsageError, match="has no BN"):
            runtime.fit(
                samples["recurrent"](8).numpy(), np.arange(8) % 2, start=runtime.signature("recurrent"), statistics=True
            )


def test_names_of_tasks_with_dots(tmp_path) -> None:
    """The graphs of a task whose name ends as another's are not the other's."""
    made = {task: stranger("residual") for task in ("b", "a.b")}
    subjects = {
        task: Subject(module=module, example=samples(3), classes=classes)
        for task, (module, samples, classes) in made.items()
    }
    aligned_two = align(subjects, block=(4, 8)).networks
    bundle_from_networks(aligned_two, training={}).write(tmp_path / "bundle")
    compile_bundle(
        tmp_path / "bundle", datasets=datasets(aligned_two, {task: samples for task, (_, samples, _) in made.items()})
    )
    with Runtime.open(tmp_path / "bundle") as runtime:
        graphs = runtime.bundle.require_compiled().graphs
        names = {task: {*graphs_of(graphs, task)} for task in made}
        assert names["b"] == names["a.b"] >= {"network", "forward", "backward", "segment000", "segment003"}
        for task, (module, samples, _) in made.items():
            x = samples(16, 4)
            with torch.no_grad():
                twin = copy.deepcopy(module).train()
                for layer in twin.modules():
                    if isinstance(layer, nn.BatchNorm2d):
                        layer.momentum = 1.0
                twin(x)
            found = runtime.learner.statistics(runtime.learner.point(runtime.signature(task)), x.numpy())
            expected = torch.cat([layer.running_mean for layer in (twin.bn1, twin.bn2, twin.bn3)])
            assert found[0] == pytest.approx(expected.numpy(), abs=1e-4), task


def test_what_was_frozen_stays_frozen() -> None:
    """A parameter that its owner does not train is not trained here either."""
    module, samples, classes = stranger("residual")
    module.conv1.requires_grad_(False)
    networks = align({"a": Subject(module=module, example=samples(3), classes=classes)}, block=(4, 8))
    trained = {id(parameter) for parameter in networks.trained()}
    own = networks.networks.networks[0]
    assert id(own.conv1.weight) not in trained
    assert id(own.bn1.weight) in trained


def test_align_trains_and_keeps_what_it_says(tmp_path) -> None:
    """In a loop of one's own: generations, a bundle once it is settled, and errors that name the task."""
    torch.manual_seed(0)
    subjects = {}
    for task in ("residual", "recurrent"):
        module, samples, classes = stranger(task)
        subjects[task] = (Subject(module=module, example=samples(3), classes=classes), samples)
    networks = align({task: subject for task, (subject, _) in subjects.items()}, block=(4, 8), context=1)
    networks.train()
    optimizer = torch.optim.Adam(networks.trained(), lr=1e-3)
    before = len(networks.networks.hypermodules.alignment.unique())
    for step in range(6):
        if step % 2 == 0:
            networks.generation(optimizer)
        optimizer.zero_grad()
        logits = networks({task: samples(8, step) for task, (_, samples) in subjects.items()})
        sum(nn.functional.cross_entropy(some, torch.arange(8) % some.shape[1]) for some in logits.values()).backward()
        optimizer.step()
    with pytest.raises(UsageError, match=r"call settle\(\) first"):
        networks.bundle()
    networks.settle()
    assert len(networks.networks.hypermodules.alignment.unique()) < before
    assert {*networks.bundle().signatures} == {"residual", "recurrent"}
    with pytest.raises(UsageError, match="no task 'x'"):
        networks({"x": torch.zeros(1)})


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"aligned": ["bn1.weight"]},
            SpecError,
            "task 'residual': aligned names 'bn1.weight', but weights of two axes",
        ),
        ({"aligned": ["nothing"]}, SpecError, "aligned names 'nothing'"),
        ({"aligned": ["conv3.weight"], "private": ["conv3.weight"]}, SpecError, "'conv3.weight' is private as well"),
        ({"aligned": ["fc.weight"]}, SpecError, "no weight has inputs and outputs that blocks divide"),
    ],
)
def test_what_cannot_be_aligned(changes, error, message) -> None:
    """One line that names the task and the way out."""
    with pytest.raises(error, match=message):
        aligned(tasks=("residual",), **changes)


def test_wrap_says_where_alignment_is() -> None:
    """``wrap`` is of one module."""
    module, samples, classes = stranger("residual")
    with pytest.raises(UsageError, match="kinds.alignment.align"):
        wrap(module, samples(2), classes=classes, kind="alignment")
    with pytest.raises(UsageError, match="no task to align"):
        align({})
    with pytest.raises(UsageError, match="out of range"):
        align({"a": Subject(module=module, example=samples(2), classes=classes)}, share=0)


def test_they_are_served_beside_each_other(tmp_path) -> None:
    """Pictures, windows and texts from one server; a user's signature over HTTP, learned there."""
    networks, samples, _ = aligned()
    bundle_from_networks(shuffled(networks), training={}).write(tmp_path / "bundle")
    compile_bundle(tmp_path / "bundle", datasets=datasets(networks, samples))
    with Runtime.open(tmp_path / "bundle") as runtime, Store(tmp_path / "s.db") as store:
        client = create_app(runtime, store=store, settings=Settings()).test_client()
        for task in networks.tasks:
            takes, x = runtime.input_of(task), samples[task](4, 9).numpy()
            tensor = {
                "name": takes.name, "datatype": "INT64" if takes.what == "tokens" else "FP32", "shape": list(x.shape), "data": x.ravel().tolist(),
            }  # fmt: skip
            answer = client.post(f"/v2/models/{task}/infer", json={"inputs": [tensor]}).json
            found = np.array(next(entry["data"] for entry in answer["outputs"] if entry["name"] == "logits")).reshape(
                4, -1
            )
            assert np.abs(found - runtime.predict(x, runtime.signature(task))).max() <= 1e-5, task
            names = networks.classes[task]
            label = {"name": "label", "datatype": "BYTES", "shape": [4], "data": [names[row % 2] for row in range(4)]}
            job = client.post(
                f"/v1/models/{task}/signatures/ann/personalize", json={"inputs": [tensor, label]}, headers={"Prefer": "wait=60"}
            ).json  # fmt: skip
            assert job["state"] == "done", job
            assert client.get(f"/v1/models/{task}/templates").status_code == 200
