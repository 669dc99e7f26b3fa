"""A run is recognised in a figure that shows it, and not in one that does not."""

import sys
from pathlib import Path

import matplotlib
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "experiments"))

import in_figure

SHOWN = [[0.51, 0.65, 0.70, 0.71], [0.52, 0.66, 0.71, 0.74]]


@pytest.fixture(scope="module")
def svg(tmp_path_factory: pytest.TempPathFactory) -> str:
    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots()
    for rewards in SHOWN:
        axes.plot(rewards)
    file = tmp_path_factory.mktemp("figure") / "figure.svg"
    figure.savefig(file)
    pyplot.close(figure)
    return file.read_text()


@pytest.mark.parametrize("rewards", SHOWN)
def test_a_curve_of_the_figure_is_found(svg: str, rewards: list[float]) -> None:
    assert in_figure.nearest(rewards, svg) < 1e-7


def test_a_curve_that_is_not_shown_is_not_found(svg: str) -> None:
    assert in_figure.nearest([0.51, 0.65, 0.70, 0.715], svg) > 1e-4
