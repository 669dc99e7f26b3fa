"""Evaluation protocols: `v0.4.0-spin` against lm-eval 0.4.0 itself, item by item."""

import gzip
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from spac_repro import protocols, suites
from spac_repro.errors import UserError
from spac_repro.evaluation.leaderboard import harness
from spac_repro.evaluation.leaderboard.scoring import evaluate
from spac_repro.evaluation.leaderboard.task_file import tasks_of
from spac_repro.model import policy
from spac_repro.model.policy import use_packed_attention
from spac_repro.runs.results import Score

OLD = Path(sys.prefix) / "lm_eval_0_4_0"  # make check installs it, from requirements/lm_eval_0_4_0.lock
SPIN = "v0.4.0-spin"
OPENLLM = suites.get("openllm")
TASKS = {task.name: task for task in tasks_of(OPENLLM.under(SPIN))}
OLD_FILES = {
    "arc_challenge": "arc/arc_challenge",
    "hellaswag": "hellaswag/hellaswag",
    "truthfulqa_mc2": "truthfulqa/truthfulqa_mc2",
    "mmlu": "mmlu/default/mmlu_{subject}",
    "winogrande": "winogrande/default",
    "gsm8k": "gsm8k/gsm8k",
}
SHOTS = {"arc_challenge": 25, "hellaswag": 10, "truthfulqa_mc2": 0}  # as somebody types them; 5 for the others
Tiny = Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerFast]]
SUBJECT_SIZES = {"anatomy": 2, "marketing": 5, "virology": 3}


