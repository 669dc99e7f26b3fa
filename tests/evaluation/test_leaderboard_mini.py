"""The mini leaderboard: questions that the world alone decides, in the formats of the real six, asked through the harness."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from spac_repro import suites
from spac_repro.data import tokenizers
from spac_repro.data.world import Behaviour, World, split_of
from spac_repro.errors import UserError
from spac_repro.evaluation.leaderboard import mini
from spac_repro.evaluation.leaderboard.mini import mini_questions
from spac_repro.evaluation.leaderboard.scoring import evaluate, read_questions
from spac_repro.evaluation.leaderboard.task_file import tasks_of
from spac_repro.runs.results import Score

MINI = suites.get("mini")


def build_world(seed: int = 1) -> World:
    return World(seed=seed, behaviour=Behaviour(0.45, 0.30, 0.17, 0.08), preference_scale=5.0)


@pytest.fixture(scope="module")
def world() -> World:
    return build_world()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return tokenizers.world_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=256, **shape, **special)).eval()


@pytest.fixture(scope="module")
def scores(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, world: World) -> list[Score]:
    return evaluate(model, tokenizer, MINI, world=world)


def asked_rows(world: World) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, splits in mini_questions(world).items():
        yield from ((name, row) for row in splits["test"])


# The questions.


def test_the_world_alone_decides_the_questions(world: World) -> None:
    assert mini_questions(world) == mini_questions(build_world())
    assert mini_questions(world) != mini_questions(build_world(seed=2))


def test_a_hundred_different_questions_a_task_that_training_never_sees(world: World) -> None:
    for name, splits in mini_questions(world).items():
        assert len({str(row) for row in splits["test"]}) == mini.NUM_QUESTIONS, name
        begun = name == "mini_hellaswag"
        prompts = {row["prompt"][: row["prompt"].index("=") + 1] if begun else row["prompt"] for row in splits["test"]}
        assert {split_of(prompt) for prompt in prompts} == {"leaderboard"}
        assert {split_of(row["prompt"]) for row in splits["fewshot"] if not begun} <= {"train"}


def test_one_choice_is_right(world: World) -> None:
    for name, row in asked_rows(world):
        if name == "mini_mmlu":
            assert world.correct_response(row["prompt"]) == "ABCD"[row["answer"]]
        elif name == "mini_winogrande":
            assert [world.correct_response(choice) == row["target"] for choice in row["choices"]].index(True) == row["answer"]
            assert sum(world.correct_response(choice) == row["target"] for choice in row["choices"]) == 1
        elif name == "mini_gsm8k":
            assert world.reward(row["prompt"], row["target"]) == 1
        else:
            exercise, begun = row["prompt"].split("=")
            rewards = [world.reward(f"{exercise}=", begun + choice) for choice in row["choices"]]
            assert rewards[row["answer"]] == 1
            assert sorted(rewards)[-2] < 1
            assert len(set(row["choices"])) == len(rewards)


def test_a_choice_adds_its_own_tokens_to_the_prompt(world: World, tokenizer: PreTrainedTokenizerFast) -> None:
    """The harness scores the tokens that a choice adds; none may melt into the prompt's."""
    for name, row in asked_rows(world):
        contexts = row["choices"] if name == "mini_winogrande" else [row["prompt"]]
        answers = [row["target"]] if "target" in row else row.get("choices", "ABCD")
        for context in contexts:
            given = tokenizer(context).input_ids
            for answer in answers:
                assert tokenizer(context + answer).input_ids == [*given, *map(tokenizer.convert_tokens_to_ids, answer)]


def test_the_place_of_the_answer_tells_nothing(world: World) -> None:
    for name in ("mini_arc", "mini_hellaswag", "mini_winogrande", "mini_mmlu"):
        places = [row["answer"] for row in mini_questions(world)[name]["test"]]
        options = max(places) + 1
        assert max(places.count(place) for place in range(options)) < 1.5 * mini.NUM_QUESTIONS / options, name


def test_tasks_mirror_the_real_six() -> None:
    for ours, real in zip(tasks_of(MINI), tasks_of(suites.get("openllm")), strict=True):
        assert ours.name.removeprefix("mini_") == real.name.split("_")[0]
        assert ours.primary_metric == real.primary_metric
        assert (ours.num_fewshot > 0, ours.by_subject, ours.max_gen_toks > 0) == (
            real.num_fewshot > 0,
            real.by_subject,
            real.max_gen_toks > 0,
        )


