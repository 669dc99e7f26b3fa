"""The difference of two groups of runs on the same questions: against textbook formulas.

tests/experiments/test_paired_coverage.py simulates the coverage of its interval.
"""

import math

import numpy as np
import pytest
from scipy.stats import ttest_ind, ttest_rel

from spac_repro.runs.results import clustered_standard_error
from spac_repro.trust.crossed_effects import Questions, estimate


def plain(count):
    return Questions(np.full(count, 1 / count), np.arange(count), np.zeros(count, dtype=int))


def test_one_run_on_each_side_is_the_paired_t_test():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 1, 30))
    found = estimate(a, b, plain(30))
    expected = ttest_rel(b[0], a[0])
    assert (found.difference, found.df, found.seeds) == (pytest.approx((b - a).mean()), pytest.approx(29), None)
    assert found.p().value == pytest.approx(expected.pvalue)
    assert found.interval(0.05) == pytest.approx(expected.confidence_interval(0.95))


def test_clusters_are_those_of_the_clustered_standard_error():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(2, 1, 12))
    clusters = np.repeat(range(4), 3)
    found = estimate(a, b, Questions(np.full(12, 1 / 12), clusters, np.zeros(12, dtype=int)))
    assert found.stderr == pytest.approx(clustered_standard_error(list((b - a)[0]), list(clusters)))
    assert found.df == pytest.approx(3)


def test_runs_that_give_each_question_the_same_are_welchs_test_over_seeds():
    """No effect of questions: all questions of a run have one value, so only its seed counts."""
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(4, 1)), rng.normal(size=(6, 1))
    found = estimate(np.repeat(a, 50, axis=1), np.repeat(b, 50, axis=1), plain(50))
    expected = ttest_ind(b[:, 0], a[:, 0], equal_var=False)
    assert found.questions == pytest.approx(0, abs=1e-12)
    assert found.df == pytest.approx(expected.df)
    assert found.p().value == pytest.approx(expected.pvalue)


@pytest.mark.parametrize("matched", [False, True])
def test_the_variance_is_that_of_the_analysis_of_variance(matched):
    """The mean squares of the two-way table, by the formulas of a textbook, loop by loop."""
    rng = np.random.default_rng(4)
    k, n = 4, 25
    a, b = (rng.normal(size=n) * 0.3 + rng.normal(size=(k, 1)) * 0.2 + rng.normal(size=(k, n)) for _ in range(2))

    def mean_squares(table):
        rows, columns, grand = table.mean(axis=1), table.mean(axis=0), table.mean()
        seeds = n * sum((row - grand) ** 2 for row in rows) / (k - 1)
        rest = sum((table[i, q] - rows[i] - columns[q] + grand) ** 2 for i in range(k) for q in range(n)) / ((k - 1) * (n - 1))
        return seeds, rest

    if matched:
        seeds, rest = mean_squares(b - a)
    else:
        seeds, rest = (sum(pair) for pair in zip(mean_squares(a), mean_squares(b), strict=True))
    by_question = b.mean(axis=0) - a.mean(axis=0)
    expected = seeds / (k * n) + by_question.var(ddof=1) / n - rest / (k * n)
    assert expected > max(seeds / (k * n), by_question.var(ddof=1) / n)  # so no bound holds it up
    assert estimate(a, b, plain(n), matched=matched).stderr == pytest.approx(math.sqrt(expected))


def test_an_average_over_tasks_adds_their_variances():
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(2, 1, 50))
    weights = np.concatenate((np.full(20, 0.5 / 20), np.full(30, 0.5 / 30)))
    found = estimate(a, b, Questions(weights, np.arange(50), np.repeat([0, 1], [20, 30])))
    parts = [(b - a)[0, :20], (b - a)[0, 20:]]
    assert found.difference == pytest.approx(sum(part.mean() for part in parts) / 2)
    assert found.stderr == pytest.approx(math.sqrt(sum(part.var(ddof=1) / len(part) for part in parts)) / 2)


def test_one_question_has_no_error():
    found = estimate(np.zeros((1, 1)), np.ones((1, 1)), plain(1))
    assert (found.difference, found.stderr, found.interval(0.05), found.p(), found.detectable(0.05)) == (1.0, *[None] * 4)


def test_equal_answers_differ_by_nothing():
    same = np.array([[0.0, 1.0, 1.0]])
    found = estimate(same, same, plain(3))
    assert (found.interval(0.05), found.p().value, found.detectable(0.05)) == (None, 1.0, None)
