"""The spread between groups of published scores, and the tolerances that follow from it."""

import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from spac_repro.trust.expected import START, expected_path, load_expected
from spac_repro.trust.group_spread import evaluation_spread, evaluation_tolerance, method_tolerance
from spac_repro.trust.statistics import tolerance
from spac_repro.trust.verification import verify

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "experiments"))

import between_groups  # noqa: E402

EXPECTED = load_expected(expected_path("zephyr-7b"))
PAGE = (ROOT / "docs" / "decisions" / "16-between-groups.md").read_text()
ROWS = {(row.method, row.iteration, row.task): row for row in EXPECTED.rows if row.value is not None}
CHANCE = {"arc_challenge": 0.25, "truthfulqa_mc2": 0.5, "winogrande": 0.5, "gsm8k": 0.0, "hellaswag": 0.25, "mmlu": 0.25}


def test_the_spread_of_two_models_is_pooled_by_degrees_of_freedom():
    start, training = [0.5814, 0.5756, 0.5754], {2: [0.6212, 0.6286], 3: [0.6297, 0.6354], 4: [0.6316, 0.6370]}
    of_training = np.mean([np.var(values, ddof=1) for values in training.values()])
    sd, df = evaluation_spread([{0: start}, training])
    assert df == 3
    assert sd == pytest.approx(math.sqrt((2 * np.var(start, ddof=1) + of_training) / 3), rel=1e-12)
    assert evaluation_spread([{0: [0.5]}]) is None
    assert evaluation_spread([]) is None
    assert evaluation_spread([{0: [0.5, 0.6], 1: [0.5]}]) == evaluation_spread([{0: [0.5, 0.6]}])


def test_tolerances_are_the_two_sample_prediction_and_the_gain():
    spread = evaluation_spread([{0: [0.1, 0.2, 0.4]}])
    width = stats.t.ppf(0.975, 2) * np.std([0.1, 0.2, 0.4], ddof=1) * math.sqrt(2)
    assert evaluation_tolerance(spread, 0.05) == pytest.approx(width)
    assert method_tolerance(0.7, 0.9, spread, 0.05) == pytest.approx(0.2 + width)


def test_the_level_holds_for_a_fresh_group():
    """Three groups score one model; two of them score the iterations of a training, with one error a group."""
    rng = np.random.default_rng(0)
    failures, repetitions = 0, 4000
    for _ in range(repetitions):
        start, groups, fresh = rng.normal(size=3), rng.normal(size=2), rng.normal()
        training = {t: list(groups + 5.0 * t) for t in range(3)}
        failures += abs(fresh - start[0]) > evaluation_tolerance(evaluation_spread([{0: list(start)}, training]), 0.05)
    rate = failures / repetitions
    assert 0.02 < rate < 0.05  # below the level, because the row's own value is among those that the spread comes from
    assert f"fail in {100 * rate:.1f} % of 4,000 simulated files" in PAGE


def test_the_files_starts_borrow_it_and_its_methods_do_not():
    start, spin = ROWS[START, 0, "average"], ROWS["spin", 4, "average"]
    spread = EXPECTED.group_spread("average")
    assert (start.borrowed.sd, start.borrowed.degrees_of_freedom) == spread
    assert tolerance(start, [0.58], EXPECTED.alpha) == pytest.approx(evaluation_tolerance(spread, EXPECTED.alpha))
    assert spin.tolerance.value == pytest.approx(method_tolerance(0.6316, 0.5814, spread, EXPECTED.alpha))
    assert not [row for row in EXPECTED.rows if row.harness_shift]


def test_each_source_is_compared_with_the_mean_that_its_protocol_reports():
    sources = EXPECTED.sources
    assert {name: source.protocol for name, source in sources.items() if source.kind == "published"} == {
        "spin-paper": "v0.4.0-spin",
        "open-llm-leaderboard": "leaderboard-v1",
        "repetition": None,
    }
    assert {row.metric for row in EXPECTED.rows if row.task == "mmlu"} == {"acc"}  # tests/evaluation/test_protocols.py has it


def test_every_published_score_is_within_the_tolerance_of_its_row():
    compared = 0
    for observed in EXPECTED.observations:
        for task, score in observed.scores.items():
            row = ROWS[observed.method, observed.iteration, task]
            assert verify(EXPECTED, {row.key: [score]}).comparisons[0].agrees, (row.key, score)
            compared += 1
    assert compared == 7 * 8 + 2


def test_the_averages_of_observations_are_the_means_of_their_tasks():
    for observed in EXPECTED.observations:
        tasks = [score for task, score in observed.scores.items() if task != "average"]
        if len(tasks) == 6:
            assert observed.scores["average"] == pytest.approx(sum(tasks) / 6, abs=0.0001)


@pytest.mark.parametrize("wrong", [0.6131, 0.6080, 0.5814 - 0.2676 / 6, sum(CHANCE.values()) / 6])
def test_a_wrong_start_disagrees(wrong):
    """The DPO model, SPIN's first iteration, a GSM8K that extracts nothing, a broken model."""
    start = ROWS[START, 0, "average"]
    assert verify(EXPECTED, {start.key: [wrong]}).status == "disagrees"
    assert verify(EXPECTED, {start.key: [start.value]}).status == "verified"


@pytest.mark.parametrize(("method", "iteration"), [("dpo", 1), ("spin", 1), ("spin", 4)])
def test_a_method_that_collapsed_disagrees_and_one_without_its_gain_does_not(method, iteration):
    row = ROWS[method, iteration, "average"]
    gain = row.value - ROWS[START, 0, "average"].value
    for wrong in (sum(CHANCE.values()) / 6, row.value + 2.5 * gain, row.value - 2.5 * gain):
        assert not verify(EXPECTED, {row.key: [wrong]}).comparisons[0].agrees
    honest = verify(EXPECTED, {row.key: [row.value - gain]}).comparisons[0]
    assert honest.agrees
    assert honest.underpowered


def test_the_documented_tables_are_those_of_the_code():
    rows = [*between_groups.start_rows(EXPECTED), *between_groups.method_rows(EXPECTED)]
    assert len(rows) == 12
    for row in rows:
        assert f"| {' | '.join(row)} |".replace("|  |", "| |") in PAGE
    for observed in EXPECTED.observations:
        assert re.search(rf"\| {100 * observed.scores['average']:.2f} \|", PAGE)
