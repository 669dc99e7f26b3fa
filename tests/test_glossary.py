"""docs/glossary.md: every function in it exists, and every score and column that a table shows has a line."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

from spac_repro import suites
from spac_repro.evaluation.leaderboard.task_file import tasks_of
from spac_repro.launchers import score_table
from spac_repro.publish import glossary
from spac_repro.trust.expected import expected_path, load_expected

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "glossary.md").read_text()
LINES = [line for line in PAGE.splitlines() if "<a id=" in line]
ANCHORS = re.findall(r'<a id="([^"]+)"></a>', PAGE)
FUNCTIONS = sorted(set(re.findall(r"\| `([\w.]+:[\w.]+)` \|$", PAGE, re.MULTILINE)))


def resolve(place: str) -> Any:
    """The object at "module:name" or "module:Class.name" of the package."""
    module, _, name = place.partition(":")
    found = importlib.import_module(f"spac_repro.{module}")
    for part in name.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("place", FUNCTIONS)
def test_every_function_exists(place: str) -> None:
    found = resolve(place)
    assert callable(found) or isinstance(found, property) or hasattr(found, "__get__")


def test_every_line_names_a_term_what_it_is_and_what_computes_it() -> None:
    assert len(LINES) > 60
    for line in LINES:
        term, meaning, function = re.split(r"(?<!\\)\|", line.strip("| "))
        assert term.strip(), line
        assert meaning.strip(), line
        assert function.strip().strip("`") in FUNCTIONS, line


def test_anchors_are_unique() -> None:
    assert sorted(ANCHORS) == sorted(set(ANCHORS))


@pytest.mark.parametrize("recipe", ["tiny", "zephyr-7b"])
def test_every_score_of_the_expected_results_has_a_line(recipe: str) -> None:
    assert {row.metric for row in load_expected(expected_path(recipe)).rows} <= set(ANCHORS)


def test_every_metric_of_the_suites_that_ship_has_a_line() -> None:
    assert {metric for suite in suites.builtin() for task in tasks_of(suite) for metric in task.metrics} <= set(ANCHORS)


def test_every_number_of_a_collected_sweep_has_a_line() -> None:
    assert {"iteration", "task", "metric", *score_table.STATISTICS, "seeds", "missing_seeds"} <= set(ANCHORS)


def test_a_report_defines_its_words_as_the_page_does() -> None:
    """spac_repro/publish/glossary.py carries the definitions that a report shows, as plain text."""
    page = {}
    for line in LINES:
        term, meaning, _ = re.split(r"(?<!\\)\|", line.strip("| "))
        for anchor in re.findall(r'<a id="([^"]+)"></a>', term):
            page[anchor] = re.sub(r"[`*]|\\(?=[|*])", "", meaning).strip()
    assert {anchor: page.get(anchor) for anchor in glossary.DEFINITIONS} == glossary.DEFINITIONS
    assert {name for name in glossary.NAMES if name not in glossary.DEFINITIONS} == set()
