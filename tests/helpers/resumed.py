"""A training run, and the same one killed and resumed: they must end in the same bundle."""

from pathlib import Path

import pytest

from isoform.runtime.formats.bundle import Bundle
from isoform.train.loop import train

__all__ = ["whole_and_resumed"]


def whole_and_resumed(recipe, datasets, folder: Path, *, killed_at: int) -> Bundle:
    """Train both ways, compare templates, signatures and records, and return the bundle; killed after step ``killed_at``."""

    def die(report) -> None:
        if report.step == killed_at:
            raise KeyboardInterrupt

    whole = train(recipe, datasets, checkpoint=folder / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(recipe, datasets, checkpoint=folder / "state", checkpoint_seconds=0, progress=die)
    resumed = train(recipe, datasets, checkpoint=folder / "state")
    assert resumed.digest == whole.digest
    assert dict(resumed.signatures) == dict(whole.signatures)
    assert resumed.training == whole.training
    return whole
