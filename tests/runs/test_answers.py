"""answers.parquet: what is written is read, what is damaged is said, and scores follow from it."""

import json
import math
import statistics
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spac_repro.errors import UserError
from spac_repro.runs import answer_scores, answers
from spac_repro.runs.answers import About, Answer, Answers, ExtractionStep, Metric, TaskAbout
from spac_repro.runs.results import Score

NUMBER = ExtractionStep(function="regex", regex_pattern=r"#### (\-?[0-9\.\,]+)")
SUMS = Metric(name="exact_match", rule="exact_match", extraction=(NUMBER,), ignored=(",", "(?s).*#### "), ignore_case=True)
ABOUT = About(
    harness="lm_eval 0.4.13",
    suite="openllm",
    weights_sha256="ab" * 32,
    tasks=(
        TaskAbout(name="arc", version="1.0", metrics=(Metric(name="acc_norm", rule="acc_norm"),)),
        TaskAbout(name="truth", metrics=(Metric(name="mc2", rule="mc2"),)),
        TaskAbout(name="sums", metrics=(SUMS,)),
        TaskAbout(
            name="mmlu",
            metrics=(Metric(name="acc_macro", mean="subjects"), Metric(name="acc", mean="subjects_by_size")),
        ),
    ),
    averaged=("arc", "truth", "sums", "mmlu"),
)


def choice(task: str, item: str, log_probs: list[float], gold: str, metrics: dict[str, float], **more: object) -> Answer:
    lengths = [len(log_probs) - i for i in range(len(log_probs))]
    return Answer(task, item, "c" * 64, gold, metrics, 7, log_probs=log_probs, choice_lengths=lengths, **more)  # type: ignore[arg-type]


ROWS = [
    choice("arc", "0", [-3.0, -2.5], "0", {"acc_norm": 1.0}, correct=True),  # −1.5 and −2.5 a character
    choice("arc", "1", [-3.0, -2.5], "1", {"acc_norm": 0.0}, correct=False, cut=True),
    choice("truth", "0", [math.log(0.2), math.log(0.1), math.log(0.5)], "[0, 1]", {"mc2": 0.375}),
    choice("truth", "1", [math.log(0.2), math.log(0.2)], "[1]", {"mc2": 0.5}),
    Answer(
        "sums",
        "0",
        "d" * 64,
        "6 and 7.\n#### 1,013",
        {"exact_match": 1.0},
        30,
        correct=True,
        generated="Well.\n#### 1013\n#### 5",
        extracted={"exact_match": "1013"},
    ),
    Answer("sums", "1", "e" * 64, "#### 2", {"exact_match": 0.0}, 30, generated="2", extracted={"exact_match": "[invalid]"}),
    choice("mmlu", "a/0", [-1.0, -2.0], "0", {"acc": 1.0, "acc_macro": 1.0}, subject="a"),
    choice("mmlu", "b/0", [-1.0, -2.0], "1", {"acc": 0.0, "acc_macro": 0.0}, subject="b"),
    choice("mmlu", "b/1", [-1.0, -2.0], "0", {"acc": 1.0, "acc_macro": 1.0}, subject="b"),
    choice("mmlu", "b/2", [-1.0, -2.0], "1", {"acc": 0.0, "acc_macro": 0.0}, subject="b"),
]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "answers.parquet"
    answers.write(path, Answers.of(ABOUT, ROWS))
    return path


def test_what_is_written_is_read_and_equal_answers_have_equal_bytes(written: Path):
    again = answers.read(written)
    assert again.about == ABOUT
    assert list(again.rows()) == ROWS
    answers.write(copy := written.with_name("again.parquet"), again)
    assert copy.read_bytes() == written.read_bytes()


