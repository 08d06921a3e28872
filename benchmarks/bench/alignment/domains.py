"""The three domains of MUIR's cross-modal experiments (section 4.2), with the data sets that are here, and what is shortened.

pictures   LeNet on CIFAR-100's subset, its 20 coarse classes: 18,000 images to train on, 2,000 to validate, 5,000 to test; batches of
           128, shifted by up to 4 pixels and mirrored. The paper has CIFAR-10. Metric: error in percent.
text       the LSTM language model on WikiText-2, its 10,000 most frequent words and <unk> (the paper has all 33,278); 20 rows of 35
           tokens per batch, the state carried on. Validated on the first 20,000 tokens of valid.txt, tested on the whole of test.txt.
           Metric: perplexity.
dna        DeepBind-256 on ARID3A in K562 (ENCODE), the first of ten in alphabetical order: 7,674 bound sequences and their
           dinucleotide shuffles (Altschul and Erikson 1985) to train on, 852 to validate, the 500 and 500 of file B to test; batches of
           128. The paper has affinities of CRISPR. Metric: 100 - AUC in percent.
"""

from __future__ import annotations

import collections
import functools
import gzip
import lzma
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from bench.adapting.shifted import photographs
from isoform.runtime.arrays import Array
from isoform.train.kinds.alignment.architectures import DeepBind, LanguageModel, LeNet
from isoform.train.kinds.alignment.network import Subject

__all__ = ["DOMAINS", "Domain", "domain"]

Call = Callable[..., Any]
"""A module with its weights: samples and options → what the module returns."""
ROWS = 256
"""Samples per forward pass without gradients."""


class Domain(Protocol):
    """A task."""

    metric: str

    def subject(self) -> Subject:
        """Return a new module with random weights, from torch's global generator."""

    def loss(self, step: int, call: Call) -> Tensor:
        """Return the loss of a step's batch; draws from torch's global generator. Steps come in order."""

    def validated(self, call: Call) -> float:
        """Return the mean loss on validation samples."""

    def tested(self, call: Call) -> float:
        """Return the metric on test samples; lower is better."""


