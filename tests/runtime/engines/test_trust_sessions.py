"""ONNX Runtime: which version, which options, and that it neither writes nor asks where nobody told it to."""

import ast
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from support import ROOT, isoform

from isoform.runtime import Runtime
from isoform.runtime.engines.onnx import session as sessions
from isoform.runtime.errors import EngineError

pytestmark = pytest.mark.trust


@pytest.mark.parametrize("version", ["1.20.0", "1.26.1", "0.99", "main"])
def test_an_older_onnx_runtime_is_refused(compiled, monkeypatch, version) -> None:
    """ONNX Runtime older than 1.27 can answer with another user's network, so opening a bundle with it is one line."""
    monkeypatch.setattr(sessions.ort, "__version__", version)
    with pytest.raises(EngineError, match=f"ONNX Runtime {version} is installed, but 1.27 or newer .*pip install"):
        Runtime.open(compiled)
    with pytest.raises(EngineError, match="1.27 or newer"):
        sessions.session_options(1)


@pytest.mark.parametrize("version", ["1.27.0", "1.31.1", "1.28.0.dev20260601", "2.0.0"])
def test_newer_ones_are_used(monkeypatch, version) -> None:
    """1.27 and everything after it is accepted."""
    monkeypatch.setattr(sessions.ort, "__version__", version)
    assert sessions.session_options(1).intra_op_num_threads == 1


def test_pip_is_told_the_same() -> None:
    """The package asks for the version that the runtime accepts."""
    asked = re.search(r'"onnxruntime>=(\d+)\.(\d+)"', (ROOT / "pyproject.toml").read_text())
    assert tuple(map(int, asked.groups())) == sessions.OLDEST == (1, 27)


@pytest.mark.parametrize(
    ("machine", "off"), [("aarch64", True), ("arm64", True), ("ARM64", True), ("x86_64", False), ("AMD64", False)]
)
def test_kleidiai_is_off_on_arm(monkeypatch, machine, off) -> None:
    """On Arm, every session is made without the kernels that kept another user's weights."""
    monkeypatch.setattr("platform.machine", lambda: machine)
    options = sessions.session_options(1)
    if off:
        assert options.get_session_config_entry("mlas.disable_kleidiai") == "1"
    else:
        with pytest.raises(RuntimeError):
            options.get_session_config_entry("mlas.disable_kleidiai")


def test_sessions_are_made_in_one_place() -> None:
    """Nothing but ``runtime/engines/onnx/session.py`` imports ONNX Runtime or makes sessions, so its options, provider and telemetry hold everywhere.

    The rivals of the benchmarks are other programs; they name their provider too.
    """
    imports, files = (
        [],
        [
            path
            for stage in ("runtime", "compile", "server", "train", "benchmarks")
            for path in (ROOT / stage).rglob("*.py")
        ],
    )
    assert len(files) > 150
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "onnxruntime" for name in names):
                imports.append(path.name)
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("InferenceSession"):
                assert [word.arg for word in node.keywords] == ["providers"], path
    assert sorted(imports) == ["rival_flask.py", "rival_litserve.py", "rival_mlserver.py", "session.py"]


PREDICT = """
import sys, numpy as np
from isoform.runtime import Runtime
with Runtime.open(sys.argv[1]) as rt:
    print(rt.predict(np.zeros((1, *rt.bundle.spec.input_shape), np.float32), rt.signature("plain")).shape)
"""


def test_no_telemetry(compiled, tmp_path) -> None:
    """Opening a bundle and predicting writes nothing outside ``ISOFORM_CACHE``, and opens no socket, where strace can tell."""
    home, cache, trace = tmp_path / "home", tmp_path / "cache", tmp_path / "trace"
    (home / "work").mkdir(parents=True)
    hidden = ("XDG_", "ORT_", "PYTHON")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    environment |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache"), "ISOFORM_CACHE": str(cache)}
    spy = [shutil.which("strace"), "-f", "-o", trace, "-e", "trace=socket,connect,sendto"]
    words = [sys.executable, "-B", "-c", PREDICT, compiled]
    spied = spy[0] and subprocess.run([*spy, "true"], check=False, capture_output=True).returncode == 0
    result = subprocess.run(
        [*(spy if spied else []), *words],
        env=environment,
        cwd=home / "work",
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout == "(1, 10)\n", result.stderr
    assert [path.name for path in home.rglob("*")] == ["work"]
    assert len(list(cache.iterdir())) == 1
    if spied:
        assert not re.findall(r"^.*(?:AF_INET|sin_port|sin6_port).*$", trace.read_text(), re.MULTILINE)


def test_a_users_own_word_on_telemetry_wins() -> None:
    """``ORT_DISABLE_TELEMETRY`` is set before ONNX Runtime is imported, unless the user has set it."""
    code = "import os, isoform.runtime; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    for given, expected in ((None, "1"), ("0", "0"), ("1", "1")):
        environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
        environment |= {} if given is None else {"ORT_DISABLE_TELEMETRY": given}
        found = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        assert found.stdout.strip() == expected


def test_the_command_line_says_it_in_one_line(compiled, tmp_path) -> None:
    """``isoform`` with an ONNX Runtime that is too old prints one line and exits with 2."""
    (tmp_path / "sitecustomize.py").write_text("import onnxruntime\nonnxruntime.__version__ = '1.26.0'\n")
    image = tmp_path / "x.npy"
    np.save(image, np.zeros((1, 1, 32, 32), np.float32))
    result = isoform(
        "predict", compiled, image, "--task", "plain", check=False, env={**os.environ, "PYTHONPATH": str(tmp_path)}
    )
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "1.27 or newer was expected" in result.stderr
