"""The Open LLM Leaderboard's tasks through lm-eval: the questions asked, the scores, and what is said about bad files."""

import copy
import gzip
import json
import math
import random
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from spac_repro import suites
from spac_repro.errors import UnfitEnvironmentError, UserError
from spac_repro.evaluation.leaderboard import greedy, sample_files
from spac_repro.evaluation.leaderboard.average import average, rows
from spac_repro.evaluation.leaderboard.question_files import SUFFIXES, even_quotas
from spac_repro.evaluation.leaderboard.scoring import ask, evaluate, harness_version, read_questions
from spac_repro.evaluation.leaderboard.task_file import tasks_of
from spac_repro.evaluation.leaderboard.task_keys import STOCK_TASKS
from spac_repro.model.policy import use_packed_attention
from spac_repro.runs import answer_scores
from spac_repro.runs.answers import Answers
from spac_repro.runs.results import Score
from spac_repro.trust.question_comparison import compare_questions
from spac_repro.trust.question_pairs import Evaluation

OPENLLM = suites.get("openllm")
TASKS = {task.name: task for task in tasks_of(OPENLLM)}
SUBJECT_SIZES = {"anatomy": 2, "marketing": 7, "virology": 4}
SUBJECTS = tuple(SUBJECT_SIZES)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Every byte is a token."""
    alphabet = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def build(seed: int = 0, context: int = 16384) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    shape = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "initializer_range": 0.2,
    }
    config = LlamaConfig(vocab_size=258, max_position_embeddings=context, bos_token_id=0, eos_token_id=1, **shape)
    return use_packed_attention(LlamaForCausalLM(config).eval(), "sdpa")


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return build()


def write(path: Path, its: Iterable[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in its))


def read(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        return [json.loads(line) for line in lines]


def synthetic(folder: Path) -> Path:
    """A few made-up questions a benchmark, in the columns of the public data sets."""

    def arc(i: int) -> dict[str, Any]:
        return {
            "question": f"What is {i} and {i}?",
            "choices": {"label": list("ABC"), "text": [str(2 * i), "nothing", f"{i}{i}"]},
            "answerKey": "ABC"[i % 3],
        }

    def hellaswag(i: int) -> dict[str, Any]:
        endings = ["sits down.", "counts on.", "goes home early.", "starts again at zero."]
        return {
            "activity_label": "Counting",
            "ctx_a": f"Someone counts to {i}. she",
            "ctx_b": "",
            "endings": endings,
            "label": str(i % 4),
        }

    def truthful(i: int) -> dict[str, Any]:
        return {
            "question": f"Is {i} odd?",
            "mc2_targets": {"choices": ["yes", "no", "" if i else "maybe"], "labels": [i % 2, 1 - i % 2, 0]},
        }

    def mmlu(i: int, subject: str) -> dict[str, Any]:
        return {"question": f"{subject} {i}?", "choices": ["one", "two", "three", "four"], "answer": i % 4, "subject": subject}

    def winogrande(i: int) -> dict[str, Any]:
        return {
            "sentence": f"Ann gave Bea {i} pears because _ was hungry.",
            "option1": "Ann",
            "option2": "Bea",
            "answer": "12"[i % 2],
        }

    def gsm8k(i: int) -> dict[str, Any]:
        return {"question": f"How much is {i} and 7?", "answer": f"It is {i} + 7.\n#### {i + 7}"}

    write(folder / "arc_challenge/train.jsonl", map(arc, range(30)))
    write(folder / "arc_challenge/test.jsonl", map(arc, range(30, 37)))
    write(folder / "hellaswag/train.jsonl", map(hellaswag, range(12)))
    write(folder / "hellaswag/validation.jsonl", map(hellaswag, range(12, 19)))
    write(folder / "truthful_qa/validation.jsonl", map(truthful, range(7)))
    write(folder / "mmlu/dev.jsonl", (mmlu(i, subject) for subject in SUBJECTS for i in range(5)))
    write(folder / "mmlu/test.jsonl", (mmlu(i, subject) for subject, n in SUBJECT_SIZES.items() for i in range(5, 5 + n)))
    write(folder / "winogrande/train.jsonl", map(winogrande, range(6)))
    write(folder / "winogrande/validation.jsonl", map(winogrande, range(6, 13)))
    write(folder / "gsm8k/train.jsonl", map(gsm8k, range(6)))
    write(folder / "gsm8k/test.jsonl", map(gsm8k, range(6, 9)))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def scores(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, data: Path) -> list[Score]:
    return evaluate(model, tokenizer, OPENLLM, questions_folder=data)


def values(scores: Iterable[Score]) -> dict[tuple[str, str], float]:
    return {(score.task, score.metric): score.value for score in scores}


# What the harness says when asked without this package in between.


def own_tasks(folder: Path, data: Path) -> Path:
    """Task files as a user of the harness writes them: the stock file, and local files through the `json` loader."""
    folder.mkdir()
    for name, task in TASKS.items():
        subjects = SUBJECTS if name == "mmlu" else (None,)
        for subject in subjects:
            files = {split: str(next((data / task.data_folder).glob(f"{split}.*"))) for split in task.splits}
            if subject is not None:
                for split, path in files.items():
                    files[split] = str(folder / f"{subject}-{split}.jsonl")
                    write(Path(files[split]), (row for row in read(Path(path)) if row["subject"] == subject))
            leaf = name if subject is None else f"mmlu_{subject}"
            settings = {
                "include": str(task.prompt.stock_file(subject or "")),
                "task": leaf,
                "num_fewshot": {"arc_challenge": 25, "hellaswag": 10, "truthfulqa_mc2": 0}.get(name, 5),
                "dataset_path": "json",
                "dataset_name": None,
                "dataset_kwargs": {"data_files": files},
            }
            (folder / f"{leaf}.yaml").write_text(json.dumps(settings))
    group = {"group": "mmlu", "task": [f"mmlu_{subject}" for subject in SUBJECTS]}
    group |= {"aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}], "metadata": {"version": 2}}
    (folder / "mmlu.yaml").write_text(json.dumps(group))
    return folder


def disagreements(scores: Iterable[Score], results: dict[str, Any]) -> list[str]:
    """Where our scores and the harness's results for the six tasks differ: value, standard error, items, version."""
    found = []
    for score in scores:
        if score.task == "average" or score.metric == "acc_macro":
            continue
        theirs = results["results"][score.task]
        key = TASKS[score.task].metrics[score.metric]
        for what, ours, its in (
            ("value", score.value, theirs[key]),
            ("stderr", score.stderr, theirs[key.replace(",", "_stderr,")]),
            ("n", score.n, theirs["sample_len"]),
        ):
            if not math.isclose(ours if ours is not None else math.nan, its, rel_tol=1e-5, abs_tol=1e-12):
                found.append(f"{score.task} {score.metric} {what}: {ours} and {its}")
        if score.version != str(results["versions"][score.task]):
            found.append(f"{score.task} version: {score.version} and {results['versions'][score.task]}")
    return found


