"""The results file of lm-eval: its scores under our names, and what verification makes of them."""

import json

import pytest

from spac_repro import suites
from spac_repro.errors import UserError
from spac_repro.evaluation.leaderboard import lm_eval_results
from spac_repro.evaluation.leaderboard.task_file import tasks_of
from spac_repro.trust.expected import ArguedValue, ExpectedResults, ExpectedRow, Measured, Published
from spac_repro.trust.run_scores import IncomparableError
from spac_repro.trust.verification import verify_scores

SUBJECTS = next(task for task in tasks_of(suites.get("openllm")) if task.name == "mmlu").prompt.stock_subjects()
# Two subjects stand out; their groups have other numbers, which do not count.
ACCURACIES = dict.fromkeys((f"mmlu_{subject}" for subject in SUBJECTS), 0.6) | {"mmlu_anatomy": 0.5, "mmlu_virology": 0.7}
REST = [name for name in ACCURACIES if name != "mmlu_anatomy"]

# As lm-eval's command line writes it, shortened.
RESULTS = {
    "results": {
        "arc_challenge": {
            "alias": "arc_challenge",
            "acc,none": 0.5,
            "acc_stderr,none": 0.01,
            "acc_norm,none": 0.6,
            "acc_norm_stderr,none": 0.02,
        },
        "truthfulqa_mc2": {"alias": "truthfulqa_mc2", "acc,none": 0.4, "acc_stderr,none": 0.01},
        "winogrande": {"alias": "winogrande", "acc,none": 0.7, "acc_stderr,none": "N/A"},
        "gsm8k": {"alias": "gsm8k", "exact_match,strict-match": 0.3, "exact_match,flexible-extract": 0.35},
        "hellaswag": {"alias": "hellaswag", "acc,none": 0.6, "acc_norm,none": 0.8},
        "mmlu": {"alias": "mmlu", "acc,none": 0.55, "acc_stderr,none": 0.01},
        "mmlu_stem": {"alias": " - stem", "acc,none": 0.9},
        **{name: {"alias": name, "acc,none": value} for name, value in ACCURACIES.items()},
        "mytask": {"alias": "mytask", "f1,none": 0.25, "f1_stderr,none": 0.1, "note": "text"},
    },
    "group_subtasks": {"mmlu": ["mmlu_stem", *REST], "mmlu_stem": ["mmlu_anatomy"], "arc_challenge": []},
    "versions": {"arc_challenge": 1.0, "mmlu": 2, "gsm8k": 3.0},
    "n-samples": {
        "arc_challenge": {"original": 1172, "effective": 100},
        **{name: {"original": 200, "effective": 10} for name in ACCURACIES},
    },
    "n-shot": {
        **{"arc_challenge": 25, "truthfulqa_mc2": 0, "winogrande": 5, "gsm8k": 5, "hellaswag": 10, "mytask": 3},
        **dict.fromkeys(ACCURACIES, 5),
    },
    "system_instruction": None,
    "fewshot_as_multiturn": False,
    "chat_template": None,
    "lm_eval_version": "0.4.13",
}


@pytest.fixture
def scores_file(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(RESULTS))
    return path


def test_scores_have_our_names(scores_file):
    evidence = lm_eval_results.read(scores_file, recipe="r", method="spac", iteration=2)
    scores = {(score.task, score.metric): score for score in evidence.scores[2]}
    assert {key: score.value for key, score in scores.items()} == pytest.approx(
        {
            ("arc_challenge", "acc_norm"): 0.6,
            ("truthfulqa_mc2", "mc2"): 0.4,
            ("winogrande", "acc"): 0.7,
            ("gsm8k", "exact_match"): 0.3,
            ("gsm8k", "exact_match_flexible"): 0.35,
            ("hellaswag", "acc_norm"): 0.8,
            ("mmlu", "acc_macro"): 0.6,  # of its two subjects; not of the group of subjects between them
            ("mmlu", "acc"): 0.55,
            ("mmlu_stem", "acc"): 0.9,
            **{(name, "acc"): value for name, value in ACCURACIES.items()},
            ("mytask", "f1"): 0.25,
            ("average", "mean"): (0.6 + 0.4 + 0.7 + 0.3 + 0.8 + 0.6) / 6,
        }
    )
    arc = scores["arc_challenge", "acc_norm"]
    assert (arc.stderr, arc.n, arc.version) == (0.02, 100, "1.0")
    assert (scores["mmlu", "acc"].n, scores["mmlu", "acc"].version) == (10 * len(SUBJECTS), "2")
    assert scores["winogrande", "acc"].stderr is None
    assert evidence.harness == "lm_eval 0.4.13"


