"""The uniform mixture of iterates: gold metrics are means, and log-probabilities those of the mixed density."""

import math
from typing import Any

import numpy as np
import pytest

from spac_repro.evaluation import gold, heldout
from spac_repro.runs import answer_scores
from spac_repro.runs.answers import Answer, TaskAbout, TaskAnswers

DRAW = np.random.default_rng(0)
ITEMS = 6


def rows(task: str, metrics: list[dict[str, float]], **more: Any) -> list[Answer]:
    columns = {name: list(values) for name, values in more.items()}
    return [
        Answer(
            task=task,
            item_id=str(i),
            content_sha256="",
            gold="",
            metrics=values,
            tokens=1,
            cluster=str(i // 2),
            **{name: column[i] for name, column in columns.items()},
        )
        for i, values in enumerate(metrics)
    ]


def gold_answers() -> TaskAnswers:
    names = [metric.name for metric in gold.METRICS]
    return TaskAnswers(
        TaskAbout(name="gold", metrics=gold.METRICS),
        rows("gold", [dict(zip(names, DRAW.random(4), strict=True)) for _ in range(ITEMS)]),
    )


def heldout_answers(start: np.ndarray, log_probs: np.ndarray) -> TaskAnswers:
    """The answers as `heldout.answers` writes them, by its formulas written once more."""
    metrics = []
    for chosen, rejected, selfplay in log_probs - start:
        metrics.append(
            {
                "critic_gap": selfplay - 0.5 * chosen - 0.5 * rejected,
                "margin": chosen - rejected,
                "accuracy": 1.0 if chosen > rejected else 0.5 if chosen == rejected else 0.0,
                "divergence": -selfplay,
            }
        )
    about = TaskAbout(name="heldout", metrics=heldout.METRICS, note=heldout.NOTE)
    return TaskAnswers(about, rows("heldout", metrics, log_probs=log_probs.tolist()))


def scores(task: TaskAnswers) -> dict[str, float]:
    return {score.metric: score.value for score in answer_scores.task_scores(task)}


def test_the_gold_scores_of_the_mixture_are_the_means_of_the_iterates_scores() -> None:
    iterates = [gold_answers() for _ in range(3)]
    mixed = scores(gold.mixture(iterates))
    for metric, value in mixed.items():
        assert value == pytest.approx(np.mean([scores(each)[metric] for each in iterates]), abs=1e-12)


def test_the_held_out_scores_are_those_of_the_mixed_density() -> None:
    start = DRAW.normal(-20, 5, (ITEMS, 3))
    iterates = [start + DRAW.normal(0, 3, (ITEMS, 3)) for _ in range(3)]
    mixed = heldout.mixture([heldout_answers(start, each) for each in iterates], heldout_answers(start, start))
    density = np.logaddexp.reduce(iterates) - math.log(3)
    wanted = scores(heldout_answers(start, density))
    assert scores(mixed) == pytest.approx(wanted, abs=1e-9)
    means = {name: np.mean([scores(heldout_answers(start, each))[name] for each in iterates]) for name in wanted}
    assert mixed.rows[0].log_probs == pytest.approx(density[0], abs=1e-9)
    assert abs(scores(mixed)["margin"] - means["margin"]) > 1e-3  # a mean of log-probabilities would be another policy


def test_very_unlikely_responses_do_not_underflow() -> None:
    start = np.full((ITEMS, 3), -4000.0)
    far = heldout_answers(start, start - 1000.0)
    mixed = heldout.mixture([far, far], heldout_answers(start, start))
    assert scores(mixed)["divergence"] == pytest.approx(1000.0)
