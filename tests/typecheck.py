"""Run mypy, strictly, on the four stages; ``make lint`` calls this.

mypy cannot follow a mapped package (folder ``runtime`` is ``isoform.runtime``), so it is shown a folder of links that has the
real names. Arguments are passed on to mypy.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("runtime", "server", "compile", "train")


def main() -> int:
    """Return mypy's exit code."""
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "isoform"
        package.mkdir()
        for stage in STAGES:
            (package / stage).symlink_to(ROOT / stage)
        command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), *sys.argv[1:]]
        for stage in STAGES:
            command += ["-p", f"isoform.{stage}"]
        return subprocess.run(command, cwd=folder, env={**os.environ, "MYPYPATH": folder}, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