@pytest.fixture(scope="module")
def results(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """The harness's own evaluation of the same model on the same questions."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    folder = own_tasks(tmp_path_factory.mktemp("own") / "tasks", data)
    answer = lm_eval.simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=3),
        tasks=list(TASKS),
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        log_samples=False,
    )
    assert answer is not None
    return dict(answer)


def test_log_probabilities_are_the_harness_own_whatever_is_shared(model, tokenizer):
    """Choices after one prompt, prompts that differ late, prompts that share nothing, one beyond the context."""
    from lm_eval.models.huggingface import HFLM

    from spac_repro.evaluation.leaderboard.packed_hflm import PackedHFLM

    model = build(context=64)
    generator = random.Random(0)

    def draw(n: int) -> list[int]:
        return [generator.randrange(2, 258) for _ in range(n)]

    shots = draw(40)
    asked = [([*shots, 5], draw(n)) for n in (1, 3, 2)] + [(shots + draw(4), [7, 8]), (shots + draw(6), [7, 8])]
    asked += [(draw(9), draw(2)), (draw(70), draw(5)), (draw(80), draw(1))]
    requests = [(("", ""), prompt, continuation) for prompt, continuation in asked]
    with torch.no_grad():
        ours = PackedHFLM(model, tokenizer, 4)._loglikelihood_tokens(requests)
        theirs = HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=4)._loglikelihood_tokens(
            requests, disable_tqdm=True
        )
    assert [value for value, _ in ours] == pytest.approx([value for value, _ in theirs], rel=1e-5)
    assert [likeliest for _, likeliest in ours] == [likeliest for _, likeliest in theirs]


def test_scores_equal_the_harness_own(scores: list[Score], results: dict[str, Any]) -> None:
    assert disagreements(scores, results) == []


def test_the_comparison_fails_for_another_model(tokenizer: PreTrainedTokenizerFast, data: Path, results: dict[str, Any]) -> None:
    other = evaluate(build(seed=9), tokenizer, OPENLLM, questions_folder=data)
    assert {line.split()[0] for line in disagreements(other, results)} >= TASKS.keys() - {"gsm8k"}


def test_the_comparison_fails_for_other_questions(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, data: Path, results: dict[str, Any]
) -> None:
    fewer = evaluate(model, tokenizer, OPENLLM, questions_folder=data, limit=2)
    assert {line.split()[0] for line in disagreements(fewer, results)} == set(TASKS)


def test_stock_data_sets_are_the_harness_own() -> None:
    from lm_eval.tasks._yaml_loader import load_yaml

    for task in TASKS.values():
        stock = load_yaml(task.prompt.stock_file("anatomy"), resolve_func=False)
        assert (stock["dataset_path"], stock.get("dataset_name")) == (
            task.hub.dataset,
            task.hub.config and task.hub.config.format(subject="anatomy"),
        )
        asked = stock.get("test_split") or stock.get("validation_split")
        examples = stock.get("fewshot_split") or stock.get("training_split")
        assert (asked, examples) == (task.test_split, task.fewshot_split)
    assert len(TASKS["mmlu"].prompt.stock_subjects()) == 57
    group = load_yaml(STOCK_TASKS / "mmlu" / "default" / "_mmlu.yaml", resolve_func=False)
    assert TASKS["mmlu"].harness_group(group["task"]) == group


# The scores.


def test_each_task_has_its_metrics_items_and_version(scores: list[Score]) -> None:
    asked = {(score.task, score.metric): score.n for score in scores}
    assert asked == {
        ("arc_challenge", "acc_norm"): 7,
        ("hellaswag", "acc_norm"): 7,
        ("truthfulqa_mc2", "mc2"): 7,
        ("mmlu", "acc_macro"): 13,
        ("mmlu", "acc"): 13,
        ("winogrande", "acc"): 7,
        ("gsm8k", "exact_match"): 3,
        ("gsm8k", "exact_match_flexible"): 3,
        ("average", "mean"): 44,
    }
    assert all(score.version for score in scores if score.task != "average")
    assert all(score.stderr is not None for score in scores)
    assert harness_version().startswith("lm_eval 0.")


def test_mmlu_both_ways(scores: list[Score], results: dict[str, Any]) -> None:
    by_subject = [results["results"][f"mmlu_{subject}"] for subject in SUBJECTS]
    accuracy = [subject["acc,none"] for subject in by_subject]
    sizes = [subject["sample_len"] for subject in by_subject]
    assert len(set(accuracy)) > 1, "equal subjects would hide the weights"
    assert values(scores)["mmlu", "acc_macro"] == pytest.approx(sum(accuracy) / 3)
    assert values(scores)["mmlu", "acc"] == pytest.approx(sum(a * n for a, n in zip(accuracy, sizes, strict=True)) / 13)
    assert values(scores)["mmlu", "acc"] != pytest.approx(values(scores)["mmlu", "acc_macro"])


def test_mmlu_with_one_question_a_subject_has_the_error_of_the_pooled_questions(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, data: Path
) -> None:
    macro, weighted = evaluate(model, tokenizer, OPENLLM, tasks=["mmlu"], questions_folder=data, limit=3)
    assert macro.value == pytest.approx(weighted.value)
    share = macro.value
    assert macro.stderr == pytest.approx(math.sqrt(share * (1 - share) / 2))
    assert weighted.stderr == pytest.approx(macro.stderr)


def test_average_is_the_plain_mean_of_the_six_primary_metrics(scores: list[Score]) -> None:
    primary = [score for score in scores if score.task in TASKS and TASKS[score.task].primary_metric == score.metric]
    assert len(primary) == 6
    (mean,) = average(scores, TASKS.values())
    assert mean == scores[-1]
    assert mean.value == pytest.approx(sum(score.value for score in primary) / 6)
    assert mean.stderr == pytest.approx(math.sqrt(sum((score.stderr or 0) ** 2 for score in primary)) / 6)
    assert ("mmlu", "acc_macro") in values(primary)
    assert average([score for score in scores if score.task != "gsm8k"], TASKS.values()) == []


def test_rows_for_json(scores: list[Score]) -> None:
    row = json.loads(json.dumps(rows(scores)))[0]
    assert {"task", "metric", "value", "stderr", "n"} <= row.keys()
    assert row["task"] == "arc_challenge"


def test_gsm8k_strict_and_flexible(tokenizer: PreTrainedTokenizerFast, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first answer has the mark, the second the number alone, the third neither."""
    model = build()
    monkeypatch.setattr(greedy, "serves", lambda model: False)
    spoken = ["6 + 7\n#### 13", "It is 14.", "I cannot tell"]

    def generate(input_ids: torch.Tensor, **_: Any) -> torch.Tensor:
        said = [tokenizer(text + "</s>" * (20 - len(text)))["input_ids"] for text in spoken]
        order = [
            next(i for i in range(3) if f"How much is {6 + i} and 7?\nAnswer:" in tokenizer.decode(row[-40:])) for row in input_ids
        ]
        return torch.cat([input_ids, torch.tensor([said[i] for i in order])], dim=1)

    monkeypatch.setattr(model, "generate", generate)
    measured = values(evaluate(model, tokenizer, OPENLLM, tasks=["gsm8k"], questions_folder=data))
    assert measured["gsm8k", "exact_match"] == pytest.approx(1 / 3)
    assert measured["gsm8k", "exact_match_flexible"] == pytest.approx(2 / 3)


def test_twice_the_same_and_nothing_else_touched(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model.train()
    state = torch.get_rng_state()
    first = evaluate(model, tokenizer, OPENLLM, tasks=["hellaswag", "truthfulqa_mc2"], questions_folder=data)
    assert model.training
    model.eval()
    assert first == evaluate(model, tokenizer, OPENLLM, tasks=["hellaswag", "truthfulqa_mc2"], questions_folder=data)
    assert torch.equal(state, torch.get_rng_state())
    assert tokenizer.pad_token is None
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("batch_size", [1, 5])
def test_batch_size_changes_nothing_but_rounding(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, data: Path, scores: list[Score], batch_size: int
) -> None:
    again = evaluate(
        model, tokenizer, OPENLLM, tasks=["arc_challenge", "truthfulqa_mc2"], questions_folder=data, batch_size=batch_size
    )
    for key, value in values(again).items():
        assert value == pytest.approx(values(scores)[key], rel=1e-4)


def test_scores_do_not_depend_on_what_else_is_asked(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, data: Path, scores: list[Score]
) -> None:
    alone = evaluate(model, tokenizer, OPENLLM, tasks=["truthfulqa_mc2"], questions_folder=data)
    assert alone == [score for score in scores if score.task == "truthfulqa_mc2"]


def test_progress_counts_requests(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, data: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    evaluate(
        model,
        tokenizer,
        OPENLLM,
        tasks=["winogrande"],
        questions_folder=data,
        limit=4,
        progress=lambda *report: seen.append(report),
    )
    assert seen == [("winogrande", done, 8) for done in range(1, 9)]


def test_prompts_cut_to_the_context_are_noted(tokenizer: PreTrainedTokenizerFast, data: Path) -> None:
    (score,) = evaluate(build(context=300), tokenizer, OPENLLM, tasks=["arc_challenge"], questions_folder=data, limit=2)
    assert score.note == "6 prompts cut to the model's 300 tokens"


def test_prompts_of_generations_are_counted_and_not_their_batches(tokenizer: PreTrainedTokenizerFast, data: Path) -> None:
    cut = build(context=300)
    (score,) = evaluate(cut, tokenizer, OPENLLM, tasks=["gsm8k"], questions_folder=data, limit=3)[:1]
    assert score.note == "3 prompts cut to the model's 300 tokens"


def test_too_short_a_context_for_generation(tokenizer: PreTrainedTokenizerFast, data: Path) -> None:
    with pytest.raises(UserError, match=r"gsm8k generates up to 256 tokens, and the model's context is 256"):
        evaluate(build(context=256), tokenizer, OPENLLM, tasks=["gsm8k"], questions_folder=data)


# The questions.


def test_limit_takes_the_first_and_spreads_over_subjects(data: Path) -> None:
    asked = {
        task.name: task.question_texts(subtasks)
        for task, subtasks in read_questions(OPENLLM, questions_folder=data, limit=4).items()
    }
    assert {name: len(words) for name, words in asked.items()} == dict.fromkeys(TASKS, 4) | {"gsm8k": 3}
    assert asked["arc_challenge"][0] == "What is 30 and 30?"
    assert asked["mmlu"] == ["anatomy 5?", "anatomy 6?", "marketing 5?", "virology 5?"]
    assert asked["hellaswag"][0] == "Someone counts to 12. she"


@given(total=st.integers(1, 60), sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12))
def test_spread_is_complete_and_even(total: int, sizes: list[int]) -> None:
    quotas = even_quotas(total, sizes)
    assert sum(quotas) == min(total, sum(sizes))
    assert all(quota <= size for quota, size in zip(quotas, sizes, strict=True))
    open_ended = [quota for quota, size in zip(quotas, sizes, strict=True) if quota < size]
    assert not open_ended or max(quotas) <= min(open_ended) + 1


def test_spread_leaves_even_gaps() -> None:
    assert [i for i, quota in enumerate(even_quotas(4, [10] * 57)) if quota] == [0, 14, 28, 42]
    assert even_quotas(7, [1, 9, 1]) == [1, 5, 1]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_may_be_gzipped_or_parquet(tmp_path: Path, data: Path, suffix: str) -> None:
    import pyarrow
    import pyarrow.parquet

    plain = data / "truthful_qa" / "validation.jsonl"
    path = tmp_path / "truthful_qa" / f"validation{suffix}"
    path.parent.mkdir()
    if suffix == ".parquet":
        its = read(plain)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(its), path)
    else:
        path.write_bytes(gzip.compress(plain.read_bytes()) if suffix.endswith("gz") else plain.read_bytes())
    (subtasks,) = read_questions(OPENLLM, tasks=["truthfulqa_mc2"], questions_folder=tmp_path).values()
    (same,) = read_questions(OPENLLM, tasks=["truthfulqa_mc2"], questions_folder=data).values()
    assert subtasks == same


# What is said when something is wrong.


def _replace_line(path: Path, number: int, change: Callable[[str], str]) -> None:
    lines = path.read_text().splitlines()
    lines[number - 1] = change(lines[number - 1])
    path.write_text("\n".join(lines) + "\n")


def _set(**columns: Any) -> Callable[[str], str]:
    return lambda line: json.dumps(json.loads(line) | columns)


BAD: list[tuple[str, str, Callable[[Path], Any], str]] = [
    (
        "arc_challenge",
        "no folder",
        lambda d: (d / "arc_challenge").rename(d / "arc"),
        r"has no folder arc_challenge; add it, or leave",
    ),
    ("arc_challenge", "no file", lambda d: (d / "arc_challenge/test.jsonl").unlink(), r"arc_challenge has no test\.jsonl"),
    ("arc_challenge", "empty", lambda d: (d / "arc_challenge/test.jsonl").write_text("\n"), r"test\.jsonl holds no rows"),
    (
        "arc_challenge",
        "not JSON",
        lambda d: _replace_line(d / "arc_challenge/test.jsonl", 3, lambda line: line[:-1]),
        r"test\.jsonl, line 3: not JSON \(.* at column \d+\)",
    ),
    (
        "arc_challenge",
        "not text",
        lambda d: (d / "arc_challenge/test.jsonl").write_bytes(b'{"\xff": 1}\n'),
        r"test\.jsonl, after line 0: cannot be read",
    ),
    (
        "arc_challenge",
        "two files",
        lambda d: (d / "arc_challenge/test.parquet").write_text(""),
        r"has test\.jsonl and test\.parquet; keep one",
    ),
    (
        "arc_challenge",
        "no such choice",
        lambda d: _replace_line(d / "arc_challenge/test.jsonl", 2, _set(answerKey="E")),
        r"test\.jsonl, row 2: .*answerKey 'E' names none of the choices",
    ),
    (
        "arc_challenge",
        "too few examples",
        lambda d: (d / "arc_challenge/train.jsonl").write_text((d / "arc_challenge/test.jsonl").read_text()),
        r"arc_challenge has 7 rows in its split train, and a 25-shot prompt needs 25",
    ),
    (
        "hellaswag",
        "no such ending",
        lambda d: _replace_line(d / "hellaswag/validation.jsonl", 7, _set(label="4")),
        r"row 7: .*label 4 names none of the 4 endings",
    ),
    (
        "truthfulqa_mc2",
        "nothing true",
        lambda d: _replace_line(d / "truthful_qa/validation.jsonl", 1, _set(mc2_targets={"choices": ["a", "b"], "labels": [0, 0]})),
        r"row 1: mc2_targets: .*at least one as true",
    ),
    (
        "mmlu",
        "unknown subject",
        lambda d: _replace_line(d / "mmlu/test.jsonl", 1, _set(subject="anatomi")),
        r"did you mean anatomy\?",
    ),
    ("mmlu", "answer out of range", lambda d: _replace_line(d / "mmlu/test.jsonl", 1, _set(answer=4)), r"row 1: answer: "),
    ("mmlu", "a list", lambda d: _replace_line(d / "mmlu/test.jsonl", 4, lambda _: "[1]"), r"row 4: "),
    (
        "winogrande",
        "no gap",
        lambda d: _replace_line(d / "winogrande/validation.jsonl", 2, _set(sentence="None.")),
        r"row 2: sentence: ",
    ),
    ("gsm8k", "no mark", lambda d: _replace_line(d / "gsm8k/test.jsonl", 3, _set(answer="13")), r"row 3: answer: "),
    (
        "gsm8k",
        "no column",
        lambda d: _replace_line(d / "gsm8k/test.jsonl", 3, lambda _: '{"question": "?"}'),
        r"row 3: answer: missing; correct or remove this row",
    ),
]


@pytest.mark.parametrize(
    ("task", "spoil", "message"), [(task, spoil, message) for task, _, spoil, message in BAD], ids=[bad[1] for bad in BAD]
)
def test_bad_files_are_named(tmp_path: Path, task: str, spoil: Callable[[Path], Any], message: str) -> None:
    spoil(synthetic(tmp_path))
    with pytest.raises(UserError, match=message) as caught:
        read_questions(OPENLLM, tasks=[task], questions_folder=tmp_path)
    assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".parquet"])