def expected_file(tmp_path, **changes):
    row = {
        "method": "spac", "iteration": 2, "task": "arc_challenge", "metric": "acc_norm", "source": "paper", "value": 0.61,
        "primary": True, "tolerance": ArguedValue(value=0.02, argument="a"), "version": "1.0", "n": 100,
    }  # fmt: skip
    path = tmp_path / "expected.yaml"
    other = ExpectedRow(**{**row, "iteration": 3})
    sources = {"paper": Published(kind="published", citation="c")}
    path.write_text(ExpectedResults(recipe="r", sources=sources, rows=(ExpectedRow(**{**row, **changes}), other)).as_yaml())
    return path


def verified(scores_file, expected, **changes):
    evidence = lm_eval_results.read(scores_file, **{"recipe": "r", "method": "spac", "iteration": 2, **changes})
    return verify_scores(evidence, expected)


def test_scores_are_verified(tmp_path, scores_file):
    verdict = verified(scores_file, expected_file(tmp_path))
    assert verdict.status == "verified"
    assert "does not say which settings" in verdict.notes[0]
    assert verified(scores_file, expected_file(tmp_path, value=0.63)).exit_code == 1
    assert verified(scores_file, expected_file(tmp_path, value=0.57)).exit_code == 1
    assert verified(scores_file, expected_file(tmp_path), iteration=1).exit_code == 2
    assert "no primary row for spca" in verified(scores_file, expected_file(tmp_path), method="spca").reason


def test_scores_of_another_task_version_are_refused(tmp_path, scores_file):
    words = "has version 1.0, and the row spac iteration 2 arc_challenge acc_norm has 2.0"
    with pytest.raises(IncomparableError, match=words) as caught:
        verified(scores_file, expected_file(tmp_path, version="2.0"))
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_scores_on_other_questions_are_not_compared(tmp_path, scores_file):
    verdict = verified(scores_file, expected_file(tmp_path, n=1172))
    assert verdict.exit_code == 2
    assert "on 100 questions is not compared" in verdict.notes[1]


def test_scores_of_another_harness_or_recipe_are_refused(tmp_path, scores_file):
    with pytest.raises(IncomparableError, match="is about the recipe r"):
        verified(scores_file, expected_file(tmp_path), recipe="other")
    source = Measured(
        kind="measured", commit="c", lock_sha256="l", hardware="h", date="2026-01-31", seeds=(1, 2, 3), command="x",
        harness="lm_eval 0.4.0",
    )  # fmt: skip
    row = ExpectedRow(
        method="spac",
        iteration=2,
        task="arc_challenge",
        metric="acc_norm",
        source="ours",
        value=0.6,
        seeds=3,
        sd=0.01,
        primary=True,
    )
    path = tmp_path / "measured.yaml"
    path.write_text(ExpectedResults(recipe="r", sources={"ours": source}, rows=(row,)).as_yaml())
    with pytest.raises(IncomparableError, match=r"evaluated by lm_eval 0\.4\.13, and the row .* by lm_eval 0\.4\.0"):
        verified(scores_file, path)


def changed(tmp_path, **changes):
    path = tmp_path / "changed.json"
    path.write_text(json.dumps({**RESULTS, **changes}))
    return path


