"""Frames without content teach nothing, good ones do; classes are matched by name; what is worse than its start is not kept."""

import dataclasses
import functools
import io
import logging
import math

import numpy as np
import pytest
from PIL import Image, ImageDraw
from support import isoform

from isoform.runtime import BundleError
from isoform.runtime.adapt.methods.domains import Domains
from isoform.runtime.adapt.methods.shrinkage import Shrinkage
from isoform.runtime.adapt.registry import METHODS
from isoform.runtime.learn.content import CHANCE, Content, least_structure, structure
from isoform.runtime.learn.source import Source
from isoform.runtime.samples.pictures.images import resize
from isoform.train.data.domains import transform
from isoform.train.data.formats.digits import digits

pytestmark = pytest.mark.trust

SHAPE = (64, 1, 32, 32)


def photographed(frame: np.ndarray, kind: str) -> np.ndarray:
    """A frame as a file of a camera: 8 bits, PNG or JPEG, read again at 32×32."""
    file = io.BytesIO()
    Image.fromarray(np.clip(255 * frame, 0, 255).astype(np.uint8)).save(file, kind)
    return resize(np.asarray(Image.open(file), dtype=np.float32)[None] / 255, 32, 32)


@functools.cache
def blanks() -> dict[str, np.ndarray]:
    """64 frames of every kind that tells nothing."""
    rng = np.random.default_rng(0)
    frames = {
        "black": np.zeros(SHAPE), "white": np.ones(SHAPE), "grey": np.full(SHAPE, 0.3), "huge": np.full(SHAPE, 1e30),
        "flicker": np.broadcast_to(rng.uniform(size=(64, 1, 1, 1)), SHAPE), "uniform": rng.uniform(size=SHAPE),
        "gaussian": rng.normal(0.5, 0.5, SHAPE), "sensor noise on black": np.clip(rng.normal(0, 0.02, SHAPE), 0, 1),
        "one grey level": np.round(rng.uniform(0, 0.7, SHAPE)) / 255, "hot pixels": rng.uniform(size=SHAPE) < 0.002,
        "resized noise": np.stack([resize(rng.uniform(size=(1, 100, 100)).astype(np.float32), 32, 32) for _ in range(64)]),
    }  # fmt: skip
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    turns = rng.uniform(0, 2 * np.pi, 64)
    for kind, side, file in (("PNG of 28 pixels", 28, "PNG"), ("JPEG of 48", 48, "JPEG"), ("JPEG of 32", 32, "JPEG")):
        frames[kind] = np.stack([photographed(rng.normal(0.02, 0.02, (side, side)), file) for _ in range(64)])
    frames["vignette"] = np.stack(
        [photographed(0.95 - 0.15 * (x * x + y * y) + rng.normal(0, 0.02, (64, 64)), "JPEG") for _ in range(64)]
    )
    frames["gradients"] = np.stack([photographed(0.5 + 0.2 * (np.cos(a) * x + np.sin(a) * y), "PNG") for a in turns])
    frames["wide lens"] = np.stack(
        [
            photographed(0.9 * np.cos(np.arctan(0.7 * np.hypot(x, y))) ** 4 + rng.normal(0, 0.01, (64, 64)), "PNG")
            for _ in range(64)
        ]
    )
    frames["spot"] = np.stack(
        [
            photographed(0.4 + 0.3 * np.exp(-((x - a) ** 2 + (y - b) ** 2) / 0.8), "PNG")
            for a, b in rng.uniform(-1, 1, (64, 2))
        ]
    )
    frames["rows"] = np.broadcast_to(rng.uniform(size=(64, 1, 32, 1)), SHAPE)
    return {kind: np.ascontiguousarray(x, dtype=np.float32) for kind, x in frames.items()}


@pytest.fixture(scope="module")
def data():
    """256 digits and their labels, shuffled."""
    images, labels = digits()
    order = np.random.default_rng(0).permutation(len(labels))[:256]
    return np.array(images[order]), labels[order]


