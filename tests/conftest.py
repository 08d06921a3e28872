"""What tests share: small bundles, made once per run by the real stages, and the folder of shared data sets."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from once import made_once
from support import ROOT, TINY, isoform

from isoform.runtime.arrays import Array
from isoform.runtime.runtime import Runtime

# One process for each processor is enough: threads of torch that wait for each other on processors that others use take fifty times as long.
# Processes that pytest starts, xdist's and tests' own, read it before they import anything.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault(
    "GOMP_SPINCOUNT", "1000"
)  # as ``isoform train`` sets it, for the few tests that train with two threads

# A busy machine is no defect of ours: hypothesis must not fail a test for being slow.
settings.register_profile("isoform", deadline=None)
settings.load_profile("isoform")


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers on loopback are asked directly, whatever proxy this machine uses."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Plans are stored where no user's are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ISOFORM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data sets beside the repository; tests that need it are skipped without it."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the shared data sets are not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small bundle of the four digit domains, trained by the command line, not compiled. Do not change it."""

    def train(folder: Path) -> None:
        isoform("train", "digits", "-o", folder / "bundle", *TINY)

    return made_once(tmp_path_factory, "trained", train) / "bundle"


@pytest.fixture(scope="session")
def compiling(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the same bundle, compiled, and what the command said: ``stdout`` and ``stderr``. Do not change it."""

    def compile_copy(folder: Path) -> None:
        shutil.copytree(trained, folder / "bundle")
        result = isoform("compile", folder / "bundle", "--max-drop", "100")
        (folder / "stdout").write_text(result.stdout)
        (folder / "stderr").write_text(result.stderr)

    return made_once(tmp_path_factory, "compiled", compile_copy)


@pytest.fixture(scope="session")
def compiled(compiling: Path) -> Path:
    """The compiled bundle. Do not change it; ``bundle_copy`` is for that."""
    return compiling / "bundle"


@pytest.fixture
def bundle_copy(compiled: Path, tmp_path: Path) -> Path:
    """A compiled bundle that a test may damage."""
    return Path(shutil.copytree(compiled, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def runtime(compiled: Path) -> Iterator[Runtime]:
    """An open runtime over the small bundle."""
    with Runtime.open(compiled) as runtime:
        yield runtime


@pytest.fixture(scope="session")
def samples() -> tuple[Array, Array]:
    """256 real digits and their labels: shapes (256, 1, 32, 32) and (256,)."""
    from isoform.train.data.formats.digits import digits

    images, labels = digits()
    return images[:256], labels[:256]
