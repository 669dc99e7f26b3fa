"""The package stays readable: limits on sizes, and docs/architecture.md shows its tree (docs/decisions/10-house.md)."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("spac_repro", "launchers", "experiments", "bench")
MOST = {"module": 350, "function": 60, "class": 250}  # lines

# What is larger, and why: "module.py" or "module.py:name". An entry that is no longer needed fails, too.
LARGER: dict[str, str] = {}


def sizes(source: str, name: str) -> Iterator[tuple[str, str, int]]:
    """(what it is, its name, its lines) of a module and of every function and class in it; decorators do not count."""
    yield "module", name, len(source.splitlines())
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            kind = "class" if isinstance(node, ast.ClassDef) else "function"
            yield kind, f"{name}:{node.name}", (node.end_lineno or node.lineno) - node.lineno + 1


def too_large(source: str, name: str) -> dict[str, str]:
    """By name, what is larger than it may be."""
    return {its: f"a {kind} of {lines} lines" for kind, its, lines in sizes(source, name) if lines > MOST[kind]}


def test_nothing_is_too_large_to_be_read_in_one_go():
    files = [file for room in ROOMS for file in sorted((ROOT / room).rglob("*.py"))]
    assert len(files) > 100
    found: dict[str, str] = {}
    for file in files:
        found |= too_large(file.read_text(), str(file.relative_to(ROOT)))
    assert {name: size for name, size in found.items() if name not in LARGER} == {}
    assert [name for name in LARGER if name not in found] == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("x = 1\n" * 350, {}),
        ("x = 1\n" * 351, {"m.py": "a module of 351 lines"}),
        ("def f():\n" + "    x = 1\n" * 59, {}),
        ("@g\ndef f():\n" + "    x = 1\n" * 60, {"m.py:f": "a function of 61 lines"}),
        ("def f():\n    async def h():\n" + "        x = 1\n" * 58, {}),
        ("class A:\n    def f(self):\n" + "        x = 1\n" * 60, {"m.py:f": "a function of 61 lines"}),
        ("class A:\n" + "    x = 1\n" * 249, {}),
        ("class A:\n" + "    x = 1\n" * 250, {"m.py:A": "a class of 251 lines"}),
    ],
)  # fmt: skip
def test_the_measure_finds_what_is_one_line_too_large(source, found):
    assert too_large(source, "m.py") == found


def test_the_tree_in_the_documentation_is_the_tree():
    text = (ROOT / "docs" / "architecture.md").read_text()
    (tree,) = re.findall(r"^```\nspac_repro/\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    named = {line.split()[0].rstrip("/") for line in tree.splitlines()}
    data = {"expected_results", "requirements", "py.typed"}  # no code
    there = {path.name for path in (ROOT / "spac_repro").iterdir() if not path.name.startswith("_")} - data
    assert named == there


def test_the_layers_in_the_documentation_are_the_linters():
    text = (ROOT / "docs" / "architecture.md").read_text()
    (shown,) = re.findall(r"^```\ncli\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    kept = [layer.replace(" | ", ", ") for layer in contract if layer != "__main__"]
    assert ["cli", *shown.splitlines()] == kept