@pytest.fixture
def source(runtime) -> Source:
    """The facts of task plain."""
    name, parts = "source/plain.safetensors", runtime.bundle.resolve(runtime.signature("plain")).parts
    return Source.decode(runtime.bundle.require_compiled().read(name), parts=parts, name=name)


@pytest.mark.parametrize("kind", blanks())
def test_a_blank_frame_has_no_content(kind, source) -> None:
    """Constant frames, noise of any strength, also clipped, rounded, resized or stored, vignettes, spots, gradients, stripes: but for a few, by chance."""
    assert Content(source.structure, pixels=1024)(blanks()[kind]).mean() <= (0.1 if kind == "vignette" else 0.02)


def test_good_samples_have_content(data, source) -> None:
    """Fog, faint, dark, bright, blurred or noisy digits, on uneven ground, of a single class, all but a few; in 8-bit steps too."""
    x, rng = data[0], np.random.default_rng(0)
    ground = np.linspace(-0.4, 0.4, 32) * rng.uniform(-1, 1, (len(x), 1, 1, 1))
    good = {
        "faint": 0.02 * x + 0.5, "rounded": np.round(255 * (0.04 * x + 0.5)) / 255, "dark": 0.01 * x, "one class": x[data[1] == 1],
        "bright": np.clip(x + 0.7, 0, 1), "noisy": np.clip(x + rng.normal(0, 0.5, x.shape), 0, 1),
        "hot pixels": np.where(rng.uniform(size=x.shape) < 0.2, 1, x), "1e6 as large": 1e6 * x,
        "uneven ground": 0.3 * x + ground + ground.transpose(0, 1, 3, 2) ** 2 + 0.4,
        **{domain: transform(x, domain=domain) for domain in ("low_contrast", "blurred", "edges", "inverted")},
    }  # fmt: skip
    for kind, samples in good.items():
        assert Content(source.structure, pixels=1024)(samples.astype(np.float32)).mean() >= 0.95, kind


