"""``isoform train`` as a process: one at a time for one bundle."""

import os

import pytest
from support import TINY, isoform_here

from isoform.runtime.cli import main
from isoform.runtime.errors import UsageError
from isoform.runtime.formats import files


@pytest.mark.trust
def test_a_second_run_for_the_same_bundle_is_refused(tmp_path) -> None:
    """While one process trains a bundle, another one is refused in one line and touches nothing; afterwards it may."""
    words = ["train", "digits", "-o", tmp_path / "bundle", *TINY, "--steps", "2", "--fresh"]
    (tmp_path / "bundle.checkpoint").write_text("the other's")
    release = files.hold(tmp_path / ".bundle.lock", busy=UsageError("busy"))
    refused = isoform_here(*words)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "is being trained by another process" in refused.stderr
    assert (tmp_path / "bundle.checkpoint").read_text() == "the other's"
    release()
    assert isoform_here(*words).returncode == 0
    assert os.listdir(tmp_path) == ["bundle"]


@pytest.mark.parametrize("wrong", [["--checkpoint-seconds", "-1"], ["--network.adapter_kernel", "[5, 5]"]])
def test_a_mistake_beside_fresh_costs_no_checkpoint(wrong, tmp_path, capsys) -> None:
    """``--fresh`` discards a checkpoint only once there is nothing left to refuse."""
    (tmp_path / "bundle.checkpoint").write_text("hours of work")
    assert main(["train", "digits", "-o", str(tmp_path / "bundle"), *TINY, "--fresh", *wrong]) == 2
    assert capsys.readouterr().err.count("isoform train: ") == 1
    assert (tmp_path / "bundle.checkpoint").read_text() == "hours of work"
