"""The questions of the mini leaderboard: six tasks in the built-in world, each in the format and metric of a real benchmark.

| task | like | a question | shots | metric |
| --- | --- | --- | --- | --- |
| mini_arc | ARC | an exercise, and four whole answers | 5 | acc_norm |
| mini_hellaswag | HellaSwag | an answer begun, and four endings | 5 | acc_norm |
| mini_truthfulqa | TruthfulQA | an exercise, a true answer and seven false ones | 0 | mc2, the true one's share |
| mini_mmlu | MMLU | which quarter of the alphabet, A to D? by two letters; the last one is the subject | 5 | acc_macro, acc |
| mini_winogrande | WinoGrande | two exercises that differ in one letter; which has this answer? | 5 | acc |
| mini_gsm8k | GSM8K | a sum or a word to work on, the answer generated | 5 | exact_match |

The questions depend only on the world, so every run of a recipe answers the same ones. They come from the world's leaderboard
split; the few-shot examples come from its training split, as in the real tasks.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any

from spac_repro.data.world import CHOICES, LETTERS, Split, World, near_miss, task_of
from spac_repro.evaluation.leaderboard.question_files import Splits

NUM_QUESTIONS = 100  # per task
NUM_EXAMPLES = 20  # to draw few-shot examples from
NUM_FEWSHOT = 5
WORDS = ("copy", "reverse", "sort")
OPENING = {"opening": "\n"}  # a line break starts a few-shot prompt, as in supervised training of the start policy

MakeColumns = Callable[[World, str, random.Random], dict[str, Any]]  # the columns of a row beside its prompt


def mini_questions(world: World) -> dict[str, Splits]:
    """Make the questions of each task: {task: {"test": rows, "fewshot": rows}}, with the columns that its task file names."""
    return {
        "mini_arc": _splits(world, "mini_arc", _arc, ("sort", "reverse")),
        "mini_hellaswag": _splits(world, "mini_hellaswag", _hellaswag, WORDS),
        "mini_truthfulqa": _splits(world, "mini_truthfulqa", _truthfulqa, (*WORDS, "add")),
        "mini_mmlu": _mmlu_splits(world),
        "mini_winogrande": _splits(world, "mini_winogrande", _winogrande, ("sort", "add")),
        "mini_gsm8k": _splits(world, "mini_gsm8k", _gsm8k, (*WORDS, "add")),
    }


def _splits(world: World, name: str, make: MakeColumns, tasks: Sequence[str]) -> Splits:
    rng = random.Random(f"{name} {world.seed}")

    def row(prompt: str) -> dict[str, Any]:
        return OPENING | {"prompt": prompt} | make(world, prompt, rng)

    questions = _prompts(world, "leaderboard", name, NUM_QUESTIONS, lambda prompt: task_of(prompt) in tasks)
    examples = _prompts(world, "train", name, NUM_EXAMPLES, lambda prompt: task_of(prompt) in tasks)
    return {"test": [row(prompt) for prompt in questions], "fewshot": [row(prompt) for prompt in examples]}


def _prompts(world: World, split: Split, purpose: str, n: int, wanted: Callable[[str], bool]) -> list[str]:
    """The first n different prompts of a split that satisfy `wanted`."""
    found: dict[str, None] = {}
    for prompt in world.prompts(split, purpose):
        if wanted(prompt):
            found[prompt] = None
            if len(found) == n:
                break
    return list(found)


def _arc(world: World, prompt: str, rng: random.Random) -> dict[str, Any]:
    correct = world.correct_response(prompt)
    return _shuffled(correct, _wrong(correct, 3, rng), rng)


def _hellaswag(world: World, prompt: str, rng: random.Random) -> dict[str, Any]:
    correct = world.correct_response(prompt)
    at = rng.randint(1, len(correct) - 2)
    ending = correct[at:]
    return {"prompt": prompt + correct[:at]} | _shuffled(ending, _wrong(ending, 3, rng), rng)


def _truthfulqa(world: World, prompt: str, rng: random.Random) -> dict[str, Any]:
    correct = world.correct_response(prompt)
    wrong = _wrong(correct, 7, rng)
    return {"choices": [correct, *wrong], "answer": 0, "mc2_targets": {"labels": [1] + [0] * len(wrong)}}


def _mmlu_splits(world: World) -> Splits:
    """The subject is the last letter of the word. A to D are equally often right, though in the world some are more common."""

    def row(prompt: str) -> dict[str, Any]:
        return OPENING | {"prompt": prompt, "answer": CHOICES.index(world.correct_response(prompt)), "subject": prompt[-2]}

    def about(letter: str) -> Callable[[str], bool]:
        return lambda prompt: task_of(prompt) == "choose" and prompt[-2] == letter

    def answered(choice: str) -> Callable[[str], bool]:
        return lambda prompt: task_of(prompt) == "choose" and world.correct_response(prompt) == choice

    each = NUM_QUESTIONS // len(CHOICES)
    questions = [prompt for choice in CHOICES for prompt in _prompts(world, "leaderboard", "mini_mmlu", each, answered(choice))]
    random.Random(f"mini_mmlu {world.seed}").shuffle(questions)
    examples = [prompt for letter in LETTERS for prompt in _prompts(world, "train", "mini_mmlu", NUM_FEWSHOT, about(letter))]
    return {"test": [row(prompt) for prompt in questions], "fewshot": [row(prompt) for prompt in examples]}


def _winogrande(world: World, prompt: str, rng: random.Random) -> dict[str, Any]:
    """Which of two exercises that differ in one character has this answer?"""
    correct = world.correct_response(prompt)
    while world.correct_response(other := _similar(prompt, rng)) == correct:
        pass
    return _shuffled(prompt, [other], rng) | {"target": correct}


def _similar(prompt: str, rng: random.Random) -> str:
    """The exercise with a neighbouring letter at one place of the word, or with another last term of the sum."""
    task, question = prompt[:-1].split(":")
    if task == "add":
        return f"{task}:{question[:-1]}{rng.randrange(10 - int(question[1]))}="
    at = rng.randrange(len(question))
    neighbours = [letter for letter in LETTERS if abs(ord(letter) - ord(question[at])) == 1]
    return f"{task}:{question[:at]}{rng.choice(neighbours)}{question[at + 1 :]}="


def _gsm8k(world: World, prompt: str, rng: random.Random) -> dict[str, Any]:
    return {"target": world.correct_response(prompt)}


def _wrong(correct: str, n: int, rng: random.Random) -> list[str]:
    """Make n different wrong answers, each one edit away from the right one."""
    wrong: dict[str, None] = {}
    while len(wrong) < n:
        wrong[near_miss(correct, rng)] = None
    return list(wrong)


def _shuffled(correct: str, wrong: Sequence[str], rng: random.Random) -> dict[str, Any]:
    choices = [correct, *wrong]
    rng.shuffle(choices)
    return {"choices": choices, "answer": choices.index(correct)}