def test_samples_that_are_alike_have_content(source) -> None:
    """Printed signs in one place, class after class, and one tone of a machine: nothing sets a sample apart from the next but noise."""
    rng = np.random.default_rng(0)
    signs = np.zeros((200, 1, 32, 32), dtype=np.float32)
    for row in range(200):
        sign = Image.new("L", (32, 32))
        ImageDraw.Draw(sign).text((8, 4), str(row // 20), fill=255, font_size=24)
        signs[row] = rng.uniform(0.6, 1) * np.asarray(sign, dtype=np.float32) / 255 + 0.05 * rng.normal(size=(32, 32))
    tones = np.sin(0.04 * np.pi * np.arange(512) + rng.uniform(0, 6, (100, 1, 1, 1))) + 0.1 * rng.normal(
        size=(100, 1, 1, 512)
    )
    for structure_of_source, x in ((source.structure, signs), (None, tones.astype(np.float32))):
        content = Content(structure_of_source, pixels=x[0].size)
        assert content(x).mean() >= 0.99
        content.forget()
        assert np.mean([content(sample[None]) for sample in x]) >= 0.99


@pytest.mark.parametrize("batch", [1, 16])
def test_printed_digits_are_learned_from(batch, runtime) -> None:
    """Ten faded digits, seen again and again with a camera's noise, class after class: right where the base guesses."""
    images, labels = digits()
    rng, printed = np.random.default_rng(0), [images[np.flatnonzero(labels == digit)[3]] for digit in range(10)]
    shown = np.sort(rng.integers(0, 10, 200))
    x = 0.25 * np.stack([printed[digit] for digit in shown]) * rng.uniform(0.8, 1, (200, 1, 1, 1)) + 0.4
    x = (x + 0.01 * rng.normal(size=x.shape)).astype(np.float32)
    adapter = runtime.adapter(runtime.signature("plain"))
    found = np.concatenate([adapter(x[first : first + batch]) for first in range(0, 200, batch)]).argmax(axis=1)
    assert (runtime.predict(x, runtime.signature("plain")).argmax(axis=1) == shown).mean() < 0.3
    assert (found == shown).mean() > 0.7  # one at a time, the first digit is over before it is known


def test_a_folder_of_copies_is_adapted_to(runtime, data) -> None:
    """Every picture three times: copies teach nothing, but are no reason to refuse."""
    base, x = runtime.signature("plain"), transform(data[0][:40], domain="low_contrast")
    adapted = runtime.adapt(np.repeat(x, 3, axis=0), base)
    assert adapted.digest != base.digest
    found = runtime.predict(x, adapted).argmax(axis=1) == data[1][:40]
    assert found.sum() > (runtime.predict(x, base).argmax(axis=1) == data[1][:40]).sum()


def test_a_repeated_frame_counts_once(data) -> None:
    """Within a batch and from one call to the next; another frame, and the first after forgetting, are new."""
    x, content = data[0], Content(None, pixels=1024)
    assert content(x[[0, 0, 1, 0]]).tolist() == [True, False, True, False]
    assert content(x[[1]]).tolist() == [False]
    assert content(x[[2]]).tolist() == [True]
    content.forget()
    assert content(x[[2]]).tolist() == [True]


def test_what_the_base_was_trained_on_is_content() -> None:
    """A class of empty frames, or samples without neighbours that are alike: then noise is what is to be learned."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(200, 1, 16, 16)).astype(np.float32)
    labels = np.repeat([0, 1], 100)
    assert least_structure(np.cumsum(np.cumsum(noise, axis=3), axis=2), labels) > CHANCE
    least = least_structure(noise, labels)
    assert Content(least, pixels=256)(noise).mean() > 0.9
    assert not Content(least, pixels=256)(np.zeros_like(noise)).any()
    empty = np.where(labels[:, None, None, None] == 0, 0, noise).astype(np.float32)
    assert least_structure(empty, labels) == -math.inf
    assert Content(-math.inf, pixels=256)(empty[:1]).all()
    for few, classes in ((digits()[0][:200], 10), (np.repeat(digits()[0][:100], 20, axis=0), 100)):
        odd = np.array(few)
        odd[0] = 0  # a damaged picture, or two of a hundred classes, are no class of their own
        odd[20] = blanks()["uniform"][0]
        assert least_structure(odd, np.arange(len(odd)) % classes) > CHANCE
    assert Content(None, pixels=64)(noise[:, :, :8, :8]).all()  # too small to tell noise apart, and nothing is known
    assert Content(None, pixels=1)(noise[:, :, :1, :1]).all()  # nothing can be told of single numbers
    assert np.allclose(structure(noise[..., :1]), structure(noise[..., :1].transpose(0, 1, 3, 2)), atol=1e-5)


@pytest.mark.parametrize("kind", ["black", "white", "uniform", "sensor noise on black", "JPEG of 32", "rows"])
def test_blank_frames_do_no_harm(kind, runtime, data) -> None:
    """After 64 of them, one at a time, the signature is the start's, and the next samples are as right as by the base."""
    (x, labels), base = data, runtime.signature("plain")
    adapter = runtime.adapter(base)
    answers = np.concatenate([adapter(frame[None]) for frame in blanks()[kind]])
    assert np.allclose(answers, runtime.predict(blanks()[kind], base), atol=1e-3)
    assert adapter.signature.digest == base.digest
    assert adapter.last.blank == 1
    found = np.concatenate([adapter(sample[None]) for sample in x[:60]])
    right = [(logits.argmax(axis=1) == labels[:60]).sum() for logits in (found, runtime.predict(x[:60], base))]
    assert right[0] >= right[1] - 1


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_that_is_half_blank(method, runtime, data) -> None:
    """Every method moves as if only the good half had come, and answers it alike; blank frames are answered too."""
    x = transform(data[0][:32], domain="low_contrast")
    mixed = np.concatenate([np.stack(pair) for pair in zip(x, blanks()["black"], strict=False)])
    alone, together = (runtime.adapter(runtime.signature("plain"), method=method) for _ in range(2))
    for part in (slice(0, 16), slice(16, 32)):
        answers, expected = together(mixed[2 * part.start : 2 * part.stop]), alone(x[part])
        assert answers.shape == (32, 10)
        assert np.allclose(answers[::2], expected, atol=1e-3)
    assert together.last.blank == 16
    for name, array in alone.signature.parts.items():
        assert np.allclose(together.signature.parts[name], array, atol=1e-5), name


def test_back_to_a_known_domain_one_at_a_time(runtime, data) -> None:
    """Faded digits, then plain ones, one at a time: noticed within four samples, and as right as by the base; and faded ones again."""
    (x, labels), base = data, runtime.signature("plain")
    adapter, faded = runtime.adapter(base), transform(x, domain="low_contrast")
    first = np.concatenate([adapter(sample[None]) for sample in faded[:40]])
    found = np.concatenate([adapter(sample[None]) for sample in x[40:80]])
    assert "new domain" in [record.event for record in adapter.history[40:44]]
    right = [(logits.argmax(axis=1) == labels[40:80]).sum() for logits in (found, runtime.predict(x[40:80], base))]
    assert right[0] >= right[1] - 4
    again = np.concatenate([adapter(sample[None]) for sample in faded[80:120]])
    assert "new domain" in [record.event for record in adapter.history[80:84]]
    assert (again.argmax(axis=1) == labels[80:120]).sum() >= (first.argmax(axis=1) == labels[:40]).sum() - 4


def test_domains_by_their_moments() -> None:
    """Numbers whose domain is known: no false alarm in 500 samples, a known domain within a few, an unknown one within eight or so."""
    rng, spread, domains = np.random.default_rng(0), np.ones((2, 6)), Domains()
    moments, count = np.zeros((2, 6)), 0.0

    def meet(centre: float, samples: int) -> list[int]:
        nonlocal moments, count
        jumps = []
        for place in range(samples):
            rows = rng.normal(centre, 1, (2, 1, 6))
            begun = domains.judge(rows, spread, moments, count=count, kappa=0.0)
            if begun is not None:
                jumps.append(place)
                moments, count = begun.moments.copy(), begun.count
            count = min(256.0, count + 1)
            moments = moments + (rows[:, 0] - moments) / count
        return jumps

    assert meet(0, 500) == []
    assert len(meet(5, 200)) == 1
    back = meet(0, 200)
    assert len(back) == 1
    assert back[0] < 3
    again = meet(5, 1)
    assert again == [0]
    assert count > 8  # goes on where that domain was left
    assert meet(5, 50) == []


def test_classes_are_matched_by_name(runtime, data) -> None:
    """The same network with its logits layer in another order moves to the same statistics, faded class after faded class."""
    (x, labels), base = data, runtime.signature("plain")
    order, parts = np.random.default_rng(1).permutation(10), runtime.bundle.resolve(base).parts
    names = tuple(runtime.labels(base)[place] for place in order)
    head = {name: parts[name][order] for name in ("logits.weight", "logits.bias")}
    other = base.replace(parts={**base.parts, **head}, labels=names)
    x = transform(x[np.argsort(labels, kind="stable")], domain="low_contrast")
    mine, theirs = (runtime.adapter(start) for start in (base, other))
    for start in range(0, len(x), 16):
        expected = mine(x[start : start + 16])
        assert np.allclose(theirs(x[start : start + 16]), expected[:, order], atol=0.02)
    statistics = [adapter.signature.parts["bn.statistics"] for adapter in (mine, theirs)]
    assert np.allclose(*statistics, atol=1e-3)


def test_classes_that_the_base_does_not_have(source, runtime, data) -> None:
    """Nothing is believed of them; if none is known, no class's moments are used at all."""
    own = tuple(map(str, range(10)))
    some = source.with_labels(own, ("7", "new", "2"))
    assert np.array_equal(some.classes[[0, 2]], source.classes[[7, 2]])
    assert not some.classes[1].any()
    assert len(source.with_labels(own, [f"other {name}" for name in own]).classes) == 0
    base = runtime.signature("plain")
    adapter = runtime.adapter(base.replace(parts=base.parts, labels=("7", *(f"other {name}" for name in range(9)))))
    assert np.isfinite(adapter(data[0][:64])).all()
    context, x = adapter._method.context, transform(data[0][data[1] == 7][:16], domain="low_contrast")

    def belief(facts: Source, label: int) -> float:
        """How much of the shift is believed after a batch of one class."""
        stream = Shrinkage(context.learner, facts, context.start.parts["bn.statistics"], classes=3)
        stream.update(context.start, x, np.tile(np.eye(3)[label], (16, 1)))
        return stream.belief

    unknown = dataclasses.replace(source, classes=source.classes[:0])
    assert belief(some, 1) == pytest.approx(belief(unknown, 1), rel=1e-6)
    assert abs(belief(some, 0) - belief(unknown, 0)) > 0.01


def test_structure_is_kept_with_the_source(source, runtime) -> None:
    """It survives a round trip, may be absent in an older file, and is refused where it is no number."""
    parts = runtime.bundle.resolve(runtime.signature("plain")).parts
    assert source.structure > CHANCE
    for value in (source.structure, None, -math.inf):
        file = dataclasses.replace(source, structure=value).encode()
        assert Source.decode(file, parts=parts, name="x").structure == value
    with pytest.raises(BundleError, match="structure that is not a number"):
        Source.decode(dataclasses.replace(source, structure=math.nan).encode(), parts=parts, name="x")


def test_adapt_returns_its_start_rather_than_worse(runtime, data, caplog) -> None:
    """Nothing but blank frames, or statistics of the one sample that was left for the last batch: the start, and a warning."""
    base, start = runtime.signature("plain"), logging.getLogger("isoform.runtime").name
    with caplog.at_level(logging.WARNING, logger=start):
        assert runtime.adapt(np.zeros((20, 1, 32, 32), dtype=np.float32), base).digest == base.digest
        assert "none of the 20 samples carries content" in caplog.text
        caplog.clear()
        for kind in ("JPEG of 48", "PNG of 28 pixels", "vignette", "wide lens", "spot", "gradients", "rows"):
            x = np.concatenate([blanks()[kind][:20], data[0][:4]])
            assert runtime.adapt(x, base).digest == base.digest, kind
            assert "of the 24 samples carry content" in caplog.text
            caplog.clear()
        assert runtime.adapt(data[0][:129], base, method="batch").digest == base.digest
        assert "its BN statistics fit the samples worse" in caplog.text
        caplog.clear()
        adapter = runtime.adapter(base, method="t3a")
        adapter(data[0][:64])
        weight = adapter.signature.parts["logits.weight"].copy()
        weight[3] *= 50
        one = {"logits.weight": weight, "logits.bias": np.full(10, -100.0) * (np.arange(10) != 3)}
        adapter._signature = adapter.signature.replace(parts=one)
        assert "it finds 1.1 classes" in adapter.refusal(data[0][:64])


def test_the_command_refuses_what_is_worse(runtime, data, tmp_path) -> None:
    """A folder of black pictures, and a signature that its samples say is worse: exit code 2, one line, no file; half blank is said."""
    (tmp_path / "black").mkdir()
    for number in range(20):
        Image.new("L", (48, 48)).save(tmp_path / "black" / f"{number}.png")
    good = np.concatenate([data[0][:40], np.zeros((20, 1, 32, 32), dtype=np.float32)])
    for name, x in (("worse", data[0][:129]), ("half", good)):
        np.savez(tmp_path / f"{name}.npz", x=x)
    words = ["adapt", runtime.bundle.path, "-o", tmp_path / "x.safetensors", "--task", "plain", "--data"]
    for options, message in (
        (["black"], "none of the 20 samples carries content"),
        (["worse.npz", "--method", "batch"], "the signature is worse than its start"),
    ):
        done = isoform(*words, tmp_path / options[0], *options[1:], check=False)
        assert done.returncode == 2
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert not (tmp_path / "x.safetensors").exists()
    assert "20 without content" in isoform(*words, tmp_path / "half.npz").stderr
