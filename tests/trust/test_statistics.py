"""Tolerances and power against other derivations, and both against simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from spac_repro.trust.expected import ArguedValue, BorrowedSpread, ExpectedRow
from spac_repro.trust.statistics import smallest_detectable, tolerance


def row(value=0.8, sd=0.01, **options):
    known = {"method": "spac", "task": "gold", "metric": "reward", "iteration": 3, "source": "ours", "primary": True}
    return ExpectedRow(**{**known, "value": value, "sd": sd, "seeds": 10, **options})


def published(value=0.6, **options):
    return ExpectedRow(method="dpo", task="arc", metric="acc", iteration=1, source="paper", value=value, primary=True, **options)


def test_tolerance_is_the_t_prediction_interval():
    # t(9, 0.995) = 3.2498 from a printed table
    assert tolerance(row(), 1, 0.01) == pytest.approx(3.2498 * 0.01 * math.sqrt(1 + 1 / 10), rel=1e-4)
    assert tolerance(row(), 4, 0.01) == pytest.approx(3.2498 * 0.01 * math.sqrt(1 / 4 + 1 / 10), rel=1e-4)


def test_borrowed_spread_stands_for_one_published_run():
    # t(2, 0.975) = 4.3027
    borrowed = BorrowedSpread(sd=0.01, degrees_of_freedom=2, argument="a")
    assert tolerance(published(borrowed=borrowed), 1, 0.05) == pytest.approx(4.3027 * 0.01 * math.sqrt(2), rel=1e-4)
    shifted = published(borrowed=borrowed, harness_shift=ArguedValue(value=0.1, argument="a"))
    assert tolerance(shifted, 1, 0.05) == pytest.approx(4.3027 * 0.01 * math.sqrt(2) + 0.1, rel=1e-4)
    assert smallest_detectable(shifted, 1, 0.05) > tolerance(shifted, 1, 0.05)


def test_argued_tolerance_is_taken_as_it_is_and_its_power_is_unknown():
    argued = published(tolerance=ArguedValue(value=0.02, argument="a"), harness_shift=ArguedValue(value=0.01, argument="a"))
    assert tolerance(argued, 1, 0.01) == tolerance(argued, 100, 0.5) == pytest.approx(0.03)
    assert smallest_detectable(argued, 1, 0.01) is None


def test_without_any_spread_only_rounding_is_forgiven():
    exact = row(sd=0.0)
    assert 0 < tolerance(exact, 1, 0.01) < 1e-8
    assert tolerance(row(sd=0.0, rounding=0.01), 1, 0.01) == 0.01
    widest = 0.1 + 0.8416 * 0.001 * math.sqrt(1.1)  # the normal quantile of 0.8 beyond the rounding
    assert smallest_detectable(row(sd=0.001, rounding=0.1), 1, 0.01) == pytest.approx(widest, rel=1e-4)


@pytest.mark.parametrize(("seeds", "runs", "alpha"), [(10, 1, 0.05), (3, 1, 0.05), (10, 5, 0.01), (20, 2, 0.002)])
def test_smallest_detectable_deviation_equals_the_noncentral_t(seeds, runs, alpha):
    deviation = smallest_detectable(row(sd=1.0, seeds=seeds), runs, alpha)
    noncentrality = deviation / math.sqrt(1 / runs + 1 / seeds)
    critical = stats.t.isf(alpha / 2, seeds - 1)
    # An independent derivation: numerical integration over the estimated spread.
    power, _ = stats_integral(noncentrality, critical, seeds - 1)
    assert power == pytest.approx(0.8, abs=1e-3)


def stats_integral(noncentrality, critical, freedom):
    from scipy.integrate import quad

    def integrand(s):
        density = stats.chi.pdf(s * math.sqrt(freedom), freedom) * math.sqrt(freedom)
        return density * (stats.norm.sf(critical * s - noncentrality) + stats.norm.cdf(-critical * s - noncentrality))

    return quad(integrand, 0, 6, limit=200)


@pytest.mark.parametrize(("seeds", "runs"), [(10, 1), (10, 4), (3, 1)])
def test_false_alarms_and_power_are_as_stated(seeds, runs):
    rng = np.random.default_rng(0)
    repetitions, alpha = 20_000, 0.05
    before = rng.normal(size=(repetitions, seeds))
    fresh = rng.normal(size=(repetitions, runs)).mean(axis=1)
    unit = tolerance(row(sd=1.0, seeds=seeds), runs, alpha)
    allowed = unit * before.std(axis=1, ddof=1)
    difference = fresh - before.mean(axis=1)
    alarms = np.mean(np.abs(difference) > allowed)
    assert alarms == pytest.approx(alpha, abs=4 * math.sqrt(alpha * (1 - alpha) / repetitions))
    deviation = smallest_detectable(row(sd=1.0, seeds=seeds), runs, alpha)
    for direction in (-1, 1):
        found = np.mean(np.abs(difference + direction * deviation) > allowed)
        assert found == pytest.approx(0.8, abs=4 * math.sqrt(0.8 * 0.2 / repetitions))
