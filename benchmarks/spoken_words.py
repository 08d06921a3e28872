"""Spoken words of people held out, behind a frozen front that somebody else trained for something else: common against personal.

    python benchmarks/spoken_words.py --recordings DIR --front FILE.onnx --tensor NAME [--quick] [--json PATH] [--shots 5] [--seeds 3]

--recordings  WAV files named WORD_PERSON_NUMBER.wav, such as the Free Spoken Digit Dataset's: 6 people, 10 digits, 50 times each
--front       an ONNX file that takes pictures (n, 3, height, width), such as the text classifier in the wheel of rapidocr-onnxruntime 1.4.4
--tensor      which of its tensors is the features

A body (a convolution, BN, a logits layer: bench/own/recordings.py has the spectrograms) is trained on all people but one, on the front's
features. Then the one learns a signature from a few recordings of each word, on the device; the others of theirs are the test. The first
person is the one that the tensor was chosen on.

Rows: accuracy of the common body and of the personal one, bytes, seconds. And what a front costs: predictions of one sample for 100 users
with the front computed once, over those of 100 sessions of ONNX Runtime, each behind a run of the front.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # one thread, as the sessions have; torch reads it when it is imported

import argparse
import functools
import tempfile
from pathlib import Path

import numpy as np
import torch
from bench.harness import in_turn, machine, parser, print_table, write_json
from bench.own.recordings import Words, spoken
from torch import Tensor, nn

from isoform.compile.build import compile_bundle
from isoform.runtime import Runtime, Signature
from isoform.runtime.arrays import Array
from isoform.runtime.engines.onnx.features import Features
from isoform.runtime.engines.onnx.session import open_session, session_options
from isoform.runtime.kind import Front
from isoform.train.data.samples import Dataset, Split
from isoform.train.modules import wrap
from isoform.train.modules.checks import input_from
from isoform.train.modules.front import front_from

USERS = 100
"""Number of users that one sample is predicted for."""
COST = ("front_runs", "milliseconds", "sessions_milliseconds", "once_over_each")


def main() -> None:
    """Run everything and print the tables."""
    arguments = _arguments()
    torch.set_num_threads(1)
    words = spoken(arguments.recordings)
    people = sorted({*words.people.tolist()})
    held = people[:2] if arguments.quick else people
    figures: dict[str, object] = {**machine(), "quick": arguments.quick, "people": held, "shots": arguments.shots}
    rows = []
    with tempfile.TemporaryDirectory(prefix="isoform-spoken-") as folder:
        for number, person in enumerate(held):
            path = Path(folder) / person
            rows.append(_held_out(words, person, path, arguments, figures, chosen=not number))
            if not number:
                figures |= _cost(path, words)
    print_table(
        f"{arguments.shots} recordings of each word, means of {arguments.seeds} draws",
        ("held out", "common %", "personal %", "worst draw, points", "bytes", "seconds"), rows,
    )  # fmt: skip
    others = held[1:]
    for key in ("common", "personal"):
        figures[f"mean_{key}"] = float(np.mean([figures[f"{name}.{key}"] for name in others]))  # type: ignore[misc]
    print_table(
        f"one sample, {USERS} users",
        ("key", "value"),
        [(key, f"{figures[key]:.3g}") for key in (*COST, "mean_common", "mean_personal")],
    )
    write_json(arguments.json, figures)


def _held_out(
    words: Words, person: str, path: Path, arguments: argparse.Namespace, figures: dict[str, object], *, chosen: bool
) -> tuple[str, ...]:  # fmt: skip
    """Train without a person, and let them learn."""
    common, own = (np.flatnonzero((words.people == person) == mine) for mine in (False, True))
    dataset = Dataset(
        train=Split(images=words.x[common], labels=words.labels[common]),
        test=Split(images=words.x[own][:200], labels=words.labels[own][:200]), classes=words.classes,
    )  # fmt: skip
    torch.manual_seed(0)
    example = torch.from_numpy(words.x[:2])
    features = _features_of(arguments.front, arguments.tensor, arguments.recordings)
    body = Body(features.shape[1:], len(words.classes))
    _fit(body, features[common], words.labels[common], epochs=1 if arguments.quick else 15)
    wrapped = wrap(body.eval(), example, classes=words.classes, front=arguments.front, front_output=arguments.tensor)
    wrapped.bundle().write(path)
    compile_bundle(path, datasets={"base": dataset})
    before, after, sizes, seconds = [], [], [], []
    with Runtime.open(path) as runtime:
        base = runtime.signature("base")
        for seed in range(arguments.seeds):
            order = np.random.default_rng(seed).permutation(own)
            rows = np.concatenate(
                [order[words.labels[order] == label][: arguments.shots] for label in range(len(words.classes))]
            )
            rest = np.setdiff1d(own, rows)
            outcome = runtime.fit(features[rows], words.labels[rows], start=base)
            for scores, signature in ((before, base), (after, outcome.signature)):
                found = runtime.predict(features[rest], signature).argmax(axis=1)
                scores.append(100 * float((found == words.labels[rest]).mean()))
            sizes.append(len(outcome.signature.encode()))
            seconds.append(outcome.seconds)
    gains = np.array(after) - np.array(before)
    figures |= {
        f"{person}.common": float(np.mean(before)), f"{person}.personal": float(np.mean(after)), f"{person}.worst_points": float(gains.min()),
        f"{person}.bytes": int(np.mean(sizes)), f"{person}.seconds": float(np.mean(seconds)),
    }  # fmt: skip
    title = f"{person} (chosen on)" if chosen else person
    return (
        title, f"{np.mean(before):.1f}", f"{np.mean(after):.1f}", f"{gains.min():+.1f}", f"{np.mean(sizes):,.0f}", f"{np.mean(seconds):.1f}",
    )  # fmt: skip


class Body(nn.Module):
    """Features (n, channels, bands, frames) → logits: a convolution over all bands, BN, means of four stretches of time."""

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        channels, bands, _ = shape
        self.conv, self.bn = nn.Conv2d(channels, 48, (bands, 5)), nn.BatchNorm2d(48)
        self.head = nn.Linear(48 * 4, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Run."""
        x = torch.relu(self.bn(self.conv(x)))
        quarter = x.shape[3] // 4
        means = [x[..., place * quarter : (place + 1) * quarter].mean((2, 3)) for place in range(4)]
        logits: Tensor = self.head(torch.cat(means, dim=1))
        return logits


