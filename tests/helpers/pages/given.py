"""Helpers for tests of the page with samples that are given: small networks for them, and what the page asked and showed."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from browser import sent, shown
from playwright.sync_api import Page, Request, expect
from serving import serving
from support import SMALL, make_bundle

from isoform.compile.build import compile_bundle
from isoform.runtime.arrays import Array, softmax
from isoform.runtime.formats.signature import Signature
from isoform.runtime.inputs import Reading
from isoform.runtime.runtime import Runtime
from isoform.train.data.samples import Dataset, Split

TASK = "first"


class Given:
    """A served bundle of random numbers, and the runtime over the same bundle."""

    def __init__(self, url: str, runtime: Runtime, shape: tuple[int, int, int]) -> None:
        self.url, self.runtime, self.shape = url, runtime, shape

    def probabilities(self, x: Array) -> Array:
        """The runtime's own answers: shape (n, classes)."""
        return softmax(self.runtime.predict(x, self.runtime.signature(TASK)))

    def labels(self, x: Array) -> list[str]:
        """The runtime's own labels."""
        return [self.runtime.labels(self.runtime.signature(TASK))[i] for i in self.probabilities(x).argmax(1)]


@contextlib.contextmanager
def given(
    folder: Path, shape: tuple[int, int, int], kernel: tuple[int, int], reading: Reading, *, mean: float = 0.0, std: float = 1.0
) -> Iterator[Given]:  # fmt: skip
    """Serve a compiled bundle of two tasks whose networks take samples of a shape that are read in some way."""
    spec = dataclasses.replace(
        SMALL, input_shape=shape, adapter_kernel=kernel, mean=(mean,) * shape[0], std=(std,) * shape[0]
    )
    bundle = dataclasses.replace(make_bundle(spec, tasks=(TASK, "second")), reading=reading)
    (folder / "bundle").mkdir()
    bundle.write(folder / "bundle")
    rng = np.random.default_rng(3)
    split = Split(images=rng.normal(mean, std, (6, *shape)).astype(np.float32), labels=np.arange(6) % 3)
    data = {name: Dataset(train=split, test=split, classes=("c0", "c1", "c2")) for name in bundle.signatures}
    compile_bundle(folder / "bundle", datasets=data, max_drop_points=100)
    with (
        Runtime.open(folder / "bundle") as runtime,
        serving(folder / "bundle", "--open", "--store", folder / "s.db") as server,
    ):
        yield Given(server.url, runtime, shape)


def asking(page: Page) -> list[Request]:
    """The requests for predictions of the first task, from now on."""
    asked: list[Request] = []
    page.on("request", lambda r: asked.append(r) if r.url.endswith(f"/{TASK}/infer") else None)
    return asked


def check_answers(page: Page, served: Given, asked: list[Request], count: int) -> Array:
    """Every given sample, and the chosen one at length, is answered as the runtime answers what was sent; returns that, shape (n, …)."""
    expect(page.locator(".samples .said small")).to_have_count(count)
    expect(page.locator(".samples")).to_have_attribute("aria-busy", "false")
    expect(page.locator(".bars")).to_have_attribute("aria-busy", "false")
    sizes = [sent(request, served.shape) for request in asked]
    x = next(samples for samples in reversed(sizes) if len(samples) == count)
    said = [text.split()[0] for text in page.locator(".samples .said").all_inner_texts()]
    assert said == served.labels(x)
    chosen = int(page.locator(".samples input:checked").input_value())
    wanted = served.probabilities(x[chosen : chosen + 1])[0]
    assert np.allclose(shown(page), wanted, atol=1e-5)
    assert page.locator(".verdict strong").inner_text() == said[chosen]
    return x


def teach_and_undo(page: Page, served: Given, x: Array, user: str, *, many: str) -> None:
    """Teach the first two given samples: answers are the runtime's with what was learned; undone, what they were.

    ``x`` is all given samples, shape (n, …), and ``many`` what the page calls them.
    """
    before = shown(page)
    page.locator("#teach .keep-back").uncheck()
    for at, label in enumerate(("c2", "c0")):
        page.locator(".samples input").nth(at).check()
        page.locator("#teach .label").select_option(label)
        page.locator("#teach .keep").click()
    page.locator(".samples input").first.check()
    page.locator("#teach .name").fill(user)
    page.locator("#teach .teach").click()
    expect(page.locator(".outcome")).to_contain_text("Revision 1: ", timeout=60_000)
    expect(page.locator(".results data").nth(1)).to_have_text(re.compile("[0-2] of 2"))
    expect(page.locator("#draw .whose")).to_contain_text(f"{user}’s network, revision 1")
    expect(page.locator(".history li")).to_contain_text(f"1 learned from labelled {many}, ")
    taught = Signature.decode(page.request.get(f"{served.url}/v1/models/{TASK}/signatures/{user}/file").body())
    wanted = softmax(served.runtime.predict(x, taught))
    labels = served.runtime.labels(taught)
    expect(page.locator(".samples .said")).to_contain_text([labels[i] for i in wanted.argmax(1)])
    expect(page.locator(".bars")).to_have_attribute("aria-busy", "false")
    assert np.allclose(shown(page), wanted[0], atol=1e-5)
    assert not np.allclose(shown(page), before, atol=1e-5)
    page.locator(".undo").click()
    expect(page.locator("#draw .whose")).to_contain_text(f"the base network of {TASK}; {user} has none yet")
    expect(page.locator(".bars")).to_have_attribute("aria-busy", "false")
    assert shown(page) == before


def check_tour(page: Page, served: Given, x: Array) -> None:
    """Below, every task's own network answers the chosen sample, shape (1, …)."""
    page.locator("#tour").scroll_into_view_if_needed()
    expect(page.locator(".grid b")).to_have_count(2)
    expect(page.locator(".title")).to_have_text("What every task says")
    wanted = []
    for task in (TASK, "second"):
        signature = served.runtime.signature(task)
        wanted.append(served.runtime.labels(signature)[int(served.runtime.predict(x, signature).argmax())])
    assert page.locator(".grid b").all_inner_texts() == wanted