def test_scores_by_hand(written: Path):
    found = {(score.task, score.metric): score for score in answer_scores.scores(answers.read(written))}
    assert found["arc", "acc_norm"] == Score("arc", "acc_norm", 0.5, 0.5, 2, "1.0")
    assert found["truth", "mc2"].value == pytest.approx((0.375 + 0.5) / 2)
    assert found["mmlu", "acc"].value == pytest.approx(2 / 4)
    assert found["mmlu", "acc_macro"].value == pytest.approx((1 + 1 / 3) / 2)
    assert found["average", "mean"].value == pytest.approx((0.5 + 0.4375 + 0.5 + 2 / 3) / 4)
    assert list(found)[-1] == ("average", "mean")
    answer_scores.check(answers.read(written), "here")


def test_means_over_clusters():
    """Two responses to each of three prompts: by prompt, by response allowing for the prompt, and without an error."""
    means = {"by_prompt": "clusters", "clustered": "clustered_items", "alone": "items_without_error"}
    about = About(tasks=(TaskAbout(name="gold", metrics=tuple(Metric(name=n, mean=m) for n, m in means.items())),))
    values = [0.5, 0.5, 1.0, 1.0, 0.1, 0.7]
    rows = [Answer("gold", str(i), "", "", dict.fromkeys(means, v), 1, cluster=str(i // 2)) for i, v in enumerate(values)]
    found = {score.metric: score for score in answer_scores.scores(Answers.of(about, rows))}
    by_prompt = [0.5, 1.0, 0.4]
    assert found["by_prompt"].value == pytest.approx(statistics.fmean(by_prompt))
    assert found["by_prompt"].stderr == pytest.approx(statistics.stdev(by_prompt) / math.sqrt(3))
    assert found["clustered"].stderr == pytest.approx(statistics.stdev(by_prompt) / math.sqrt(3))  # clusters of equal size
    assert [found[name].n for name in means] == [3, 6, 6]
    assert found["alone"].stderr is None


@pytest.mark.parametrize(
    ("index", "change", "message"),
    [
        (0, {"log_probs": [-5.0, -2.0]}, "item 0 of arc: acc_norm is 1 there, and its answer gives 0"),
        (0, {"gold": "1"}, "acc_norm is 1 there"),
        (0, {"correct": False}, "item 0 of arc: correct is False there, and acc_norm is not"),
        (2, {"correct": True}, "item 0 of truth: correct is True there, and mc2 is not"),
        (0, {"gold": "one"}, "acc_norm cannot be computed from it"),
        (0, {"choice_lengths": [1]}, "acc_norm cannot be computed from it"),
        (2, {"gold": "[2]"}, "item 0 of truth: mc2 is 0.375 there, and its answer gives 0.625"),
        (2, {"log_probs": None}, "mc2 cannot be computed from it"),
        (4, {"generated": "#### 5"}, "item 0 of sums: exact_match was extracted otherwise than from its text"),
        (4, {"generated": "#### 5", "extracted": {"exact_match": "5"}}, "exact_match is 1 there, and its answer gives 0"),
        (4, {"gold": "#### 4"}, "exact_match is 1 there, and its answer gives 0"),
    ],
)
def test_an_edited_answer_is_found(index: int, change: dict[str, object], message: str):
    rows = [*ROWS]
    rows[index] = replace(rows[index], **change)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message):
        answer_scores.check(Answers.of(ABOUT, rows), "here")


def test_an_edited_value_moves_a_score():
    rows = [replace(ROWS[0], metrics={"acc_norm": 0.5}), *ROWS[1:]]
    recorded = answer_scores.scores(Answers.of(ABOUT, ROWS))
    assert answer_scores.differences(Answers.of(ABOUT, ROWS), recorded) == []
    found = answer_scores.differences(Answers.of(ABOUT, rows), recorded)
    assert found == [
        "arc acc_norm: 0.5 in the scores, and 0.25 from the answers",
        "average mean: 0.526042 in the scores, and 0.463542 from the answers",
    ]
    assert answer_scores.differences(Answers.of(ABOUT, ROWS), recorded[1:]) == ["arc acc_norm: only in the answers"]
    assert answer_scores.differences(Answers.of(ABOUT, ROWS), [*recorded, Score("gold", "reward", 1.0, None, 1)]) == [
        "gold reward: only in the scores"
    ]


@given(
    values=st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=30),
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=5),
)
def test_means_have_the_bits_of_the_harness(values: list[float], sizes: list[int]):
    from lm_eval.api.metrics import aggregate_subtask_metrics, mean, mean_stderr, pooled_sample_stderr

    rows = [choice("t", str(i), [-1.0], "0", {"m": v / 3}) for i, v in enumerate(values)]
    (score,) = answer_scores.scores(Answers.of(About(tasks=(TaskAbout(name="t", metrics=(Metric(name="m"),)),)), rows))
    thirds = [value / 3 for value in values]
    assert score.value == mean(thirds)
    assert score.stderr == (mean_stderr(thirds) if len(values) > 1 else None)
    subjects = [[values[(i * 7 + j) % len(values)] for j in range(size)] for i, size in enumerate(sizes)]
    flat = [
        choice("t", f"{s}/{i}", [-1.0], "0", {"m": v}, subject=str(s))
        for s, group in enumerate(subjects)
        for i, v in enumerate(group)
    ]
    about = About(tasks=(TaskAbout(name="t", metrics=(Metric(name="m", mean="subjects_by_size"),)),))
    (score,) = answer_scores.scores(Answers.of(about, flat))
    assert score.value == aggregate_subtask_metrics([mean(group) for group in subjects], sizes)
    if min(sizes) > 1:
        assert score.stderr == pooled_sample_stderr([mean_stderr(group) for group in subjects], sizes)


