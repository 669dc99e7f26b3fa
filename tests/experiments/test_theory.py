"""Expected results made anew from a run of the tabular experiments: the shipped file's numbers, and no rows from half a run."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from spac_repro.theory import experiments
from spac_repro.theory.runner import EXPERIMENTS
from spac_repro.trust.expected import expected_path, load_expected

SCRIPT = Path(__file__).resolve().parents[2] / "experiments" / "theory.py"
CHEAPEST = ("rounds", "uncovered")


def make(run: Path, out: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), str(run), "--write", str(out)], capture_output=True, text=True)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run whose experiments each measured one value on three seeds; every other one decides."""
    for number, name in enumerate(EXPERIMENTS):
        value = {"method": "spac-t", "task": name, "metric": "loss", "values": [1.0, 2.0, 3.0], "effect": [None, 0.1][number % 2]}
        result = {"name": name, "quick": False, "seeds": [1, 2, 3], "measured": [value]}
        (tmp_path / f"{name}.json").write_text(json.dumps(result))
    return tmp_path


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_a_value_with_an_effect_makes_a_primary_row(run):
    done = make(run, run / "theory.yaml")
    assert done.returncode == 0, done.stderr
    made = load_expected(run / "theory.yaml")
    assert [row.key.task for row in made.rows] == list(EXPERIMENTS)
    assert [row.primary for row in made.rows] == [row.effect is not None for row in made.rows] == [False, True] * 4 + [False]
    assert {(row.value, row.sd, row.seeds) for row in made.rows} == {(2.0, 1.0, 3)}
    assert made.sources["ours"].seeds == (1, 2, 3)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda run: (run / "loose.json").unlink(), "loose.json: no such file"),
        (lambda run: change(run / "loose.json", quick=True), "loose.json: is of a run with --quick"),
        (lambda run: change(run / "loose.json", seeds=[4, 5, 6]), "loose.json: has other seeds than prototype"),
    ],
    ids=["an experiment missing", "cut short", "other seeds"],
)
def test_half_a_run_makes_no_rows(run, spoil, said):
    spoil(run)
    done = make(run, run / "theory.yaml")
    assert done.returncode == 2
    assert said in done.stderr
    assert not (run / "theory.yaml").exists()


@pytest.mark.theory
def test_the_same_seeds_give_the_rows_of_the_shipped_file(run):
    """For the cheapest experiments, at full size; all of them take four minutes."""
    shipped = load_expected(expected_path("theory"))
    seeds = list(shipped.sources["ours"].seeds)
    for name in EXPERIMENTS:
        done_anew = name in CHEAPEST
        measured = experiments.FUNCTIONS[name](seeds, False, lambda done, total: None).measured if done_anew else []
        change(run / f"{name}.json", seeds=seeds, measured=measured)
    done = make(run, run / "theory.yaml")
    assert done.returncode == 0, done.stderr
    made, theirs = ([row for row in its.rows if row.key.task in CHEAPEST] for its in (load_expected(run / "theory.yaml"), shipped))
    without_numbers = {"value", "sd"}
    assert [row.model_dump(exclude=without_numbers) for row in made] == [row.model_dump(exclude=without_numbers) for row in theirs]
    # As close as the rows themselves ask for.
    assert [row.value for row in made] == pytest.approx([row.value for row in theirs], abs=1e-6)
    assert [row.sd for row in made] == pytest.approx([row.sd for row in theirs], abs=1e-6)
