"""A network that has learned enough to be led astray: digits, one domain, a few seconds of training."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from once import made_once
from support import isoform

from isoform.runtime import Runtime

RECIPE = """
steps = 160
batch = 64
threads = 1
[network]
layers = 3
[tasks.plain]
data = "digits"
"""


@pytest.fixture(scope="session")
def digits_runtime(tmp_path_factory) -> Iterator[Runtime]:
    """An open runtime with one task, plain."""

    def make(folder: Path) -> None:
        (folder / "recipe.toml").write_text(RECIPE)
        isoform("train", folder / "recipe.toml", "-o", folder / "bundle")
        isoform("compile", folder / "bundle", "--max-drop", "100")

    with Runtime.open(made_once(tmp_path_factory, "adapt", make) / "bundle") as runtime:
        yield runtime


@pytest.fixture
def runtime(digits_runtime: Runtime) -> Runtime:
    """The same, by the name that tests here know it by."""
    return digits_runtime


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs the network runs in one process of xdist: a second one would wait for it, half a minute."""
    for item in items:
        if "digits_runtime" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("adapt"))