def read(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt") as lines:
        return [json.loads(line) for line in lines]


def write(path: Path, its: Iterable[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in its))


def some_questions(source: Path, folder: Path, n: int) -> Path:
    """The first n real questions a task, and of MMLU some of three subjects; examples are whole."""
    for task in TASKS.values():
        for split in task.splits:
            its = read(source / task.data_folder / f"{split}.jsonl.gz")
            if task.by_subject:
                sizes = SUBJECT_SIZES if split == task.test_split else dict.fromkeys(SUBJECT_SIZES, 5)
                its = [row for subject, size in sizes.items() for row in [row for row in its if row["subject"] == subject][:size]]
            elif split == task.test_split:
                its = its[:n]
            write(folder / task.data_folder / f"{split}.jsonl", its)
    return folder


# lm-eval 0.4.0


def old_tasks(folder: Path, data: Path) -> list[str]:
    """Write task files as a user of lm-eval 0.4.0 writes them for questions in files; return their names."""
    names = []
    folder.mkdir()
    for task in TASKS.values():
        for subject in SUBJECT_SIZES if task.by_subject else ("",):
            name = f"{task.name}_{subject}".removesuffix("_")
            files = {split: str(data / task.data_folder / f"{split}.jsonl") for split in task.splits}
            if subject:
                for split, path in files.items():
                    lines = [json.loads(line) for line in Path(path).read_text().splitlines()]
                    files[split] = str(folder / f"{subject}-{split}.jsonl")
                    write(Path(files[split]), (row for row in lines if row["subject"] == subject))
            settings = {
                "include": str(OLD / "lm_eval" / "tasks" / f"{OLD_FILES[task.name].format(subject=subject)}.yaml"),
                "task": name,
                "group": task.name if subject else "openllm",
                "num_fewshot": SHOTS.get(task.name, 5),
                "dataset_path": "json",
                "dataset_name": None,
                "dataset_kwargs": {"data_files": files},
            }
            (folder / f"{name}.yaml").write_text(json.dumps(settings))
            names.append(name)
    return names


def for_old_transformers(folder: Path) -> Path:
    """Write the names of a model folder that transformers 4 knows. The weights and tokenizer.json stay as they are."""
    config = json.loads((folder / "config.json").read_text())
    config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder


def ask_old(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, data: Path, folder: Path) -> dict[str, Any]:
    """What lm-eval 0.4.0 answers: samples by task, and results."""
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    names = old_tasks(folder / "tasks", data)
    script = Path(__file__).with_name("lm_eval_0_4_0.py")
    saved = for_old_transformers(folder / "model")
    command = [sys.executable, str(script), str(saved), str(folder / "tasks"), "out.json", "openllm", "mmlu"]
    environment = {**os.environ, "PYTHONPATH": str(OLD), "HF_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    answers: dict[str, Any] = json.loads((folder / "out.json").read_text())
    assert {*answers["samples"]} == {*names}
    return answers


# The package


class Recorder:
    """Keeps what the present harness says of each item while the package scores a model."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.samples: dict[str, list[dict[str, Any]]] = {}
        inner = lm_eval.evaluate

        def recording(**arguments: Any) -> Any:
            results = inner(**{**arguments, "log_samples": True})
            for task, of_task in results["samples"].items():
                self.samples[task] = sorted(of_task, key=lambda sample: sample["doc_id"])
            return results

        monkeypatch.setattr(lm_eval, "evaluate", recording)


def requests_of(sample: dict[str, Any]) -> list[list[Any]]:
    """Prompt and continuation of each request of an item."""
    return [list(request)[:2] for request in sample["arguments"]]


def differences(ours: dict[str, list[dict[str, Any]]], old: dict[str, Any], *, stop: str, tolerance: float) -> list[str]:
    """Where items differ: prompts, continuations, log-probabilities, texts before the stop token, extracted answers, metrics.

    Args:
        ours: the present harness's samples by task.
        old: the answers of lm-eval 0.4.0.
        stop: the token that ends an answer, which 0.4.0 leaves in the text, with padding behind it.
        tolerance: of log-probabilities, relative to their size.
    """
    found = []
    for task, theirs in old["samples"].items():
        if len(ours[task]) != len(theirs):
            found.append(f"{task}: {len(ours[task])} and {len(theirs)} items")
        for number, (a, b) in enumerate(zip(ours[task], theirs, strict=False)):
            found += [f"{task} {number} {what}" for what in item_differences(a, b, stop, tolerance)]
    return found


def item_differences(a: dict[str, Any], b: dict[str, Any], stop: str, tolerance: float) -> Iterator[str]:
    """Where an item of the present harness differs from that of 0.4.0."""
    for x, y in zip(requests_of(a), b["arguments"], strict=True):
        if x[0] != y[0] or (isinstance(y[1], str) and x[1] != y[1]):
            yield f"prompt: …{x[0][-60:]!r} {x[1]!r} and …{y[0][-60:]!r} {y[1]!r}"
    for (x,), y in zip(a["resps"], b["resps"], strict=True):
        same = x == y.split(stop)[0] if isinstance(y, str) else close(float(x[0]), y[0], tolerance) and bool(x[1]) == y[1]
        if not same:
            yield f"answer: {x!r} and {y!r}"
    if isinstance(b["filtered"][0], str) and a["filtered_resps"] != b["filtered"]:
        yield f"extracted: {a['filtered_resps']} and {b['filtered']}"
    for metric in b["metrics"].keys() & a.keys():
        if not close(float(a[metric]), b["metrics"][metric], tolerance):
            yield f"{metric}: {a[metric]} and {b['metrics'][metric]}"


def close(x: float, y: float, tolerance: float) -> bool:
    return math.isclose(x, y, rel_tol=tolerance, abs_tol=tolerance)


def score_differences(scores: Iterable[Score], old: dict[str, Any]) -> list[str]:
    """Where the scores differ from those of lm-eval 0.4.0."""
    found = []
    for score in scores:
        if score.task in TASKS and score.metric in TASKS[score.task].metrics and score.metric != "acc_macro":
            theirs = old["results"][score.task][TASKS[score.task].metrics[score.metric]]
            found += [f"{score.task}: {score.value} and {theirs}"] if abs(score.value - theirs) > 1e-6 else []
    return found


# Names and files


def test_an_unknown_protocol_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match=r"unknown protocol 'v0.4.0-spn' \(did you mean v0.4.0-spin\?\); choose current, "):
        protocols.get("v0.4.0-spn")


def test_a_protocol_changes_task_files_and_no_names_or_questions() -> None:
    current = tasks_of(OPENLLM)
    for protocol in protocols.names():
        tasks = tasks_of(OPENLLM.under(protocol))
        assert [task.name for task in tasks] == [task.name for task in current]
        for task, usual in zip(tasks, current, strict=True):
            assert (task.splits, task.row_schema, task.data_folder, task.hub) == (
                usual.splits,
                usual.row_schema,
                usual.data_folder,
                usual.hub,
            )
    assert OPENLLM.under(protocols.CURRENT) == OPENLLM
    assert suites.get("mini").under(SPIN) == suites.get("mini")


def test_every_file_of_a_protocol_belongs_to_a_task_and_a_protocol() -> None:
    for file in suites.TASKS_FOLDER.glob("*/*/*.yaml"):
        assert file.parent.name in protocols.names()
        assert (file.parents[1] / file.name).is_file()


def test_only_a_checked_protocol_has_no_mark() -> None:
    assert [protocol.label for protocol in protocols.every()] == ["current", SPIN, "leaderboard-v1 (unchecked)"]


def test_what_spins_protocol_fixes() -> None:
    assert {name: task.num_fewshot for name, task in TASKS.items()} == {
        "arc_challenge": 25,
        "hellaswag": 10,
        "truthfulqa_mc2": 0,
        "mmlu": 5,
        "winogrande": 0,
        "gsm8k": 5,
    }
    assert TASKS["mmlu"].primary_metric == "acc"
    assert tasks_of(OPENLLM)[3].primary_metric == "acc_macro"


def test_the_share_of_true_answers_by_order_and_by_label() -> None:
    """Labels out of order: the answers before the first false one are one, and two are true."""
    doc = {"mc2_targets": {"labels": [1, 0, 1]}}
    results = [(math.log(p), False) for p in (0.1, 0.3, 0.6)]
    assert harness.share_of_leading_answers(doc, results)["acc"] == pytest.approx(0.1)


# lm-eval 0.4.0 itself


@pytest.mark.check
@pytest.mark.real
def test_spins_protocol_equals_lm_eval_0_4_0_item_by_item(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Tiny
) -> None:
    """Six tasks with real questions; the tokenizer would put BOS before every prompt. Other protocols do not equal it."""
    if not (OLD / "lm_eval").is_dir():
        pytest.skip(f"lm-eval 0.4.0 is not installed (make {OLD}/.test)")
    data = some_questions(shared / "leaderboard", tmp_path / "data", 3)
    model, tokenizer = tiny()
    old = ask_old(model, tokenizer, data, tmp_path)
    recorder = Recorder(monkeypatch)
    use_packed_attention(model, "sdpa")
    scores = evaluate(model, tokenizer, OPENLLM, questions_folder=data, protocol=SPIN)
    assert differences(recorder.samples, old, stop="</s>", tolerance=1e-5) == []
    assert score_differences(scores, old) == []

    others = evaluate(model, tokenizer, OPENLLM, questions_folder=data)
    found = differences(recorder.samples, old, stop="</s>", tolerance=1e-5)
    assert {line.split()[0].partition("_")[0] for line in found} >= {
        "truthfulqa",
        "arc",
        "hellaswag",
        "mmlu",
        "winogrande",
        "gsm8k:",
    }
    assert score_differences(others, old) != []


@pytest.mark.check
@pytest.mark.real
def test_spins_protocol_equals_lm_eval_0_4_0_on_a_model_of_your_own(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    """The same with a model folder, two questions a task: minutes for SmolLM2-135M, so it needs to be asked for."""
    folder = os.environ.get("SPAC_REPRO_MODEL")
    if not folder or not (OLD / "lm_eval").is_dir():
        pytest.skip(f"takes minutes; name a model folder in SPAC_REPRO_MODEL, and run make {OLD}/.test")
    data = some_questions(shared / "leaderboard", tmp_path / "data", 2)
    model, tokenizer = policy.load(Path(folder))
    old = ask_old(model.eval(), tokenizer, data, tmp_path)
    recorder = Recorder(monkeypatch)
    use_packed_attention(model, "sdpa")
    scores = evaluate(model, tokenizer, OPENLLM, questions_folder=data, protocol=SPIN)
    assert differences(recorder.samples, old, stop=str(tokenizer.eos_token), tolerance=1e-5) == []
    assert score_differences(scores, old) == []
