"""Personalizing an allocation: a mask is searched for, held-out samples decide, and nothing is worse than the best task's mask."""

import numpy as np
import pytest
from modular import NORMED, random_bundle, samples

from isoform.compile.build import compile_bundle
from isoform.runtime import Runtime
from isoform.runtime.errors import UsageError
from isoform.runtime.learn.fits.search import Search
from isoform.train.data.samples import Dataset, Split

CLASSES = ("a", "b", "c", "d")
START = np.array([[1, 0, 0, 1, 0, 0], [0, 1, 0, 1, 0, 0]], dtype=bool)
OTHER = np.array([[0, 0, 1, 0, 0, 1], [1, 0, 0, 0, 1, 0]], dtype=bool)
TRUE = np.array([[0, 0, 1, 0, 0, 1], [0, 1, 1, 0, 0, 1]], dtype=bool)
"""The mask by which the new task's classes differ: the first layer of one task, and a second layer that no task has."""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A compiled bundle of two tasks."""
    bundle = random_bundle(NORMED, [START, OTHER], seed=4)
    path = tmp_path_factory.mktemp("search") / "bundle"
    bundle.write(path)
    halves = [Split(images=samples(NORMED, 20, seed), labels=np.arange(20) % 3) for seed in (1, 2)]
    compile_bundle(
        path,
        datasets={t: Dataset(train=halves[0], test=halves[1], classes=("c0", "c1", "c2")) for t in bundle.signatures},
    )
    return path


def labelled(runtime, count, seed):
    """Samples whose class is where their embedding under ``TRUE`` lies along one direction: four ranges of equal size."""
    x, size = samples(NORMED, count, seed), NORMED.embedding
    base = runtime.signature("task0")
    head = {"logits.weight": np.eye(size, dtype=np.float32), "logits.bias": np.zeros(size, dtype=np.float32)}
    signature = base.replace(parts={"allocation": TRUE, **head}, labels=tuple(map(str, range(size))))
    along = runtime.predict(x, signature) @ np.random.default_rng(0).normal(size=size)
    return x, np.argsort(np.argsort(along)) * 4 // count


def accuracy(runtime, signature, x, labels):
    """Percent."""
    return 100 * float((runtime.predict(x, signature).argmax(1) == labels).mean())


def test_a_mask_is_found(path) -> None:
    """It is better on other samples than a new logits layer on the best task's mask, and the file says which components it uses."""
    with Runtime.open(path) as runtime:
        x, y = labelled(runtime, 320, 7)
        test_x, test_y = labelled(runtime, 600, 8)
        outcomes = {
            parts: runtime.fit(x, [CLASSES[i] for i in y], classes=CLASSES, parts=parts)
            for parts in (("head",), ("allocation", "head"))
        }
        head, found = (outcome.signature for outcome in outcomes.values())
        mask = runtime.bundle.resolve(found).parts["allocation"]
        assert (mask != TRUE).sum() <= 1 < min((other != TRUE).sum() for other in (START, OTHER))
        assert accuracy(runtime, found, test_x, test_y) > accuracy(runtime, head, test_x, test_y) + 5
        assert outcomes[("allocation", "head")].after.loss < outcomes[("head",)].after.loss
        again = runtime.fit(x, [CLASSES[i] for i in y], classes=CLASSES)  # both are what moves by default
        assert again.signature == found


def test_what_is_not_better_is_not_kept(path) -> None:
    """Labels at random: every mask does as badly, and the result has a task's."""
    with Runtime.open(path) as runtime:
        rng = np.random.default_rng(1)
        x, y = samples(NORMED, 80, 3), rng.permutation(np.arange(80) % 4)
        found = runtime.fit(x, [CLASSES[i] for i in y], classes=CLASSES).signature
        mask = runtime.bundle.resolve(found).parts["allocation"]
        assert any(np.array_equal(mask, other) for other in (START, OTHER))


def test_one_sample_per_class(path) -> None:
    """Nothing can be held out, so no mask is searched for."""
    with Runtime.open(path) as runtime:
        x, _ = labelled(runtime, 4, 7)
        found = runtime.fit(x, list(CLASSES), classes=CLASSES).signature
        mask = runtime.bundle.resolve(found).parts["allocation"]
        assert any(np.array_equal(mask, other) for other in (START, OTHER))


def test_known_classes(path) -> None:
    """A user of a task who needs another mask: the start's logits layer scores it, and the mask alone is what the file holds."""
    with Runtime.open(path) as runtime:
        base = runtime.signature("task0")
        wanted = START.copy()
        wanted[1, 0] ^= True
        x = samples(NORMED, 120, 5)
        truth = runtime.predict(x, base.replace(parts={"allocation": wanted}, base=base.digest, labels=None)).argmax(1)
        before = accuracy(runtime, base, x, truth)
        outcome = runtime.fit(x, truth, start=base, parts=["allocation"])
        found = outcome.signature
        assert list(found.parts) == ["allocation"]
        assert len(found.encode()) < 1024
        assert accuracy(runtime, found, x, truth) > before + 3


def test_time_and_progress(path) -> None:
    """Reports count up to what they promise; without time the result is that of the first fit, or the start."""
    with Runtime.open(path) as runtime:
        x, y = labelled(runtime, 320, 7)
        labels, reports = [CLASSES[i] for i in y], []
        runtime.fit(x, labels, classes=CLASSES, steps=20, progress=reports.append)
        steps = [report.step for report in reports]
        assert steps == sorted(steps)
        assert len({report.steps for report in reports}) == 1
        assert steps[-1] <= reports[0].steps
        short = runtime.fit(x, labels, classes=CLASSES, seconds=1e-6)
        assert short.stopped == "time"
        mask = runtime.bundle.resolve(short.signature).parts["allocation"]
        assert any(np.array_equal(mask, other) for other in (START, OTHER))


def test_ctrl_c_keeps_the_fit_before(path, monkeypatch) -> None:
    """The search comes last, because it takes longest: stopping it returns the logits layer that was fitted before."""
    with Runtime.open(path) as runtime:
        x, y = labelled(runtime, 320, 7)
        labels = [CLASSES[i] for i in y]
        expected = runtime.fit(x, labels, classes=CLASSES, parts=["head"])

        def interrupted(*arguments, **names):
            raise KeyboardInterrupt

        monkeypatch.setattr(Search, "better", interrupted)
        stopped = runtime.fit(x, labels, classes=CLASSES)
        assert stopped.stopped == "ctrl-c"
        assert stopped.signature == expected.signature


def test_other_parts(path) -> None:
    """This kind has no BN."""
    with Runtime.open(path) as runtime, pytest.raises(UsageError, match="one or more of allocation, head"):
        runtime.fit(samples(NORMED, 8), np.arange(8) % 3, parts=["bn"])