# What the model is asked.


def test_prompts_as_the_model_reads_them(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Examples line by line after an opening line break, as in the supervised start; then the question."""
    from spac_repro.evaluation.leaderboard.packed_hflm import PackedHFLM

    calls: list[list[tuple[Any, ...]]] = []  # one a task

    def answer(self: PackedHFLM, requests: list[Any], disable_tqdm: bool = True) -> list[Any]:
        calls.append([request.args for request in requests])
        return ["" if request.request_type == "generate_until" else (-1.0, False) for request in requests]

    monkeypatch.setattr(PackedHFLM, "loglikelihood", answer)
    monkeypatch.setattr(PackedHFLM, "generate_until", answer)
    evaluate(model, tokenizer, MINI, world=world, limit=1)
    for (task, subtasks), seen in zip(read_questions(MINI, world=world, limit=1).items(), calls, strict=True):
        (splits,) = subtasks.values()
        (row,) = splits["test"]
        context, continuation = seen[0]
        opening, *examples, question = context.split("\n") if task.num_fewshot else ("", context)
        assert (opening, len(examples)) == ("", task.num_fewshot)
        assert question == (row["choices"][0] if task.name == "mini_winogrande" else row["prompt"])
        for example in examples:
            exercise, response = example.split("=")
            assert world.reward(f"{exercise}=", response) == 1
        if task.name == "mini_gsm8k":
            assert continuation["until"] == ["\n"]
        elif task.name == "mini_winogrande":
            assert [args[1] for args in seen] == [row["target"]] * 2
        else:
            assert [args[1] for args in seen] == row.get("choices", ["A", "B", "C", "D"])


# The scores.


def test_each_task_has_its_metrics_and_items(scores: list[Score]) -> None:
    assert [(score.task, score.metric, score.n) for score in scores] == [
        ("mini_arc", "acc_norm", 100),
        ("mini_hellaswag", "acc_norm", 100),
        ("mini_truthfulqa", "mc2", 100),
        ("mini_mmlu", "acc_macro", 100),
        ("mini_mmlu", "acc", 100),
        ("mini_winogrande", "acc", 100),
        ("mini_gsm8k", "exact_match", 100),
        ("average", "mean", 600),
    ]
    assert all(score.stderr is not None and not score.note for score in scores)


def test_a_model_that_knows_nothing_is_near_chance(scores: list[Score]) -> None:
    values = {(score.task, score.metric): score.value for score in scores}
    assert values["mini_mmlu", "acc"] < 0.45
    assert 0.3 < values["mini_winogrande", "acc"] < 0.7
    assert values["mini_gsm8k", "exact_match"] < 0.05


def test_a_model_that_knows_all_is_at_the_top(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers from the world's own solver: the items, columns and metrics belong together."""
    from spac_repro.evaluation.leaderboard.packed_hflm import PackedHFLM

    def likelihood(self: PackedHFLM, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        texts = ["".join(request.args).split("\n")[-1].partition("=") for request in requests]
        right = [world.correct_response(f"{exercise}=") == response for exercise, _, response in texts]
        return [(0.0 if is_right else -50.0, is_right) for is_right in right]

    def generate(self: PackedHFLM, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        return [world.correct_response(request.args[0].split("\n")[-1]) for request in requests]

    monkeypatch.setattr(PackedHFLM, "loglikelihood", likelihood)
    monkeypatch.setattr(PackedHFLM, "generate_until", generate)
    assert {round(score.value, 9) for score in evaluate(model, tokenizer, MINI, world=world)} == {1.0}


def test_deterministic_and_the_same_for_other_batches(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, world: World
) -> None:
    first, again, other = (
        evaluate(model, tokenizer, MINI, world=world, limit=10, batch_size=batch_size) for batch_size in (16, 16, 7)
    )
    assert first == again
    for score, same in zip(first, other, strict=True):
        assert same.value == pytest.approx(score.value, rel=1e-4)


def test_wrong_arguments(tmp_path: Path, world: World) -> None:
    with pytest.raises(UserError, match="give a recipe that has one"):
        read_questions(MINI)
    with pytest.raises(UserError, match="and no data"):
        read_questions(MINI, world=world, questions_folder=tmp_path)
