"""The interval of a difference of two groups of runs holds the true difference as often as it says."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "experiments" / "paired_coverage.py"


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    spec = importlib.util.spec_from_file_location("paired_coverage", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "case",
    [
        {"runs": (5, 5), "questions": 100, "seed": 0.3, "method": 0.3, "residual": 0.3},
        {"runs": (5, 5), "questions": 400, "seed": 0.0, "method": 0.5, "residual": 0.3},
        {"runs": (3, 3), "questions": 100, "seed": 0.3, "method": 0.5, "residual": 0.3},
        {"runs": (5, 3), "questions": 100, "seed": 0.2, "method": 0.3, "residual": 0.3},
        {"runs": (5, 5), "questions": 100, "seed": 0.4, "method": 0.3, "residual": 0.3, "matched": True},
    ],
)
def test_the_interval_covers_with_seeds_and_questions_at_random(simulation, case):
    """0.017 is three standard errors of 1500 repetitions."""
    assert simulation.coverage(simulation.Case(**case), simulation.crossed, 1500) > 0.95 - 0.017


def test_intervals_that_miss_a_source_of_noise_do_not_cover(simulation):
    """So the test above would find it."""
    both = simulation.Case((5, 5), 400, 0.3, 0.3, 0.3)
    assert simulation.coverage(both, simulation.questions_alone, 400) < 0.8
    few = simulation.Case((5, 5), 50, 0.0, 0.5, 0.1)
    assert simulation.coverage(few, simulation.seeds_alone, 400) < 0.8
    assert simulation.coverage(simulation.Case((3, 3), 100, 0.3, 0.3, 0.3), simulation.two_way_bootstrap, 200) < 0.95
