"""`compare` question by question: answers files, sample files of lm-eval, and runs; what it refuses, in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from spac_repro.cli.root import app
from spac_repro.errors import UserError
from spac_repro.evaluation import compared
from spac_repro.evaluation.compared import Options
from spac_repro.evaluation.leaderboard import sample_files
from spac_repro.evaluation.leaderboard.question_files import ROW_SCHEMAS
from spac_repro.runs import answers, files
from spac_repro.runs.answers import About, Answer, Answers, Metric, TaskAbout

WINOGRANDE = [
    {"sentence": f"The cat ate the {food} because _ was hungry.", "option1": "cat", "option2": food, "answer": "1"}
    for food in ("fish", "mouse", "bread", "cake")
]
GSM8K = {"question": "How many legs have two cats?", "answer": "Four each. #### 8"}


def sample(doc_id: int, doc: dict[str, Any], filter_name: str = "none", **metrics: float) -> dict[str, Any]:
    choices = [[["-1.5", "False"]], [["-2.5", "False"]]]
    generated = filter_name != "none"
    return {
        "doc_id": doc_id,
        "doc": doc | {"a column of the hub": 1},
        "target": "8" if generated else 0,
        "arguments": {},
        "resps": [["It is #### 8"]] if generated else choices,
        "filtered_resps": ["8"] if generated else [["-1.5", "False"], ["-2.5", "False"]],
        "filter": filter_name,
        "metrics": list(metrics),
        "doc_hash": "",
        **metrics,
    }


def write(path: Path, samples: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(each) + "\n" for each in samples))
    return path


def winogrande(path: Path, values: list[float]) -> Path:
    samples = [sample(i, doc, acc=value) for i, (doc, value) in enumerate(zip(WINOGRANDE, values, strict=False))]
    return write(path, samples)


def answers_file(path: Path, values: list[float], protocol: str = "current") -> Path:
    """An answers file of the package about the same questions: the hash is that of the row as the package reads it."""
    model = ROW_SCHEMAS["winogrande"]
    hashes = [files.sha256_json(model.model_validate(row).model_dump(by_alias=True)) for row in WINOGRANDE]
    rows = [
        Answer("winogrande", f"{i}", hashes[i], "0", {"acc": value}, 9, log_probs=[-1.0, -2.0]) for i, value in enumerate(values)
    ]
    about = About(protocol=protocol, tasks=(TaskAbout(name="winogrande", metrics=(Metric(name="acc"),)),))
    answers.write(path, Answers.of(about, rows))
    return path


NAMES = ["samples_winogrande_2026-11-26T08-00-00.123456.jsonl", "samples_winogrande.jsonl", "winogrande_2026-11-26T08-00-00.jsonl"]


@pytest.mark.parametrize("name", NAMES)
def test_samples_of_lm_eval_are_paired_with_answers(tmp_path: Path, name: str) -> None:
    a = answers_file(tmp_path / "answers.parquet", [0, 0, 1, 1])
    found = compared.compare([a], [winogrande(tmp_path / "s" / name, [1, 1, 1, 0])], Options())
    (score,) = found.scores
    assert (score.questions, score.gained, score.lost) == (4, 2, 1)
    assert "of B: not recorded" in found.protocols


def test_samples_of_a_generated_answer_by_filter_and_of_subjects(tmp_path: Path) -> None:
    mmlu = {"question": "Which?", "choices": list("abcd"), "answer": 2, "subject": "anatomy"}
    folder = tmp_path / "logged"
    strict, flexible = (
        sample(0, GSM8K, name, exact_match=value) for name, value in (("strict-match", 0.0), ("flexible-extract", 1.0))
    )
    write(folder / "samples_gsm8k_2026-11-26T08-00-00.jsonl", [strict, flexible])
    write(folder / "samples_mmlu_anatomy_2026-11-26T08-00-00.jsonl", [sample(0, mmlu, acc=1.0)])
    write(folder / "samples_mmlu_virology_2026-11-26T08-00-00.jsonl", [sample(0, mmlu | {"subject": "virology"}, acc=0.0)])
    write(folder / "samples_my_task_2026-11-26T08-00-00.jsonl", [sample(0, {"q": 1}, f1=0.25)])
    found = sample_files.read(sample_files.find(folder))
    rows = {row.item_id if row.task == "mmlu" else row.task: row for row in found.rows()}
    assert rows["gsm8k"].metrics == {"exact_match": 0.0, "exact_match_flexible": 1.0}
    assert (rows["gsm8k"].generated, rows["gsm8k"].extracted["exact_match"]) == ("It is #### 8", "8")
    assert (rows["anatomy/0"].subject, rows["anatomy/0"].metrics) == ("anatomy", {"acc_macro": 1.0, "acc": 1.0})
    assert rows["virology/0"].correct is False
    assert rows["my_task"].metrics == {"f1": 0.25}
    assert rows["my_task"].content_sha256 == files.sha256_json({"q": 1, "a column of the hub": 1})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("doc_id"), "line 1: doc_id: missing"),
        (lambda s: s.pop("doc"), "line 1: doc: missing"),
        (lambda s: s.pop("target"), "line 1: target: missing"),
        (lambda s: s.pop("resps"), "line 1: resps: missing"),
        (lambda s: s.pop("filtered_resps"), "line 1: filtered_resps: missing"),
        (lambda s: s.pop("filter"), "line 1: filter: missing"),
        (lambda s: s.pop("metrics"), "line 1: metrics: missing"),
        (lambda s: s.pop("acc"), "line 1: the metric acc is missing"),
        (lambda s: s["doc"].pop("option1"), "line 1: doc.option1: missing"),
        (lambda s: s.update(acc="yes"), "line 1: the metric acc is 'yes' and no number"),
        (lambda s: s.update(acc=1e308), "line 1: the metric acc is '1e+308' and no number"),
        (lambda s: s.update(filter="other"), "question 0 of winogrande has no line with the filter none"),
        (lambda s: s.update(doc_id=1), "line 2: question 1 is there twice"),
        (lambda s: s.clear(), "line 1: doc_id: missing"),
    ],
)
def test_a_sample_that_lacks_something_is_one_line(tmp_path: Path, change: Callable[[Any], object], words: str) -> None:
    path = winogrande(tmp_path / NAMES[0], [1, 1, 1, 0])
    samples = [json.loads(line) for line in path.read_text().splitlines()]
    change(samples[0])
    write(path, samples)
    with pytest.raises(UserError) as caught:
        sample_files.read([path])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300


def test_a_task_of_others_without_a_number_for_each_question_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "samples_my_task.jsonl", [sample(0, {"q": 1}, f1=[0.25])])
    with pytest.raises(UserError, match="line 1: no metric has a number for each question"):
        sample_files.read([tmp_path / "samples_my_task.jsonl"])


def test_files_of_two_evaluations_are_refused(tmp_path: Path) -> None:
    for name in NAMES[:2]:
        winogrande(tmp_path / name, [1])
    with pytest.raises(UserError, match="are both about winogrande; keep the files of one evaluation"):
        sample_files.read(sample_files.find(tmp_path))


# The command


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


def test_the_command_lists_what_flipped(tmp_path: Path) -> None:
    a, b = answers_file(tmp_path / "a.parquet", [0, 0, 1, 1]), answers_file(tmp_path / "b.parquet", [1, 0, 1, 1])
    shown = run(a, b)
    assert shown.exit_code == 0, shown.output
    assert shown.output.splitlines()[0].strip() == "protocol of A and B: current"
    found = json.loads(run(a, b, "--json").output)
    assert [question["item_id"] for question in found["changed"]] == ["0"]
    assert run(a, "--against", b, "--json").output == run(a, b, "--json").output
    several = json.loads(run(a, b, "--against", a, "--against", b, "--json").output)
    assert several["scores"][0]["difference"] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a.parquet"], "compare takes A and B, and got 1 path(s)"),
        (["a.parquet", "none.parquet"], "none.parquet: no such run folder"),
        (["a.parquet", "other.parquet"], "protocol of A: current; of B: leaderboard-v1"),
        (["a.parquet", "a.parquet", "--seed-run", "x"], "--seed-run is for two runs"),
        (["a.parquet", "a.parquet", "--against", "e.yaml"], "e.yaml has no answers"),
        (["a.parquet", "damaged.parquet"], "damaged.parquet is damaged"),
        (["a.parquet", "empty.jsonl"], "empty.jsonl holds no samples"),
    ],
)
def test_what_the_command_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str) -> None:
    monkeypatch.chdir(tmp_path)
    answers_file(Path("a.parquet"), [0, 1])
    answers_file(Path("other.parquet"), [0, 1], protocol="leaderboard-v1")
    Path("damaged.parquet").write_bytes(Path("a.parquet").read_bytes()[:-20])
    Path("e.yaml").write_text("recipe: tiny\n")
    Path("empty.jsonl").touch()
    result = run(*arguments)
    assert isinstance(result.exception, UserError), result.output
    assert words in str(result.exception)
    assert len(str(result.exception)) <= 300
