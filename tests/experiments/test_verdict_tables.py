"""What `verify` says of recorded runs: honest ones, other methods passed off as SPAC, and runs with a mistake in them."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "experiments"))

import records
import verdict_tables
from verdict_tables import verdict_of

from spac_repro.trust.expected import START, expected_path, load_expected

RECIPE = "smollm2-135m"


def test_no_run_of_the_file_disagrees_with_it() -> None:
    for method, runs in records.read("smollm2-seeds").runs("").items():
        for run in runs:
            assert verdict_of(RECIPE, method, [run]).status != "disagrees", run.source


@pytest.mark.parametrize("method", ["dpo", "ipo"])
def test_another_method_passed_off_as_spac_is_found_in_every_run(method: str) -> None:
    for run in records.read("smollm2-seeds").runs("")[method]:
        assert verdict_of(RECIPE, "spac", [run]).status == "disagrees", run.source


def test_every_recorded_mistake_is_found() -> None:
    found = records.read("smollm2-teeth")
    assert set(found.groups()) == {"fault=no_learning", "fault=preferences_flipped"}
    for group in found.groups():
        assert verdict_of(RECIPE, "spac", found.runs(group)["spac"]).status == "disagrees", group


def test_the_table_has_a_line_for_each_of_them() -> None:
    head, *lines = verdict_tables.verdicts("smollm2-seeds+smollm2-teeth", {"as": "spac"})
    assert [line[0] for line in lines] == ["dpo", "ipo", "no_learning spac", "preferences_flipped spac"]
    assert [line[1] for line in lines] == ["5", "3", "1", "1"]
    assert len(head) == len(lines[0]) == 5 + 3


def test_honest_runs_that_fail_are_counted(tmp_path: Path) -> None:
    made = records.read("smollm2-seeds")
    shown = {(line[0], line[1]): line[6:] for line in verdict_tables.false_alarms("smollm2-seeds", {})[1:]}
    assert {(cells[0], cells[2]) for cells in shown.values()} == {("0 of 5", "0 of 5"), ("0 of 3", "0 of 3")}
    margin = ("dpo", 1, "2", "heldout", "margin")
    wrong = tuple(row._replace(value=row.value + 100) if row[1:6] == margin else row for row in made.rows)
    file = str(records.write(replace(made, rows=wrong), tmp_path))
    found = {(line[0], line[1]): line[6:] for line in verdict_tables.false_alarms(file, {})[1:]}
    changed = found.pop(("dpo", "heldout margin"))
    assert (changed[0], changed[2]) == ("1 of 5", "1 of 5")
    assert float(changed[1]) > 1
    assert {key for key, cells in found.items() if cells != shown[key]} == {key for key in found if key[0] == "dpo"}


def test_no_row_of_tiny_disagrees_with_seeds_that_are_not_in_its_file() -> None:
    for line in verdict_tables.false_alarms("tiny-fresh", {})[1:]:
        assert (line[6], line[8], set(line[9].split())) == ("0 of 10", "0 of 10", {"0"})


def test_rows_that_no_single_run_fails_are_counted_as_students_t_has_it() -> None:
    expected, recorded = load_expected(expected_path("tiny")), records.read("tiny-seeds")
    for method, _, counted, *_ in verdict_tables.power("tiny-seeds", {})[1:]:
        rows = [row for row in expected.rows if row.method in (method, START) and not row.primary]
        without_room = 0
        for row in rows:
            if row.method == START or not -1e-9 <= row.value <= 1 or row.metric in ("critic_gap", "divergence", "margin"):
                continue
            centre, spread = row.value, row.sd
            if row.gain is not None:
                centre, spread = recorded.value(method, 1, "0", row.task, row.metric) + row.gain.value, row.gain.sd
            reach = stats.t.isf(0.01 / len(rows) / 2, row.seeds - 1) * spread * math.sqrt(1 + 1 / row.seeds)
            without_room += centre - reach <= 0 and centre + reach >= 1
        assert int(counted) == without_room, method
