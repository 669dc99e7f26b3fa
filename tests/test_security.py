"""docs/security.md names a test for each threat; each of them exists."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def missing_tests(page: str) -> list[str]:
    """The tests that a page names and that are nowhere."""
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    return [f"{file}::{name}" for file, name in named if name not in functions(ROOT / file)]


def functions(file: Path) -> set[str]:
    if not file.is_file():
        return set()
    return {node.name for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.FunctionDef)}


def test_each_test_that_the_page_names_exists():
    page = (ROOT / "docs/security.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith(("| ---", "| a ", "| an "))]
    assert len(rows) >= 20
    assert all("`tests/" in row for row in rows if not re.match(r"\| (a|an|---)\b", row))
    assert missing_tests(page) == []


def test_a_test_that_is_gone_is_noticed():
    page = (
        "`tests/test_security.py::test_a_test_that_is_gone_is_noticed` `tests/test_security.py::test_gone` `tests/gone.py::test_x`"
    )
    assert missing_tests(page) == ["tests/test_security.py::test_gone", "tests/gone.py::test_x"]
