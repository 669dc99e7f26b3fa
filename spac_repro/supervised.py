"""The supervised start: a policy that imitates the demonstrations, from which every method sets out."""

import random
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from spac_repro.model.packing import Group, pack
from spac_repro.model.policy import Policy
from spac_repro.optim.loop import Objective

FEW_SHOT = 6  # demonstrations in a few-shot row: the five shots and the question of the mini leaderboard


def objective(policy: Policy, tokenizer: Any, demonstrations: Sequence[tuple[str, str]], *, few_shot_share: float) -> Objective:
    """−log π(response | what stands before it), in units of the demonstrations' mean response length.

    A step's demonstrations stand alone, each with its end-of-sequence; or, in a share of the steps, several stand in a row as in
    a few-shot prompt, each but for a line break after the one before. A line break opens such a row, so that the two can be told
    apart from the first token on.
    """
    prompts = [tokenizer(prompt, add_special_tokens=False).input_ids for prompt, _ in demonstrations]
    responses = [tokenizer(response, add_special_tokens=False).input_ids for _, response in demonstrations]
    newline = tokenizer("\n", add_special_tokens=False).input_ids
    unit = 1 + sum(map(len, responses)) / len(responses)

    def alone(i: int) -> Group:
        return _row([([tokenizer.bos_token_id, *prompts[i]], [*responses[i], tokenizer.eos_token_id])])

    def together(some: Sequence[int]) -> Group:
        return _row([([tokenizer.bos_token_id, *newline], []), *((prompts[i], [*responses[i], *newline]) for i in some)])

    def losses(examples: Sequence[int]) -> tuple[Tensor, dict[str, Tensor]]:
        if random.Random(f"few-shot {examples[0]}").random() < few_shot_share:
            rows = [together(examples[begin : begin + FEW_SHOT]) for begin in range(0, len(examples), FEW_SHOT)]
        else:
            rows = [alone(i) for i in examples]
        return -policy(pack(rows, device=policy.model.device)) / unit, {}

    return losses


def _row(turns: Sequence[tuple[list[int], list[int]]]) -> Group:
    """Turns of (given, learned) tokens end to end, after the first token of all."""
    tokens = [token for given, learned in turns for token in (*given, *learned)]
    marks = [mark for given, learned in turns for mark in (*[False] * len(given), *[True] * len(learned))]
    return Group(tokens[:1], [tokens[1:]], [marks[1:]])