STEPS = st.lists(
    st.sampled_from(
        [
            ExtractionStep(function="regex", regex_pattern=r"(-?[$0-9.,]{2,})|(-?[0-9]+)", group_select=-1),
            NUMBER,
            ExtractionStep(function="take_first"),
            ExtractionStep(function="lowercase"),
            ExtractionStep(function="uppercase"),
            ExtractionStep(function="remove_whitespace"),
        ]
    ),
    max_size=3,
)


@given(steps=STEPS, text=st.text(alphabet=" 0123456789.,#$-Aab\n", max_size=40))
def test_extraction_is_the_harness_own(steps: list[ExtractionStep], text: str):
    from lm_eval.filters import get_filter

    theirs = [[text]]
    for step in steps:
        options = {"regex_pattern": step.regex_pattern, "group_select": step.group_select} if step.regex_pattern else {}
        if step.function != "take_first":
            theirs = [list(each) for each in get_filter(step.function)(**options).apply(theirs, [{}])]
    assert answer_scores.extract(steps, text) == theirs[0][0]


@given(
    text=st.text(alphabet="01,.$#Aa!\n ", max_size=12),
    gold=st.text(alphabet="01,.$#Aa!\n ", max_size=12),
    case=st.booleans(),
    punctuation=st.booleans(),
    patterns=st.lists(st.sampled_from([",", r"\$", "(?s).*#### ", r"\.$"])),
)
def test_comparison_is_the_harness_own(text: str, gold: str, case: bool, punctuation: bool, patterns: list[str]):
    from lm_eval.api.metrics import exact_match_hf_evaluate

    theirs = exact_match_hf_evaluate([text], [gold], patterns or None, case, punctuation)["exact_match"]
    metric = Metric(name="m", rule="exact_match", ignored=tuple(patterns), ignore_case=case, ignore_punctuation=punctuation)
    assert answer_scores.item_value(metric, Answer("t", "0", "", gold, {}, 1, extracted={"m": text})) == theirs


# Damaged files


def _rewrite(path: Path, about: object, table: pa.Table) -> None:
    text = about if isinstance(about, bytes) else json.dumps(about).encode()
    pq.write_table(table.replace_schema_metadata({answers.ABOUT: text}), path)


