"""The gold reward's statistics, worked out by hand."""

import math

import pytest

from spac_repro.evaluation import gold
from spac_repro.evaluation.gold import GoldRewards, Sampled
from spac_repro.runs import answer_scores
from spac_repro.runs.results import Score

START = GoldRewards([0.0, 0.5, 1.0, 0.2, 0.3, 0.3], [4, 4, 5, 1, 2, 2], samples=2)
LATER = GoldRewards([0.5, 0.5, 1.0, 1.0, 0.1, 0.7], [4, 5, 5, 5, 3, 2], samples=2)


def scores(rewards: GoldRewards, start: GoldRewards = START) -> dict[str, Score]:
    n = len(rewards.values)
    sampled = Sampled([f"prompt {i // rewards.samples}" for i in range(n)], [3] * n, ["right"] * n, ["said"] * n)
    return {score.metric: score for score in answer_scores.task_scores(gold.answers(rewards, start, sampled))}


def test_means_over_prompts():
    found = scores(LATER)
    assert found["reward"].value == pytest.approx((0.5 + 1.0 + 0.4) / 3)
    assert found["exact"].value == pytest.approx((0 + 1 + 0) / 3)
    # Wins 1, ties ½: (win, tie), (tie, win), (loss, win).
    assert found["win_rate"].value == pytest.approx((0.75 + 0.75 + 0.5) / 3)
    assert found["length"].value == pytest.approx(24 / 6)
    assert {score.n for metric, score in found.items() if metric != "length"} == {3}


def test_standard_errors_are_over_prompts_and_not_over_samples():
    values = [0.5, 1.0, 0.4]
    mean = sum(values) / 3
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / 2)
    assert scores(LATER)["reward"].stderr == pytest.approx(spread / math.sqrt(3))
    alone = GoldRewards([0.5], [1], 1)
    assert scores(alone, alone)["reward"].stderr is None


def test_the_start_ties_with_itself():
    assert scores(START)["win_rate"].value == 0.5
