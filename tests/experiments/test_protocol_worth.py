"""What protocols differ by: answers that end earlier, the two means of MMLU, and rows only where both files are there."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from spac_repro.errors import UserError
from spac_repro.runs import answers
from spac_repro.runs.answers import About, Answer, Answers, ExtractionStep, Metric, TaskAbout, TaskAnswers

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))

import protocol_worth as worth
import records
import worth_tables

STRICT = Metric(
    name="exact_match",
    rule="exact_match",
    extraction=(ExtractionStep(function="regex", regex_pattern="#### (\\-?[0-9\\.\\,]+)"), ExtractionStep(function="take_first")),
    ignored=(",", "(?s).*#### "),
)
FLEXIBLE = Metric(name="exact_match_flexible")
TEXTS = (" It is 2: #### 2", " So #### 2", " The answer is 2", " 1 + 1 = 2\n\n#### 2")


def gsm8k() -> Answers:
    """Four answers, all right by the last number; by the strict rule the third has none."""
    rows = [
        Answer(
            *("gsm8k", str(number), f"hash {number}", "So it is.\n#### 2"),
            metrics={"exact_match": float("####" in text), "exact_match_flexible": 1.0},
            tokens=9,
            generated=text,
            extracted={"exact_match": "2" if "####" in text else "[invalid]"},
        )
        for number, text in enumerate(TEXTS)
    ]
    return Answers.join(About(), [TaskAnswers(TaskAbout(name="gsm8k", metrics=(STRICT, FLEXIBLE)), rows)])


def test_what_one_file_of_gsm8k_holds():
    found = {row.difference: row.score for row in worth.within_gsm8k(gsm8k())}
    values = {name: (score.a, score.b, score.gained, score.lost) for name, score in found.items()}
    assert values == {
        "flexible for strict extraction": (0.75, 1.0, 1, 0),
        "an answer ends at ':'": (0.75, 0.5, 0, 1),
        "an answer ends at an empty line": (0.75, 0.5, 0, 1),
        "no full stop may follow the number": (0.75, 0.75, 0, 0),
    }


def test_the_means_of_mmlu_differ_by_the_subjects_sizes():
    """Two subjects: D = (w − ½)(m₁ − m₂), with the variance (w − ½)²(v₁ + v₂)."""
    first, second = [1.0, 1.0, 0.0, 1.0], [0.0, 1.0]
    rows = [
        Answer("mmlu", f"{subject}/{i}", f"{subject} {i}", "0", {"acc": value}, 9, subject=subject)
        for subject, its in (("law", first), ("art", second))
        for i, value in enumerate(its)
    ]
    score = worth.means_of_mmlu(rows, {"law": 90, "art": 10, "not asked": 50})
    assert (score.a, score.difference) == pytest.approx((0.625, (0.9 - 0.5) * (0.75 - 0.5)))
    error = 0.4 * math.sqrt(0.75 * 0.25 / 3 + 0.25 / 1)
    assert score.high == pytest.approx(score.difference + 1.96 * error)
    assert worth.means_of_mmlu(rows, {"law": 10, "art": 10}).difference == 0.0


def test_a_row_needs_both_files(tmp_path):
    questions = [Answer("winogrande", str(i), f"hash {i}", "0", {"acc": float(i < 2)}, 9, correct=i < 2) for i in range(4)]
    others = [Answer("winogrande", str(i), f"hash {i}", "0", {"acc": float(i > 0)}, 9, correct=i > 0) for i in range(4)]
    about = TaskAbout(name="winogrande", metrics=(Metric(name="acc"),))
    for name, rows in (("plain", questions), ("no-examples", others)):
        assert worth.rows_of(tmp_path, tmp_path) == []
        answers.write(tmp_path / f"{name}-winogrande.parquet", Answers.join(About(), [TaskAnswers(about, rows)]))
    (row,) = worth.rows_of(tmp_path, tmp_path)
    assert (row.score.gained, row.score.lost) == (2, 1)
    assert "| WinoGrande without its examples | `winogrande` acc | 4 | 0.500 | 0.750 | 2, 1 | +0.250 [" in worth_tables.markdown(
        worth_tables.cells([row])
    )


def test_true_answers_behind_a_false_one_are_not_counted():
    """Probabilities ½, ¼, ¼ and the first and third are true: ¾ of them by the labels, and ½ before the first false one."""
    mc2 = TaskAbout(name="truthfulqa_mc2", metrics=(Metric(name="mc2", rule="mc2"),))
    log_probs = [math.log(0.5), math.log(0.25), math.log(0.25)]
    rows = [Answer("truthfulqa_mc2", "0", "hash", "[0, 2]", {"mc2": 0.75}, 9, log_probs=log_probs)]
    score = worth.within_truthfulqa(Answers.join(About(), [TaskAnswers(mc2, rows)])).score
    assert (score.a, score.b) == pytest.approx((0.75, 0.5))
    assert [worth.before_a_false_one(right) for right in ([0, 1], [1, 2], [0, 1, 3])] == [[0, 1], [], [0, 1]]


def test_a_table_is_made_of_records_the_first_one_first(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "FOLDER", tmp_path)
    rows = [*worth.within_gsm8k(gsm8k())]
    worth_tables.record("few", rows)
    worth_tables.record("many", [worth_tables.Row(rows[0].difference, replace(rows[0].score, questions=400))])
    head, *lines = worth_tables.worth("many+few", {})
    assert [line[head.index("questions")] for line in lines] == ["400", "4", "4", "4"]
    assert worth_tables.cells(rows)[1][2:] == worth_tables.worth("few", {})[1][2:]


def test_every_condition_leaves_files_of_its_own():
    files = [worth.file_of(Path(), condition.name, task) for condition in worth.CONDITIONS for task in condition.tasks]
    assert len({*files}) == len(files)


def test_answers_that_exist_are_not_asked_again(tmp_path):
    about = TaskAbout(name="winogrande", metrics=(Metric(name="acc"),))
    rows = [Answer("winogrande", "0", "hash", "0", {"acc": 1.0}, 9, correct=True)]
    evaluated = Answers.join(About(), [*gsm8k().tasks(), TaskAnswers(about, rows)])
    answers.write(tmp_path / "all.parquet", evaluated)
    worth.take_plain(tmp_path / "all.parquet", tmp_path / "keep")
    for task in evaluated.tasks():
        (own,) = answers.read(tmp_path / "keep" / f"plain-{task.about.name}.parquet").tasks()
        assert (own.about, own.rows) == (task.about, task.rows)


def test_answers_under_another_protocol_are_not_the_plain_ones(tmp_path):
    answers.write(tmp_path / "all.parquet", Answers.join(About(protocol="v0.4.0-spin"), gsm8k().tasks()))
    with pytest.raises(UserError, match=r"all\.parquet: its protocol is v0\.4\.0-spin, and not current"):
        worth.take_plain(tmp_path / "all.parquet", tmp_path / "keep")
