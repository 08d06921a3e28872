"""docs/security.md lists every fault that was found once, with its tests."""

from __future__ import annotations

import ast
from pathlib import Path

from support import ROOT, all_listed


def marked(source: str) -> set[str]:
    """Names of the tests of a module that carry the marker ``trust``, by themselves or by their module's ``pytestmark``."""
    tree = ast.parse(source)
    whole = any(
        isinstance(node, ast.Assign)
        and any(isinstance(target, ast.Name) and target.id == "pytestmark" for target in node.targets)
        and "mark.trust" in ast.unparse(node.value)
        for node in tree.body
    )
    return {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and node.name.startswith("test_")
        and (whole or any("mark.trust" in ast.unparse(decorator) for decorator in node.decorator_list))
    }


def all_marked() -> set[str]:
    """``file.py::test`` of every test that carries the marker."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    assert len({file.name for file in files}) == len(files), (
        "two test files share a name, so the page cannot tell them apart"
    )
    return {f"{file.name}::{name}" for file in files for name in marked(file.read_text())}


def test_every_fault_is_listed_and_tested() -> None:
    """The page names each marked test, and no other."""
    found, listed = all_marked(), all_listed(Path(ROOT / "docs" / "security.md").read_text())
    assert len(found) > 50
    assert sorted(found - listed) == [], "these are not in docs/security.md"
    assert sorted(listed - found) == [], "docs/security.md names these, but no test of that name is marked"


def test_a_mark_is_seen_wherever_it_stands() -> None:
    """By decorator, among others, and for a whole module; what is not marked is not."""
    assert marked("@pytest.mark.trust\n@pytest.mark.slow\ndef test_a(): ...\ndef test_b(): ...") == {"test_a"}
    assert marked("pytestmark = [pytest.mark.trust]\ndef test_a(): ...\ndef helper(): ...") == {"test_a"}
    assert all_listed("| x | y | `test_a.py::test_b` |") == {"test_a.py::test_b"}
