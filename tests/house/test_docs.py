"""The documentation: its commands run, its links lead somewhere, and nothing that is there goes unmentioned."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from serving import serving
from support import ISOFORM, ROOT, checked_in

from isoform.runtime import Bundle, cli

pytestmark = [
    pytest.mark.xdist_group("docs"),
    pytest.mark.timeout(600),
]  # one quickstart for all: over a minute of CPU time
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("*/*.md")])


def blocks(page: Path, language: str) -> list[str]:
    """Fenced blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory) -> Path:
    """A folder in which the quickstart has run, with a smaller network and fewer steps."""
    folder = tmp_path_factory.mktemp("quickstart")
    command = [sys.executable, str(ROOT / "docs" / "examples" / "quickstart.py"), "-o", "quickstart"]
    command += ["--steps", "40", "--threads", "1", "--network.layers", "2", "--mixture.entropy", "20"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    (folder / "stdout").write_text(result.stdout)
    return folder


def test_the_quickstart_leaves_what_it_says(quickstart) -> None:
    """The quickstart prints one table with every step, and every file that the table names is there."""
    table = (quickstart / "stdout").read_text()
    for step in ("train", "compile", "swap", "predict", "serve", "personalize", "figures"):
        assert f"│ {step}" in table
    made = quickstart / "quickstart"
    for name in ("signatures.png", "users.png", "training.png", "domains.png", "swap.png"):
        assert name in table
        assert (made / name).stat().st_size > 5000
    assert json.loads((made / "bundle" / "compiled" / "report.json").read_text())["tasks"]
    assert len(list((made / "images").glob("*.png"))) == 4


def test_the_first_blocks_of_the_readme_run(quickstart) -> None:
    """The README's first two console blocks run: make targets exist, isoform commands succeed where the quickstart has run."""
    first, second, *_ = blocks(ROOT / "README.md", "console")
    lines = [line.removeprefix("$ ") for line in (first + second).splitlines()]
    assert 3 <= len(lines) < 15
    ran = 0
    for line in lines:
        words = shlex.split(line)
        if words[0] == "make":
            subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, check=True, capture_output=True)
        elif words[0] == "isoform":
            if words[1] == "personalize":
                words += ["--steps", "20"]  # how well it learns is another test's question, and a busy machine is slow
            result = subprocess.run([*ISOFORM, *words[1:]], cwd=quickstart, capture_output=True, text=True, check=False)
            assert result.returncode == 0, result.stderr
            ran += 1
    assert ran == 5


def test_the_python_of_the_readme_runs(quickstart, monkeypatch) -> None:
    """The README's Python blocks run as they stand, one after the other, and need nothing but the quickstart's files."""
    found = blocks(ROOT / "README.md", "python")
    assert len(found) == 2
    monkeypatch.chdir(quickstart)
    names: dict[str, object] = {}
    for code in found:
        exec(compile(code, "README.md", "exec"), names)
    assert len(names["x"]) == 100  # type: ignore[arg-type]
    assert (names["during"] != names["before"]).any()  # type: ignore[attr-defined]
    assert (quickstart / "me.safetensors").stat().st_size < 568
    kept = Bundle.load(ROOT / "docs" / "examples" / "bundle")  # which has the README's network
    assert len(kept.base("plain").keep("mixture").encode()) == 568


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_requests_of_the_readme_run(quickstart, tmp_path) -> None:
    """The README's requests are answered, and the rollback gives alice the bits of her first revision again."""
    found = next(block for block in blocks(ROOT / "README.md", "console") if "$ curl" in block)
    answers = []
    with serving(quickstart / "quickstart" / "bundle", "--open", "--store", tmp_path / "s.db") as server:
        for line in found.splitlines():
            words = shlex.split(line.removeprefix("$ ").replace("localhost:8000", server.url))
            result = subprocess.run([*words, "--silent", "--noproxy", "*"], cwd=quickstart, capture_output=True, check=True)  # fmt: skip
            answers.append(json.loads(result.stdout))
    base, first, second, after, rolled, back = answers
    assert (first["revision"], second["revision"], rolled["revision"]) == (1, 2, 3)
    assert (after["parameters"]["revision"], after["parameters"]["digest"]) == (2, second["digest"])
    assert (back["parameters"]["revision"], back["parameters"]["digest"]) == (3, first["digest"])
    assert first["digest"] not in (second["digest"], base["parameters"]["digest"])


