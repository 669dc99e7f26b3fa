"""trust/ stands below what trains and scores, and a verdict is had without loading torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

TRUST = Path(__file__).resolve().parents[2] / "spac_repro" / "trust"
MODULES = sorted(f"spac_repro.trust.{file.stem}" for file in TRUST.glob("*.py") if file.stem != "__init__")
ABOVE = ("evaluation", "publish", "sampling", "model", "optim", "context", "pipeline", "launchers", "cli")


def imported(source: str) -> set[str]:
    """Every module that a source imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def upward(source: str) -> set[str]:
    """Imports of parts of the package that stand above trust/."""
    return {name for name in imported(source) for part in ABOVE if f"{name}.".startswith(f"spac_repro.{part}.")}


def test_nothing_above_is_imported() -> None:
    assert MODULES
    assert {file.name: upward(file.read_text()) for file in TRUST.glob("*.py") if upward(file.read_text())} == {}


@pytest.mark.parametrize(
    "source",
    [
        "from spac_repro.evaluation.leaderboard import suites",
        "def f():\n    from spac_repro import optim",
        "import spac_repro.model.policy",
    ],
)
def test_an_import_of_what_is_above_is_seen(source: str) -> None:
    assert upward(source)
    assert not upward("from spac_repro.runs.folder import RunFolder\nfrom spac_repro import models")


def test_torch_is_not_imported() -> None:
    program = f"import sys\nfor name in {MODULES}: __import__(name)\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