def without(table, name):
    return {table: {key: value for key, value in RESULTS[table].items() if key != name}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n-shot": {**RESULTS["n-shot"], "arc_challenge": 0}}, "arc_challenge was measured with 0 few-shot examples, .* has 25"),
        ({"n-shot": {**RESULTS["n-shot"], "mmlu_anatomy": 0}}, "mmlu_anatomy was measured with 0 few-shot examples, and mmlu"),
        (without("n-shot", "gsm8k"), "no n-shot of gsm8k"),
        ({"n-shot": None}, "no n-shot of arc_challenge"),
        ({"chat_template": "{{ messages }}"}, "with a chat template"),
        ({"chat_template_sha": "a"}, "with a chat template"),
        ({"fewshot_as_multiturn": True}, "few-shot examples as turns of a chat"),
        ({"system_instruction": "Be kind."}, "with a system instruction"),
        (
            {"results": {"harness|arc:challenge|25": {"acc_norm": 0.6}}},
            r"harness\|arc:challenge\|25 is of the Open LLM",
        ),
        ({"results": {"arc_challenge": {"acc": 0.5, "acc_norm": 0.6}}}, "arc_challenge has the metric acc without a filter"),
        ({"results": {"gsm8k": {"exact_match,get-answer": 0.3}}}, "gsm8k has the filter get-answer of lm-eval 0.4.0"),
    ],
)
def test_scores_that_were_measured_otherwise_are_refused(tmp_path, changes, words):
    with pytest.raises(IncomparableError, match=words) as caught:
        verified(changed(tmp_path, **changes), expected_file(tmp_path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300 + len(str(tmp_path))
    assert caught.value.exit_code == 2


def test_a_part_of_the_subjects_is_no_macro_mean(tmp_path):
    """One subject, all but one, and a group without subjects."""
    for subjects in (["mmlu_anatomy"], REST, []):
        path = changed(
            tmp_path,
            group_subtasks={"mmlu": subjects},
            results={"mmlu": {"acc,none": 0.5}, **{name: {"acc,none": 0.5} for name in subjects}},
            **{"n-shot": {**dict.fromkeys(subjects, 5), "mmlu": 5}},
        )
        evidence = lm_eval_results.read(path, recipe="r", method="spac", iteration=2)
        metrics = {(score.task, score.metric) for score in evidence.scores[2]}
        assert ("mmlu", "acc_macro") not in metrics
        assert ("average", "mean") not in metrics
        assert ("mmlu", "acc") in metrics


def test_scores_on_an_unknown_number_of_questions_are_not_compared(tmp_path):
    verdict = verified(changed(tmp_path, **without("n-samples", "arc_challenge")), expected_file(tmp_path))
    assert verdict.exit_code == 2
    assert "on an unknown number of questions is not compared" in verdict.notes[1]


def test_scores_of_an_unknown_version_are_refused(tmp_path):
    with pytest.raises(IncomparableError, match="has version unknown"):
        verified(changed(tmp_path, **without("versions", "arc_challenge")), expected_file(tmp_path))


def test_a_group_that_contains_itself_ends(tmp_path):
    path = changed(tmp_path, group_subtasks={"mmlu": ["mmlu"]}, **{"n-shot": {**RESULTS["n-shot"], "mmlu": 5}})
    assert lm_eval_results.read(path, recipe="r", method="spac", iteration=2).scores


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "line 1: not JSON"),
        (b"[1]", "not a results file of lm-eval"),
        (b'{"results": [1]}', "not a results file of lm-eval"),
        (b'{"results": {"arc": 1}}', "not a results file of lm-eval"),
        (b'"\xff"', "not UTF-8"),
        (b"[" * 100_000, "nested more than 64 levels deep"),
    ],
)
def test_files_that_are_no_scores(tmp_path, text, words):
    path = tmp_path / "scores.json"
    path.write_bytes(text)
    with pytest.raises(UserError, match=words) as caught:
        verified(path, expected_file(tmp_path))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no such file"):
        verified(tmp_path / "none.json", expected_file(tmp_path))


def test_file_without_scores_verifies_nothing(tmp_path):
    path = tmp_path / "scores.json"
    path.write_text('{"results": {}}')
    assert verified(path, expected_file(tmp_path)).exit_code == 2
    path.write_text(
        '{"results": {"arc_challenge": {"acc_norm,none": NaN}}, "versions": {"arc_challenge": 1.0},'
        '"n-samples": {"arc_challenge": {"effective": 100}}, "n-shot": {"arc_challenge": 25}}'
    )
    assert verified(path, expected_file(tmp_path)).exit_code == 1
