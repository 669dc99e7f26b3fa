"""One thing changed at a time against a reference run, and `compare` names it first. experiments/differences.py makes the runs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "experiments"))

import differences  # noqa: E402

pytestmark = pytest.mark.compare
names = pytest.mark.parametrize("experiment", differences.EXPERIMENTS, ids=lambda experiment: experiment.folder)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("differences")


@pytest.fixture(scope="module")
def found(work: Path) -> dict[str, Any]:
    """What `compare` said about every experiment."""
    command = [sys.executable, str(ROOT / "experiments" / "differences.py"), "--out", str(work), "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=850)
    assert done.stdout, done.stderr
    return dict(json.loads(done.stdout))


@names
def test_the_one_change_is_named_first(found: dict[str, Any], experiment: differences.Experiment) -> None:
    its = found[experiment.name]
    assert "error" not in its, its["error"]
    assert [difference["key"] for difference in its["differences"]][:1] == ([experiment.key] if experiment.key else [])


@names
def test_the_runs_part_where_the_change_first_acts(found: dict[str, Any], experiment: differences.Experiment) -> None:
    mismatch = found[experiment.name]["first_score_difference"] or found[experiment.name]["first_difference"]
    assert (mismatch["stage"] if mismatch else "") == experiment.first_stage
    if experiment.weights_differ is not None:
        assert found[experiment.name]["weights_differ"] is experiment.weights_differ


@names
def test_a_change_that_moved_numbers_is_classified_as_able_to(found: dict[str, Any], experiment: differences.Experiment) -> None:
    its = found[experiment.name]
    moved = its["weights_differ"] or any(score["difference"] for score in its["scores"])
    impacts = {difference["impact"] for difference in its["differences"]}
    if moved and not experiment.edited:
        assert impacts & {"changes the numbers by design", "may change bits"}


def test_the_row_the_letter_and_the_label_are_named(found: dict[str, Any]) -> None:
    order, label, letter = (
        found[name]["first_difference"] for name in ("order of two rows", "one flipped label", "one character in a prompt")
    )
    assert order["place"] == "row 1"
    assert order["note"].endswith("the same rows in another order: 2 of 48 are elsewhere")
    assert (label["place"], label["note"]) == ("row 7", "the label is flipped; 1 of 48 rows differ")
    assert (letter["place"], letter["what"]) == ("row 7", "prompt")
    assert letter["note"].endswith("1 of 48 rows differ")


def test_the_documented_table_has_a_row_for_each_and_says_what_was_found(found: dict[str, Any]) -> None:
    """The columns that another machine cannot change: what was changed, what was named, its effect."""
    documented = {}
    for line in (ROOT / "docs" / "reproducibility.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) == 6:
            documented[cells[0]] = cells[1:3]
    for experiment in differences.EXPERIMENTS:
        assert documented[experiment.name] == differences.row(experiment, found[experiment.name])[:2]
