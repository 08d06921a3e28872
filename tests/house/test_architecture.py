"""The house: who may import whom, what ships, and that the guards can fail."""

import ast
import collections
import importlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support import ROOT, checked_in

STAGES = ("runtime", "server", "train", "compile")
FORBIDDEN = ("torch", "onnx", "sklearn", "scipy", "matplotlib", "flask")


def modules(stage: str) -> list[str]:
    """Every module of a stage, by its real name."""
    found = sorted((ROOT / stage).rglob("*.py"))
    names = [
        ".".join(("isoform", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__") for path in found
    ]
    assert len(names) > 5
    return names


def run_without(missing: tuple[str, ...], code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process that cannot import some packages."""
    block = f"import sys\nfor name in {missing!r}: sys.modules[name] = None\n"
    return subprocess.run([sys.executable, "-c", block + code], capture_output=True, text=True, check=False)


def test_the_runtime_needs_no_torch() -> None:
    """Every module of the runtime can be imported where torch, onnx, scikit-learn and flask are not installed."""
    code = "import importlib\n" + "\n".join(f"importlib.import_module({name!r})" for name in modules("runtime"))
    result = run_without(FORBIDDEN, code + "\nprint('done')")
    assert result.stdout == "done\n", result.stderr


def test_the_server_needs_no_torch() -> None:
    """Every module of the server can be imported where torch and onnx are not installed."""
    code = "import importlib\n" + "\n".join(f"importlib.import_module({name!r})" for name in modules("server"))
    result = run_without(FORBIDDEN[:4], code + "\nprint('done')")
    assert result.stdout == "done\n", result.stderr


def test_that_guard_can_fail() -> None:
    """The same check on a stage that does need torch fails, so the check is not blind."""
    result = run_without(FORBIDDEN, "import importlib; importlib.import_module('isoform.train.kinds.mixture.network')")
    assert result.returncode == 1
    assert "import of torch halted" in result.stderr


def test_predict_and_inspect_run_without_torch(compiled, tmp_path) -> None:
    """The command line predicts with and inspects a real bundle in a process where torch cannot be imported; training there fails, and
    its flags can be read.
    """
    import numpy as np
    from PIL import Image

    Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / "a.png")
    start = "from isoform.runtime.cli import main; raise SystemExit(main("
    for words in (
        ["predict", str(compiled), str(tmp_path / "a.png"), "--task", "plain"],
        ["inspect", str(compiled), "--json"],
    ):
        result = run_without(FORBIDDEN, f"{start}{words!r}))")
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith("{")
    result = run_without(FORBIDDEN, f"{start}['train', 'digits', '-o', {str(tmp_path / 'b')!r}]))")
    assert result.returncode == 2
    assert "pip install 'isoform[train]'" in result.stderr
    result = run_without(FORBIDDEN, f"{start}['train', '--help']))")
    assert "--network.layers VALUE" in result.stdout, result.stderr


def test_public_names() -> None:
    """``__all__`` of every module is there, without repetition, and every name in it exists and has a docstring."""
    documented = 0
    for stage in STAGES:
        for name in modules(stage):
            module = importlib.import_module(name)
            assert module.__doc__, name
            public = getattr(module, "__all__", [])
            assert len(set(public)) == len(public), name
            for entry in public:
                value = getattr(module, entry)
                if callable(value) and not str(value).startswith(("numpy.ndarray", "typing.")):
                    assert value.__doc__, f"{name}.{entry}"
                    documented += 1
    assert documented > 80


def test_public_functions_say_what_they_raise_and_return() -> None:
    """Every public function with arguments of substance has sections for them, or says it all in one sentence."""
    checked = 0
    for stage in STAGES:
        for path in sorted((ROOT / stage).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for node in [
                node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
            ]:
                text = ast.get_docstring(node) or ""
                raises = {
                    n.exc.func.id
                    for n in ast.walk(node)
                    if isinstance(n, ast.Raise) and isinstance(n.exc, ast.Call) and isinstance(n.exc.func, ast.Name)
                }
                checked += 1
                for error in raises & {
                    "InputError",
                    "SignatureError",
                    "BundleError",
                    "DataError",
                    "RecipeError",
                    "CompileError",
                    "CheckpointError",
                }:
                    assert error in text or "IsoformError" in text or "Raises:" in text, (
                        f"{path.name}: {node.name} raises {error} and does not say so"
                    )
    assert checked > 100


def test_files_have_one_idea() -> None:
    """No file of the four stages is longer than 400 lines, the page's included."""
    for stage in STAGES:
        for path in (ROOT / stage).rglob("*"):
            if path.suffix in (".py", ".js", ".html", ".css"):
                assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path


def test_folders_can_be_taken_in_at_a_glance() -> None:
    """No folder has more than 14 files."""
    counted = collections.Counter(Path(name).parent for name in checked_in() if Path(name).parts[0] != "docs")
    assert {str(folder): count for folder, count in counted.items() if count > 14} == {}


@pytest.fixture
def tree(tmp_path) -> Path:
    """A copy of the checked-in tree, to plant mistakes in."""
    for name in checked_in():
        if not name.startswith("docs/images"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def contracts(tree: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter on a tree, as if it were installed."""
    package = tree / "link" / "isoform"
    package.mkdir(parents=True, exist_ok=True)
    for stage in STAGES:
        if not (package / stage).exists():
            (package / stage).symlink_to(tree / stage)
    code = (
        "import sys; sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]; sys.path.insert(0, 'link');"
        "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    )
    return subprocess.run([sys.executable, "-c", code], cwd=tree, capture_output=True, text=True, check=False)


PLANTS = {
    "runtime/kinds/mixture/fold.py": "def planted():\n    import torch\n",
    "runtime/planted.py": '"""A module that nobody placed."""\n',
    "server/protocol/request.py": "import isoform.train.loop\n",
    "train/loop.py": "import isoform.compile.kinds.mixture.graph\n",
    "train/checkpoint.py": "import isoform.train.schedule\n",
    "train/cli.py": "def planted():\n    import isoform.train.kinds.mixture.recipe\n",
    "compile/report.py": "import isoform.train.kinds.mixture.network\n",
    "compile/build.py": "import isoform.server.app\n",
    "runtime/formats/signature.py": "import isoform.runtime.engines.onnx.per_signature\n",
    "train/kinds/mixture/objectives.py": "import isoform.train.loop\n",
}


def test_contracts_hold_and_each_can_fail(tree) -> None:
    """import-linter passes on the tree, and reports every planted import, torch inside a runtime function included."""
    result = contracts(tree)
    assert result.returncode == 0, result.stdout
    for name, planted in PLANTS.items():
        path = tree / name
        before = path.read_text(encoding="utf-8") if path.exists() else None
        path.write_text((before or "") + "\n" + planted, encoding="utf-8")
        result = contracts(tree)
        assert result.returncode == 1, f"{name}: {result.stdout}"
        assert "BROKEN" in result.stdout
        path.unlink() if before is None else path.write_text(before, encoding="utf-8")


def test_bare_stage_names_are_banned(tree) -> None:
    """ruff refuses ``from train.loop import train``, which would load a second copy."""
    (tree / "server" / "planted.py").write_text(
        '"""Planted."""\n\nfrom train.loop import train\n\n__all__ = ["train"]\n'
    )
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "server/planted.py"]
    result = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    assert "TID251" in result.stdout


def test_the_wheel_holds_the_tree(tree) -> None:
    """Every module, recipe and marker of the four stages, and the page, is in the wheel, and nothing else is."""
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "out", "."]
    result = subprocess.run(
        command, cwd=tree, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONWARNINGS": "ignore"}
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (wheel,) = (tree / "out").glob("*.whl")
    held = {name.removeprefix("isoform/") for name in zipfile.ZipFile(wheel).namelist() if name.startswith("isoform/")}
    wanted = {
        path.relative_to(ROOT).as_posix()
        for stage in STAGES
        for path in (ROOT / stage).rglob("*")
        if path.suffix in (".py", ".toml", ".typed", ".html", ".css", ".js", ".svg", ".cu")
        and "__pycache__" not in path.parts
    }
    assert len(wanted) > 40
    assert held == wanted