def test_extras_come_without_isoform_from_an_index() -> None:
    """``pip install 'isoform[train]'``, as error messages say it, is true for an installed wheel or checkout: pip takes isoform from no index."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"train", "server", "figure"} <= set(extras)
    command = [sys.executable, "-m", "pip", "install", "--no-index", "--dry-run", "--no-deps", f"isoform[{','.join(extras)}]"]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "already satisfied: isoform[" in result.stdout


def test_the_python_of_own_models_runs(tmp_path, monkeypatch) -> None:
    """A network that one has is wrapped, and two that share blocks are trained, by the page's blocks as they stand."""
    import torch
    from torch import nn

    first, second = blocks(ROOT / "docs" / "own-models.md", "python")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)

    def pictures(count: int) -> torch.Tensor:
        return torch.rand(count, 1, 6, 6)

    class Reader(nn.Module):
        """Tokens to two logits."""

        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.inner, self.out = nn.Embedding(9, 16), nn.Linear(16, 16), nn.Linear(16, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(torch.relu(self.inner(self.tokens(x).mean(1))))

    def network() -> nn.Module:
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(36, 16),
            nn.BatchNorm1d(16),
            nn.ReLU(),
            nn.Linear(16, 16),
            nn.ReLU(),
            nn.Linear(16, 2),
        )

    labels = np.arange(24) % 2
    names: dict[str, object] = {
        "model": network(), "example": pictures(2), "train_x": pictures(24).numpy(), "train_y": labels, "test_x": pictures(24).numpy(),
        "test_y": labels, "x": pictures(12).numpy(), "labels": ["cat", "dog"] * 6,
    }  # fmt: skip
    exec(compile(first, "own-models.md", "exec"), names)
    assert (tmp_path / "ada.safetensors").exists()
    names["rt"].close()  # type: ignore[attr-defined]
    (tmp_path / "bundle").rename(tmp_path / "before")
    names |= {
        "torch": torch, "vision": network(), "reader": Reader(), "images": pictures(2), "tokens": torch.randint(9, (2, 5)), "animals": ["cat", "dog"],
        "photos": [pictures(2)] * 2000, "reviews": [torch.randint(9, (2, 5))] * 2000,
    }  # fmt: skip
    exec(compile(second, "own-models.md", "exec"), names)
    assert {*Bundle.load(tmp_path / "bundle").signatures} == {"photos", "reviews"}


def test_that_a_wrong_example_would_fail() -> None:
    """A false statement in a Python block would be noticed."""
    with pytest.raises(AssertionError):
        exec(compile("assert 1 == 2", "README.md", "exec"), {})


def test_links_lead_somewhere() -> None:
    """Every link to a file in any page leads to a file that is there."""
    checked = 0
    assert len(PAGES) >= 9
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
                checked += 1
    assert checked > 12


def test_modules_that_pages_name_exist() -> None:
    """Every page but the log, which tells of the past, names modules by paths that are there."""
    checked = 0
    for page in PAGES:
        if page.name != "log.md":
            for module in re.findall(
                r"`((?:train|compile|runtime|server)/[\w/]+\.py)`", page.read_text(encoding="utf-8")
            ):
                assert (ROOT / module).is_file(), f"{page.name}: {module}"
                checked += 1
    assert checked > 12


def test_every_verb_is_in_the_readme() -> None:
    """A command that the README does not mention does not exist for a newcomer."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for verb in cli.VERBS:
        assert re.search(rf"isoform {verb}\b", text), verb


def test_every_make_target_is_listed_and_few() -> None:
    """``make`` lists every target, and there are fewer than ten."""
    listed = subprocess.run(["make", "-s"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert 3 < len(targets) < 10
    assert set(targets) <= set(listed)


def test_every_error_class_is_drawn() -> None:
    """The tree in ``runtime/errors.py`` names every class, and every class is exported."""
    from isoform.runtime import errors

    classes = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert classes == {name for name in errors.__all__ if name[0].isupper()}
    assert all(name in errors.__doc__ for name in classes)
    assert all(issubclass(getattr(errors, name), errors.IsoformError) for name in classes)


def test_formats_name_every_tensor_and_field() -> None:
    """The page on formats names every tensor, every field of metadata, and every file of a bundle."""
    from isoform.runtime.formats import signature
    from isoform.runtime.kinds.mixture.kind import KIND
    from isoform.runtime.kinds.mixture.spec import NetworkSpec

    text = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    spec = NetworkSpec(input_shape=(1, 8, 8), adapter_kernel=(2, 2), layers=1, templates=1, affine="mixed")
    for name in [
        *spec.template_shapes,
        *KIND.parts,
        *signature._METADATA,
        "manifest.json",
        "report.json",
        "portable.onnx",
    ]:
        assert f"`{name}`" in text or name in text.split("```")[1], name


def test_no_machine_in_any_file() -> None:
    """No path of a developer's machine is in any tracked file."""
    names = checked_in()
    assert len(names) > 60
    for name in names:
        data = (ROOT / name).read_bytes()
        for path in (b"/ro" + b"ot/", b"/ho" + b"me/", b"/wo" + b"rk/"):
            assert path not in data, f"{name} has {path!r}"