def test_damage_is_said_in_one_line(written: Path, tmp_path: Path):
    about, table = ABOUT.model_dump(mode="json", by_alias=True), answers.read(written).table
    content = written.read_bytes()

    def refused(message: str) -> None:
        with pytest.raises(UserError, match=message) as caught:
            answers.read(written)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) <= 300 + len(str(tmp_path))

    for spoilt in (content[:-20], content[:4], b"", b"no Parquet at all", content[:200] + b"\xff" * 40 + content[240:]):
        written.write_bytes(spoilt)
        refused("answers.parquet is damaged")
    pq.write_table(table.replace_schema_metadata(None), written)
    refused("not an answers file of spac-repro")
    _rewrite(written, about | {"schema": 2}, table)
    refused(r"schema 2 needs a newer version of spac-repro \(this one reads up to 1\)")
    _rewrite(written, b"{", table)
    refused("metadata, line 1: not JSON")
    _rewrite(written, about | {"tasks": 3}, table)
    refused("tasks")
    _rewrite(written, about, table.drop_columns(["gold"]))
    refused("no column gold")
    _rewrite(written, about, table.set_column(0, "task", pa.array(range(len(ROWS)))))
    refused("type int64 instead of string in the column task")
    _rewrite(written, about | {"tasks": about["tasks"][1:], "averaged": []}, table)
    refused("item 0 of arc: the file describes no such task")
    for tasks, averaged in ((about["tasks"] * 2, []), (about["tasks"], ["nope"])):
        _rewrite(written, about | {"tasks": tasks, "averaged": averaged}, table)
        refused("a task is there twice, or is averaged and not there")
    _rewrite(written, about, table.filter(pc.not_equal(table["task"], "sums")))
    refused("no item of the task sums")
    arc = about["tasks"][0] | {"metrics": [about["tasks"][0]["metrics"][0] | {"mean": "recorded"}]}
    _rewrite(written, about | {"tasks": [arc, *about["tasks"][1:]]}, table)
    refused("a score of arc is recorded and has no value")
    nan = pa.array([[(name, math.nan) for name, _ in row] for row in table["metrics"].to_pylist()], table["metrics"].type)
    _rewrite(written, about, table.set_column(4, table.schema.field("metrics"), nan))
    refused("item 0 of arc: a metric is too large, or no number")
    for value in (None, 1e99):
        spoilt = pa.array([[(name, value) for name, _ in row] for row in table["metrics"].to_pylist()], table["metrics"].type)
        _rewrite(written, about, table.set_column(4, table.schema.field("metrics"), spoilt))
        refused("item 0 of arc: a metric is too large, or no number")
    for column, cell in (("log_probs", []), ("log_probs", [-1.0]), ("log_probs", [-1.0, None, -1.0]), ("choice_lengths", [1])):
        place = table.column_names.index(column)
        cells = [cell if row is not None else None for row in table[column].to_pylist()]
        _rewrite(written, about, table.set_column(place, table.schema.field(column), pa.array(cells, table[column].type)))
        refused("item 0 of arc: its choices or extracted answers are incomplete")
    _rewrite(written, about | {"protocol": "curent"}, table)
    refused(r"unknown protocol 'curent'.*did you mean current")
    _rewrite(written, about, pa.concat_tables([table, table[:1]]))
    refused("item 0 of arc: there twice")
    empty = pa.array([[]] * len(ROWS), table["metrics"].type)
    _rewrite(written, about, table.set_column(4, table.schema.field("metrics"), empty))
    refused("item 0 of arc: no value of acc_norm")
    written.unlink()
    refused("no such file")


def test_a_small_file_that_unfolds_to_much_is_refused(written: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(answers, "MAX_BYTES", 500)
    with pytest.raises(UserError, match="unfolds to more than 500 bytes"):
        answers.read(written)


def test_a_column_whose_name_is_no_text_is_damage(written: Path):
    content = written.read_bytes()
    written.write_bytes(content.replace(b"cluster", b"cl\xf8ster"))
    with pytest.raises(UserError, match="is damaged"):
        answers.read(written)
