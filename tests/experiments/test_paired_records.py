"""Recorded comparisons: what is written is read, the table is that of `compare`, and what is no comparison is refused."""

import sys
from pathlib import Path
from typing import Any

import pytest

from spac_repro.errors import UserError
from spac_repro.runs import files
from spac_repro.trust import question_tables
from spac_repro.trust.paired_scores import PairedScore
from spac_repro.trust.paired_tests import PValue
from spac_repro.trust.question_comparison import QuestionComparison

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "experiments"))

import paired_records
import records
import result_tables


def score(task: str, metric: str, **more: Any) -> PairedScore:
    known = {"questions": 40, "clusters": 20, "asked": (40, 40), "a": 0.5, "b": 0.625, "low": -0.1, "high": 0.35}
    known |= {"p": PValue(0.04, "sign flips, drawn", 0.002), "corrected_p": 0.08}
    return PairedScore(task, metric, True, **{**known, **more})


MARGIN = score("heldout", "margin", seeds_stderr=0.01, questions_stderr=0.1)
ARC = score("arc_challenge", "acc_norm", gained=9, lost=4, p=PValue(0.27, "McNemar, exact"))
FOUND = QuestionComparison(("one", "two"), ("three",), "protocol of A and B: current", False, False, (MARGIN, ARC), ())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(records, "FOLDER", tmp_path)
    return tmp_path


def write(only: str | None = None) -> None:
    files.write_json(paired_records.file_of("own"), paired_records.content(("start", "spac"), FOUND, only))


def test_what_is_written_is_read(folder: Path) -> None:
    write()
    about, scores = paired_records.read("own")
    assert (about["names"], about["runs"], about["protocols"]) == (["start", "spac"], [2, 1], FOUND.protocols)
    assert [each.as_json() | {"asked": [40, 40]} for each in scores] == [
        each.as_json() | {"asked": [40, 40]} for each in FOUND.scores
    ]


def test_the_table_has_the_cells_of_compare_and_finds_a_changed_digit(folder: Path) -> None:
    write()
    head, *lines = result_tables.paired("own", {})
    assert head[2:4] == ["start", "spac"]
    assert lines == [list(question_tables.cells(each)) for each in FOUND.scores]
    assert [line[0] for line in result_tables.paired("own", {"metrics": "margin"})] == ["score", "heldout margin"]
    page = folder / "page.md"
    page.write_text(result_tables.made(f"<!-- table paired own -->\n{result_tables.END}\n"))
    assert result_tables.differences(page) == []
    page.write_text(page.read_text().replace("+0.1250", "+0.1350", 1))
    assert len(result_tables.differences(page)) == 1


def test_one_task_alone_is_recorded_and_one_that_is_not_there_is_refused(folder: Path) -> None:
    write("heldout")
    assert [each.task for each in paired_records.read("own")[1]] == ["heldout"]
    with pytest.raises(UserError, match="no such task in common"):
        write("hellaswag")


def test_a_record_of_another_form_is_refused(folder: Path) -> None:
    write()
    found = files.read_json(paired_records.file_of("own"))
    del found["scores"][0]["detectable"]
    files.write_json(paired_records.file_of("own"), found)
    with pytest.raises(UserError, match="not of a paired score as it is today"):
        paired_records.read("own")
