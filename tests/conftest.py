"""What tests share: small bundles, made once per run by the real stages, and the folder of shared data sets."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from support import ROOT, TINY, isoform

from isoform.runtime.arrays import Array
from isoform.runtime.runtime import Runtime

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
    path = tmp_path_factory.mktemp("trained") / "bundle"
    isoform("train", "digits", "-o", path, *TINY)
    return path


@pytest.fixture(scope="session")
def compiled(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same bundle, compiled. Do not change it; ``bundle_copy`` is for that."""
    path = tmp_path_factory.mktemp("compiled") / "bundle"
    shutil.copytree(trained, path)
    isoform("compile", path, "--max-drop", "100")
    return path


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
    from isoform.train.data.digits import digits

    images, labels = digits()
    return images[:256], labels[:256]