@functools.lru_cache(maxsize=1)
def _features_of(front: Path, tensor: str, recordings: Path) -> Array:
    words = spoken(recordings)
    example = torch.from_numpy(words.x[:2])
    takes = input_from(example, name=None, vocabulary=None, lengths=None, module=nn.Identity())
    file, some = front_from(front, takes, example, output=tensor)
    features = input_from(some, name="features", vocabulary=None, lengths=None, module=nn.Identity())
    return Features(Front(file, takes, features), threads=1).checked(words.x)


def _fit(body: nn.Module, x: Array, labels: Array, *, epochs: int) -> None:
    optimizer = torch.optim.Adam(body.parameters(), lr=2e-3, weight_decay=1e-4)
    samples, targets = torch.from_numpy(x), torch.from_numpy(labels)
    body.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(labels)).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(body(samples[rows]), targets[rows]).backward()
            optimizer.step()


def _cost(path: Path, words: Words) -> dict[str, float]:
    """Time one sample for many users: the front once, and sessions in which each user has all of the network."""
    runs, real = [], Features.checked

    def counted(self: Features, x: object) -> Array:
        if np.shape(x)[1:] == self.front.samples.largest:  # features are taken as they are
            runs.append(len(x))  # type: ignore[arg-type]
        return real(self, x)

    with Runtime.open(path) as runtime:
        base = runtime.signature("base")
        rng = np.random.default_rng(0)
        users: list[Signature] = [
            base.replace(parts={**base.parts, "logits.bias": base.parts["logits.bias"] + rng.normal(size=len(words.classes))}) for _ in range(USERS)
        ]  # fmt: skip
        front = runtime.bundle.network.front("base")
        assert front is not None
        before = open_session(front.file, session_options(1), what="the front")
        body = runtime.bundle.require_compiled().read("fast/base.onnx")
        bodies = [open_session(body, session_options(1), what="a user's network") for _ in range(USERS)]
        x, name = words.x[:1], front.samples.name

        def once() -> None:
            features = runtime.checked(x, "base")
            for user in users:
                runtime.predict(features, user)

        def each() -> None:
            for session in bodies:
                session.run(None, {"features": before.run(None, {name: x})[0]})

        Features.checked = counted  # type: ignore[method-assign]
        try:
            once()
        finally:
            Features.checked = real  # type: ignore[method-assign]
        times = in_turn({"once": once, "each": each}, seconds=5, burst=2)
    return {
        "front_runs": float(sum(runs)), "milliseconds": 1e3 * times["once"], "sessions_milliseconds": 1e3 * times["each"],
        "once_over_each": times["once"] / times["each"],
    }  # fmt: skip


def _arguments() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--recordings", type=Path, required=True, help="folder of WAV files")
    made.add_argument("--front", type=Path, required=True, help="an ONNX file")
    made.add_argument("--tensor", required=True, help="name of its tensor that is the features")
    made.add_argument(
        "--shots", type=int, default=5, help="recordings of each word that a person learns from (default: 5)"
    )
    made.add_argument("--seeds", type=int, default=3, help="draws of these recordings (default: 3)")
    return made.parse_args()


if __name__ == "__main__":
    main()
