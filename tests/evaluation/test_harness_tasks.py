"""Tasks of lm-eval by name: asked, recorded and paired as a suite's are, from questions that need no hub."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from spac_repro import suites
from spac_repro.errors import UnfitEnvironmentError, UserError
from spac_repro.evaluation.leaderboard import harness_tasks
from spac_repro.evaluation.leaderboard.scoring import ask, select_tasks
from spac_repro.model.policy import use_packed_attention
from spac_repro.runs import answer_scores, answers
from spac_repro.trust.question_comparison import compare_questions
from spac_repro.trust.question_pairs import Evaluation

Tiny = Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerFast]]


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TaskManager:
    """The harness with three tasks, of which two are a group, and none that needs the hub."""
    rows = [{"question": f"{i} and {i}?", "choices": [str(i), str(2 * i), "many"], "answer": i % 3} for i in range(1, 8)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    loader = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "test.jsonl")}},
        "test_split": "test",
    }
    metric = {"aggregation": "mean", "higher_is_better": True}
    sums: dict[str, Any] = {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
    }
    sums |= {"metric_list": [{"metric": "acc", **metric}, {"metric": "acc_norm", **metric}], "metadata": {"version": 3.0}}
    said = {"output_type": "generate_until", "doc_to_text": "{{question}}", "doc_to_target": "{{choices[1]}}"}
    said |= {"generation_kwargs": {"until": ["\n"], "max_gen_toks": 8}, "metric_list": [{"metric": "exact_match", **metric}]}
    missing = {**sums, "task": "missing", "dataset_kwargs": {"data_files": {"test": str(tmp_path / "nowhere.jsonl")}}}
    for content in ({"task": "sums", **loader, **sums}, {"task": "said", **loader, **said}, {**loader, **missing}):
        (tmp_path / f"{content['task']}.yaml").write_text(json.dumps(content))
    (tmp_path / "both.yaml").write_text(json.dumps({"group": "both", "task": ["sums", "said"]}))
    own = TaskManager(include_path=str(tmp_path), include_defaults=False)
    monkeypatch.setattr(harness_tasks, "manager", lambda: own)
    return own


def test_scores_are_the_harness_own_and_nothing_is_averaged(local: TaskManager, tmp_path: Path, tiny: Tiny) -> None:
    model, tokenizer = tiny()
    lm = HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=2)
    theirs = lm_eval.simple_evaluate(model=lm, tasks=["both"], task_manager=local, log_samples=False)
    assert theirs is not None
    use_packed_attention(model, "sdpa")
    answered = ask(model, tokenizer, suites.get("lm-eval:both"))
    scores = answer_scores.scores(answered)
    assert [(score.task, score.metric, score.n, score.version) for score in scores] == [
        ("sums", "acc", 7, "3.0"),
        ("sums", "acc_norm", 7, "3.0"),
        ("said", "exact_match", 7, "Yaml"),
    ]
    for score in scores:
        assert score.value == pytest.approx(theirs["results"][score.task][f"{score.metric},none"])
    assert answered.about.suite == "lm-eval:both"

    file = tmp_path / "a.parquet"
    answers.write(file, answered)
    again = answers.read(file)
    limited = ask(model, tokenizer, suites.get("lm-eval:sums"), limit=3)
    assert [row.item_id for row in limited.rows()] == ["0", "1", "2"]
    paired = compare_questions([Evaluation("A", again, None)], [Evaluation("B", limited, None)])
    assert paired.scores


@pytest.mark.usefixtures("local")
def test_what_lm_eval_does_not_have_is_one_line(tiny: Tiny) -> None:
    with pytest.raises(UserError, match=r"lm-eval has no task 'sum' \(did you mean sums\?\)"):
        select_tasks(suites.get("lm-eval:sum"))
    with pytest.raises(UnfitEnvironmentError, match=r"missing: lm-eval cannot load the questions") as caught:
        ask(*tiny(), suites.get("lm-eval:missing"))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300
    for wrong in ("lm-eval:", "lm-eval:a,,b", "lm-eval:a,a"):
        with pytest.raises(UserError, match="name each task of lm-eval once"):
            suites.get(wrong)
    with pytest.raises(UserError, match="omit --tasks"):
        select_tasks(suites.get("lm-eval:sums"), ["sums"])
    with pytest.raises(UserError, match="is for `evaluate --suite`"):
        suites.of_recipe("lm-eval:sums")
