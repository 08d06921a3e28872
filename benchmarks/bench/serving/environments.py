"""A virtual environment for each rival, because what they depend on is not what we depend on: made once, kept, made anew when its
requirements change.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from isoform.runtime.engines.user_cache import cache_directory

__all__ = ["RIVALS", "default_folder", "environment", "requirements"]

RIVALS = ("litserve", "mlserver")
HERE = Path(__file__).parent


def default_folder() -> Path:
    """Where environments are kept if nobody says otherwise: beside the plans that the runtime keeps."""
    return cache_directory() / "benchmarks"


def requirements(rival: str) -> list[str]:
    """What its environment is made of, ``name==version`` each."""
    lines = (HERE / "rivals" / f"rival-{rival}.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def environment(rival: str, folder: Path) -> Path:
    """Its Python, in an environment that is made if it is not there.

    Args:
        rival: One of ``RIVALS``.
        folder: Where environments are.

    Raises:
        RuntimeError: If it cannot be made; the message says why, in a line.
    """
    wanted = "\n".join([f"python {sys.version_info.major}.{sys.version_info.minor}", *requirements(rival)])
    home = folder / f"{rival}-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}"
    python = home / "bin" / "python"
    if (home / "complete").exists():
        return python
    print(f"making the environment of {rival} in {home}; a minute or two, once", file=sys.stderr)
    shutil.rmtree(home, ignore_errors=True)  # somebody was interrupted here
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _run([sys.executable, "-m", "venv", home])
        for requirement in ("pip", requirements(rival)[0]):
            print(f"  installing {requirement}", file=sys.stderr)
            what = ["--upgrade", "pip"] if requirement == "pip" else ["-r", HERE / "rivals" / f"rival-{rival}.txt"]
            _run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *what])
    except (OSError, subprocess.CalledProcessError) as problem:
        said = [line for line in (getattr(problem, "stderr", "") or "").splitlines() if line.startswith("ERROR")]
        raise RuntimeError(f"{rival} cannot be installed: {said[-1] if said else problem}") from None
    (home / "complete").touch()
    return python


def _run(command: list[str | Path]) -> None:
    subprocess.run(
        [str(word) for word in command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