class Pictures:
    """LeNet on photographs."""

    metric = "error, %"

    def __init__(self, data: Path, *, few: bool) -> None:
        dataset = photographs(data, coarse=True)
        assert dataset.test is not None
        self._classes = dataset.classes
        order = np.random.default_rng(301).permutation(len(dataset.train.labels))[: 4000 if few else None]
        held, kept = order[: len(order) // 10], order[len(order) // 10 :]
        mean, std = (
            value.reshape(1, 3, 1, 1)
            for value in (dataset.train.images.mean((0, 2, 3)), dataset.train.images.std((0, 2, 3)))
        )

        def halves(images: Array, labels: Array) -> tuple[Tensor, Tensor]:
            return torch.from_numpy((images - mean) / std), torch.from_numpy(labels)

        self._train, self._held = (
            halves(dataset.train.images[rows], dataset.train.labels[rows]) for rows in (kept, held)
        )
        self._test = halves(dataset.test.images, dataset.test.labels)

    def subject(self) -> Subject:
        """As ``Domain.subject``."""
        return _subject(LeNet(len(self._classes)), torch.zeros(2, 3, 32, 32), self._classes)

    def loss(self, step: int, call: Call) -> Tensor:  # noqa: ARG002
        """As ``Domain.loss``."""
        images, labels = self._train
        rows = torch.randint(len(labels), (128,))
        padded = F.pad(images[rows], (4,) * 4, mode="reflect")
        down, right = torch.randint(9, (2,)).tolist()
        cut = padded[:, :, down : down + 32, right : right + 32]
        mirrored = torch.where((torch.rand(128) < 0.5)[:, None, None, None], cut.flip(3), cut)
        return _cross_entropy(call(mirrored), labels[rows])

    def validated(self, call: Call) -> float:
        """As ``Domain.validated``."""
        return float(_cross_entropy(_logits(call, self._held[0]), self._held[1]))

    def tested(self, call: Call) -> float:
        """As ``Domain.tested``: the error in percent."""
        return 100 * float((_logits(call, self._test[0]).cpu().argmax(1) != self._test[1]).float().mean())


class Text:
    """The language model on WikiText-2."""

    metric = "perplexity"
    WORDS, LENGTH, BATCH = 10_000, 35, 20

    def __init__(self, data: Path, *, few: bool) -> None:
        texts = [_words(data / "wikitext-2" / f"{half}.txt.xz") for half in ("train", "valid", "test")]
        if few:
            texts = [text[:20_000] for text in texts]
        common = [word for word, _ in collections.Counter(texts[0]).most_common(self.WORDS)]
        ids = {word: number for number, word in enumerate(dict.fromkeys(["<unk>", *common]))}
        self._classes = tuple(ids)
        train, held, test = (torch.tensor([ids.get(word, 0) for word in text]) for text in texts)
        self._train, self._held, self._test = _rows(train, self.BATCH), _rows(held[:20_000], 10), _rows(test, 10)
        self._state: Any = None

    def subject(self) -> Subject:
        """As ``Domain.subject``."""
        self._state = None
        return _subject(
            LanguageModel(len(self._classes)), torch.zeros(2, self.LENGTH, dtype=torch.int64), self._classes
        )

    def loss(self, step: int, call: Call) -> Tensor:
        """As ``Domain.loss``: of every token, the state carried on from the batch before."""
        length = self.LENGTH
        place = step % ((self._train.shape[1] - 1) // length)
        if not place:
            self._state = None
        start = place * length
        logits, state = call(self._train[:, start : start + length], every=True, state=self._state)
        self._state = tuple(part.detach() for part in state)
        return _cross_entropy(logits.flatten(0, 1), self._train[:, start + 1 : start + length + 1].flatten())

    def validated(self, call: Call) -> float:
        """As ``Domain.validated``."""
        return self._mean(call, self._held)

    def tested(self, call: Call) -> float:
        """As ``Domain.tested``: the perplexity."""
        return float(np.exp(self._mean(call, self._test)))

    def _mean(self, call: Call, tokens: Tensor) -> float:
        state, total, count = None, 0.0, 0
        for start in range(0, tokens.shape[1] - 1, self.LENGTH):
            x, y = tokens[:, start : start + self.LENGTH], tokens[:, start + 1 : start + self.LENGTH + 1]
            logits, state = call(x[:, : y.shape[1]], every=True, state=state)
            total += float(_cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum"))
            count += y.numel()
        return total / count


class Dna:
    """DeepBind on what a protein binds to."""

    metric = "100 - AUC, %"
    NAME = "ARID3A_K562_ARID3A_(sc-8821)_Stanford"

    def __init__(self, data: Path, *, few: bool) -> None:
        folder, rng = data / "deepbind-encode", np.random.default_rng(301)
        bound = [letters for letters, _ in _sequences(folder / f"{self.NAME}_AC.seq.gz")]
        bound = [bound[place] for place in rng.permutation(len(bound))][: 600 if few else None]
        both = np.stack([*bound, *(shuffled(letters, rng) for letters in bound)])
        x, y = torch.from_numpy(both), torch.arange(2).flip(0).repeat_interleave(len(bound))
        held = torch.arange(len(bound)) < len(bound) // 10
        held = torch.cat([held, held])
        self._train, self._held = (x[~held], y[~held]), (x[held], y[held])
        letters, labels = zip(*_sequences(folder / f"{self.NAME}_B.seq.gz"), strict=True)
        self._test = torch.from_numpy(np.stack(letters)), np.array(labels)

    def subject(self) -> Subject:
        """As ``Domain.subject``."""
        return _subject(DeepBind(2), torch.zeros(2, self._train[0].shape[1], dtype=torch.int64), ("free", "bound"))

    def loss(self, step: int, call: Call) -> Tensor:  # noqa: ARG002
        """As ``Domain.loss``."""
        rows = torch.randint(len(self._train[1]), (128,))
        return _cross_entropy(call(self._train[0][rows]), self._train[1][rows])

    def validated(self, call: Call) -> float:
        """As ``Domain.validated``."""
        return float(_cross_entropy(_logits(call, self._held[0]), self._held[1]))

    def tested(self, call: Call) -> float:
        """As ``Domain.tested``: 100 less the area under the curve of true over false positives, in percent."""
        logits = _logits(call, self._test[0]).cpu()
        scores, bound = (logits[:, 1] - logits[:, 0]).numpy(), self._test[1] == 1
        return 100 * (1 - float(roc_auc_score(bound, scores)))


DOMAINS: dict[str, type[Any]] = {"pictures": Pictures, "text": Text, "dna": Dna}
"""Name → its class."""


@functools.lru_cache(maxsize=8)
def domain(name: str, data: str, few: bool) -> Domain:
    """Load a domain, once per process; ``few`` for a small part of it."""
    found: Domain = DOMAINS[name](Path(data), few=few)
    return found


def shuffled(letters: Array, rng: np.random.Generator) -> Array:
    """Return a random sequence with the same pairs of neighbours: a random walk that uses every pair once (Altschul and Erikson 1985)."""
    following: list[list[int]] = [letters[1:][letters[:-1] == letter].tolist() for letter in range(5)]
    last = int(letters[-1])
    while True:
        final = [int(rng.choice(after)) if after and letter != last else -1 for letter, after in enumerate(following)]
        if all(_reaches(letter, final, last) for letter, after in enumerate(following) if after and letter != last):
            break
    for letter, after in enumerate(following):
        if final[letter] >= 0:
            after.remove(final[letter])
        rng.shuffle(after)
        if final[letter] >= 0:
            after.append(final[letter])
    found, used = [int(letters[0])], [0] * 5
    for _ in range(len(letters) - 1):
        here = found[-1]
        found.append(following[here][used[here]])
        used[here] += 1
    return np.array(found)


def _reaches(letter: int, final: Sequence[int], last: int) -> bool:
    for _ in range(5):
        if letter == last:
            return True
        letter = final[letter]
        if letter < 0:
            return False
    return letter == last


def _subject(module: Any, example: Tensor, classes: Sequence[str]) -> Subject:
    assert isinstance(module, nn.Module)
    return Subject(module=module.eval(), example=example, classes=classes, aligned=module.aligned)  # type: ignore[arg-type]


def _cross_entropy(logits: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """Return the cross-entropy, on the device of the logits."""
    return F.cross_entropy(logits, labels.to(logits.device), **options)


def _logits(call: Call, x: Tensor) -> Tensor:
    return torch.cat([call(part) for part in x.split(ROWS)])


def _words(path: Path) -> list[str]:
    with lzma.open(path, "rt", encoding="utf-8") as file:
        return [word for line in file for word in [*line.split(), "<eos>"]]


def _rows(tokens: Tensor, count: int) -> Tensor:
    """Cut a text into rows that are read beside each other, shape (count, length)."""
    return tokens[: len(tokens) // count * count].reshape(count, -1)


def _sequences(path: Path) -> list[tuple[Array, int]]:
    """Return letters as 0 to 4, and whether they are bound."""
    ids = {letter: number for number, letter in enumerate("ACGTN")}
    with gzip.open(path, "rt") as file:
        fields = [line.split() for line in file][1:]
    return [(np.array([ids[letter] for letter in row[2]]), int(row[3])) for row in fields]
