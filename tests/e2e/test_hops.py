"""How far it is from the top of a run to what it computes, as a real run goes: functions of this package, and files."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cut_down
import pytest

import spac_repro
from spac_repro import objectives, pipeline, recipes
from spac_repro.data import sources
from spac_repro.evaluation import gold, heldout
from spac_repro.progress import MessagesOnly

pytestmark = pytest.mark.e2e

PACKAGE = Path(spac_repro.__file__).parent
Hop = tuple[str, str]  # file, function


def hops() -> list[Hop]:
    """The functions of the package on the stack, from `pipeline.train` to the one whose stand-in calls this."""
    frame: Any = sys._getframe(1)
    found: list[Hop] = []
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if file.is_relative_to(PACKAGE):
            found.append((str(file.relative_to(PACKAGE)), frame.f_code.co_name))
        frame = frame.f_back
    found.reverse()
    names = [name for _, name in found]
    return found[names.index("train") :]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, list[Hop]], Path]:
    """The way to the loss and to two kinds of scores, and the run's folder."""
    ways: dict[str, list[Hop]] = {}

    def record(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def stand_in(*arguments: Any, **keywords: Any) -> Any:
            file = Path(function.__code__.co_filename).relative_to(PACKAGE)
            ways[name] = [*hops(), (str(file), function.__name__)]
            return function(*arguments, **keywords)

        return stand_in

    folder = tmp_path_factory.mktemp("hops") / "run"
    run = recipes.load("tiny", overrides=[*cut_down.SETTINGS, "training.iterations=1"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objectives, "spac", record("loss", objectives.spac))
        patch.setattr(gold, "answers", record("gold", gold.answers))
        patch.setattr(heldout, "answers", record("heldout", heldout.answers))
        read = sources.read(run, preferences=None, questions=None)
        pipeline.train(run, folder, read, allow_changed_environment=False, progress=MessagesOnly())
    return ways, folder


def test_from_train_to_the_loss_of_spac(recorded):
    way = recorded[0]["loss"]
    assert way[0] == ("pipeline.py", "train")
    assert way[-1] == ("objectives.py", "spac")
    assert len(way) <= 6, way
    assert len({file for file, _ in way}) <= 4, way


@pytest.mark.parametrize("task", ["gold", "heldout"])
def test_from_train_to_the_values_whose_means_are_in_results_json(recorded, task):
    ways, folder = recorded
    assert ways[task][0] == ("pipeline.py", "train")
    assert ways[task][-1] == (f"evaluation/{task}.py", "answers")
    assert len(ways[task]) <= 4, ways[task]
    results = json.loads((folder / "results.json").read_text())
    assert any(score["task"] == task for score in results["iterations"][1]["scores"])


def test_the_count_is_of_the_calls_made(recorded):
    """What is counted is the real stack: the optimizer's loop stands on the way to the loss."""
    assert ("optim/loop.py", "training_loop") in recorded[0]["loss"]
    assert ("iteration.py", "run_iteration") in recorded[0]["loss"]
