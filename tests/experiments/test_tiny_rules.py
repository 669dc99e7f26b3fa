"""The rules of the campaign on `tiny`: five points a method, one extension, and whoever is close gets all seeds."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))

import tiny_rules as rules
from tiny_rules import Point


def tuned(reward: Callable[[Point], float], beta: float | None, rates: tuple[float, ...] | None = None) -> dict[Point, float]:
    """Tune until nothing is missing."""
    scores: dict[Point, float] = {}
    while absent := rules.missing(scores, beta, rates):
        scores |= {point: reward(point) for point in absent}
    return scores


def test_five_points_where_the_best_values_are_inside() -> None:
    found = tuned(lambda point: -abs(point.learning_rate - 1e-4) - abs((point.beta or 0) - 0.3), 0.3)
    assert len(found) == 5
    assert rules.best(found) == Point(1e-4, 0.3)
    assert rules.on_edge(found) == []


def test_a_best_value_on_an_edge_extends_the_grid_once_and_is_disclosed() -> None:
    found = tuned(lambda point: point.learning_rate + (point.beta or 0), 0.3)
    assert len(found) == rules.MOST_POINTS
    assert rules.best(found) == Point(9e-4, 2.7)
    assert rules.on_edge(found) == ["learning_rate", "beta"]
    inside = tuned(lambda point: -abs(point.learning_rate - 3e-4) - abs((point.beta or 0) - 0.1), 0.3)
    assert len(inside) == 7
    assert rules.on_edge(inside) == []


def test_a_method_without_beta_has_five_learning_rates() -> None:
    assert len(tuned(lambda point: -abs(point.learning_rate - 1e-4), None)) == 5
    assert len(tuned(lambda point: point.learning_rate, None)) == 6


def test_a_training_that_is_not_finite_is_never_chosen() -> None:
    found = tuned(lambda point: float("-inf") if point.learning_rate > 1e-4 else point.learning_rate, 0.3)
    assert rules.best(found).learning_rate == 1e-4


def test_a_given_rate_is_not_extended() -> None:
    found = tuned(lambda point: -abs((point.beta or 0) - 0.1), 0.3, (1e-3,))
    assert {point.learning_rate for point in found} == {1e-3}
    assert len(found) == 4


@pytest.mark.parametrize(
    ("reward", "wanted"), [(0.69, ["spac", "dpo", "ipo"]), (0.66, ["spac", "dpo"]), (0.9, ["spac", "dpo", "ipo"])]
)
def test_whoever_is_close_gets_all_seeds(reward: float, wanted: list[str]) -> None:
    assert rules.close({"spac": 0.7, "dpo": 0.5, "ipo": reward}) == wanted


def test_the_ratios_span_three_decades() -> None:
    assert len(rules.RATIOS) == 5
    assert rules.RATIOS[-1] / rules.RATIOS[0] == pytest.approx(1000)
