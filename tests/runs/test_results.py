"""Standard errors of independent and of clustered values."""

import math
import statistics

import numpy as np
import pytest

from spac_repro.runs.results import clustered_standard_error, standard_error


def test_clusters_of_one_value_are_independent_values() -> None:
    values = [0.3, 1.2, -0.7, 2.2, 0.0]
    assert clustered_standard_error(values, "abcde") == pytest.approx(standard_error(values))


def test_equal_clusters_are_their_means() -> None:
    values = [0.3, 1.2, -0.7, 2.2, 0.0, 5.0]
    means = [statistics.fmean(values[i : i + 2]) for i in (0, 2, 4)]
    assert clustered_standard_error(values, "aabbcc") == pytest.approx(standard_error(means))


def test_one_cluster_has_no_standard_error() -> None:
    assert clustered_standard_error([1.0, 2.0], "aa") is None
    assert clustered_standard_error([], "") is None


def test_it_is_the_spread_of_the_mean_over_draws_of_clusters() -> None:
    rng = np.random.default_rng(0)
    clusters = [c for c in range(200) for _ in range(1 + c % 3)]
    means, errors = [], []
    for _ in range(400):
        common = rng.normal(size=200)
        values = [common[c] + rng.normal() for c in clusters]
        means.append(statistics.fmean(values))
        errors.append(clustered_standard_error(values, clusters) or math.nan)
    assert statistics.fmean(errors) == pytest.approx(statistics.stdev(means), rel=0.1)
    assert standard_error(values) < 0.85 * errors[-1]
