"""The bundle that is kept for ``make serve``: what the quickstart left, whole, and of today's formats."""

import json
import shutil
import subprocess

import numpy as np
import pytest
from support import ROOT

from isoform.runtime import Runtime
from isoform.train.data.load import load_task
from isoform.train.recipe import read_recipe

KEPT = ROOT / "docs" / "examples" / "bundle"


def test_it_is_the_quickstarts() -> None:
    """It says the recipe that the quickstart trains with."""
    kept = json.loads((KEPT / "bundle.json").read_text())["training"]["recipe"]
    assert kept == json.loads(json.dumps(read_recipe("digits", {}).to_json()))


def test_it_predicts_and_learns() -> None:
    """It opens, is right about 98 % of the test samples of its four domains, and learns a person's digits."""
    recipe = read_recipe("digits", {})
    with Runtime.open(KEPT, threads=1) as runtime:
        right = []
        for name, task in recipe.tasks.items():
            test = load_task(task, recipe.data, root=None).test
            right.append(np.mean(runtime.predict(test.images, runtime.signature(name)).argmax(1) == test.labels))
        assert np.mean(right) > 0.98
        turned = np.ascontiguousarray(test.images[:120, :, ::-1])
        before = runtime.predict(turned[40:], runtime.signature("plain")).argmax(1) == test.labels[40:120]
        own = runtime.personalize(turned[:40], test.labels[:40], steps=60)
        after = runtime.predict(turned[40:], own).argmax(1) == test.labels[40:120]
        assert after.mean() > before.mean() + 0.1


@pytest.mark.parametrize("ran", [False, True])
def test_make_serves_it_until_the_quickstart_has_run(tmp_path, ran) -> None:
    """``make serve`` serves what the quickstart has left here; where it has not run, the kept bundle. Users of one are not the other's."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    if ran:
        report = tmp_path / "quickstart" / "bundle" / "compiled" / "report.json"
        report.parent.mkdir(parents=True)
        report.touch()
    told = subprocess.run(["make", "-n", "serve"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    bundle = "quickstart/bundle" if ran else "docs/examples/bundle"
    assert f"isoform serve {bundle} " in told
    assert f"--store quickstart/{bundle.replace('/', '-')}.db" in told