def test_broken_archives_are_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "truthful_qa" / f"validation{suffix}"
    path.parent.mkdir()
    path.write_bytes(gzip.compress(b'{"question": "?"}' * 100)[:-9] if suffix == ".jsonl.gz" else b"PAR1")
    with pytest.raises(UserError, match=path.name) as caught:
        read_questions(OPENLLM, tasks=["truthfulqa_mc2"], questions_folder=tmp_path)
    assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"suite": suites.NONE}, r"the suite none asks nothing"),
        ({"suite": OPENLLM, "tasks": ["helaswag"]}, r"unknown task of openllm 'helaswag' \(did you mean hellaswag\?\)"),
        ({"suite": OPENLLM, "tasks": []}, r"no task named; the tasks of openllm are arc_challenge, "),
        ({"suite": OPENLLM, "limit": 0}, r"limit is 0; ask at least 1"),
        ({"suite": OPENLLM, "questions_folder": Path("nowhere")}, r"nowhere is not a folder"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_questions(**arguments)


def test_without_hub_cache_and_data(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach\nthe hub")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(
        UnfitEnvironmentError, match=r"winogrande: .* prefetch it .* or give the questions with --questions DIR"
    ) as caught:
        read_questions(OPENLLM, tasks=["winogrande"])
    assert str(caught.value).count("\n") == 0


def test_stock_data_sets_are_read_as_files_are(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load(path: str, name: str | None, *, split: str) -> datasets.Dataset:
        (task,) = (task for task in TASKS.values() if task.hub.dataset == path)
        its = read(data / task.data_folder / f"{split}.jsonl")
        return datasets.Dataset.from_list([row for row in its if not task.by_subject or row["subject"] == name] or [])

    monkeypatch.setattr(datasets, "load_dataset", load)
    for task in TASKS.values():
        assert task.questions_from_hub() == task.questions_from_files(data), task.name


# Real questions.


def unequal_answers(answered: Answers, samples: Iterable[Path]) -> list[str]:
    """The items whose answers differ from those that the harness logged: log-probabilities by a part of 10⁻⁵, texts at all."""
    logged = {}
    for file in samples:
        subtask = file.stem.removeprefix("samples_").rpartition("_")[0]
        for sample in map(json.loads, file.read_text().splitlines()):
            task, _, subject = subtask.partition("_") if subtask.startswith("mmlu_") else (subtask, "", "")
            logged[task, f"{subject}/{sample['doc_id']}" if subject else f"{sample['doc_id']}", sample["filter"]] = sample
    found, asked = [], set()
    for row in answered.rows():
        for name, key in TASKS[row.task].metrics.items():
            measured, chosen = key.split(",")
            its = logged[row.task, row.item_id, chosen]
            asked.add((row.task, row.item_id, chosen))
            spoken = [response[0][0] if isinstance(response[0], list) else response[0] for response in its["resps"]]
            equal = row.metrics[name] == pytest.approx(its[measured], rel=1e-5)
            if row.log_probs is None:
                equal = equal and [row.generated] == spoken and [row.extracted[name]] == its["filtered_resps"]
            else:
                equal = equal and list(row.log_probs) == pytest.approx([float(value) for value in spoken], rel=1e-5)
            found += [] if equal else [f"{row.task} {row.item_id} {name}"]
    return found + [f"{key} was not asked" for key in logged.keys() - asked]


@pytest.mark.check
@pytest.mark.real
def test_scores_equal_the_command_line(
    shared: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """The same saved model and the same real questions, asked by the harness's own command line in another process."""
    data = tmp_path / "data"
    for task in TASKS.values():
        for split in task.splits:
            its = read(shared / "leaderboard" / task.data_folder / f"{split}.jsonl.gz")
            if task.by_subject:
                sizes = SUBJECT_SIZES if split == task.test_split else dict.fromkeys(SUBJECTS, 5)
                its = [row for subject, n in sizes.items() for row in [row for row in its if row["subject"] == subject][:n]]
            elif split == task.test_split:
                its = its[:4]
            write(data / task.data_folder / f"{split}.jsonl", its)
    saved = tmp_path / "model"
    model.save_pretrained(saved)
    tokenizer.save_pretrained(saved)
    command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--model_args", f"pretrained={saved}", "--device", "cpu"]
    command += ["--tasks", ",".join(TASKS), "--include_path", str(own_tasks(tmp_path / "tasks", data))]
    command += ["--batch_size", "16", "--output_path", str(tmp_path / "out"), "--log_samples"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    (written,) = (tmp_path / "out").rglob("results_*.json")
    answered = ask(model, tokenizer, OPENLLM, questions_folder=data)
    results = json.loads(written.read_text())
    assert disagreements(answer_scores.scores(answered), results) == []
    assert unequal_answers(answered, (tmp_path / "out").rglob("samples_*.jsonl")) == []
    answer_scores.check(answered, "here")
    rows = list(answered.rows())
    edited = Answers.of(answered.about, [replace(rows[0], log_probs=[0.0] * len(rows[0].log_probs or ())), *rows[1:]])
    assert unequal_answers(edited, (tmp_path / "out").rglob("samples_*.jsonl")) != []
    assert (
        disagreements(evaluate(build(seed=9), tokenizer, OPENLLM, tasks=["truthfulqa_mc2"], questions_folder=data), results) != []
    )
    logged = Evaluation("theirs", sample_files.read(sample_files.find(written.parent)), protocol=None)
    paired = compare_questions([Evaluation("ours", ask(model, tokenizer, OPENLLM, questions_folder=data))], [logged])
    assert {score.task for score in paired.scores} == {*TASKS}
    assert all(score.asked == (score.questions, score.questions) for score in paired.scores)  # every question has its partner
    assert all(abs(question.a - question.b) < 1e-5 for question in paired.changed)


@pytest.mark.real
def test_real_files_are_complete(shared: Path) -> None:
    asked = read_questions(OPENLLM, questions_folder=shared / "leaderboard")
    assert {task.name: len(task.question_texts(subtasks)) for task, subtasks in asked.items()} == {
        "arc_challenge": 461,
        "hellaswag": 4771,
        "truthfulqa_mc2": 395,
        "mmlu": 7021,
        "winogrande": 634,
        "gsm8k": 330,
    }
    (mmlu,) = (subtasks for task, subtasks in asked.items() if task.name == "mmlu")
    assert sorted(mmlu) == [f"mmlu_{subject}" for subject in TASKS["mmlu"].prompt.stock_subjects()]
