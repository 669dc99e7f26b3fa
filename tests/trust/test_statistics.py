"""Tolerances and power against other derivations, and both against simulation."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from spac_repro.trust.expected import ArguedValue, BorrowedSpread, ExpectedRow
from spac_repro.trust.run_quantiles import furthest_run_quantile, spread_quantile
from spac_repro.trust.statistics import limits, smallest_detectable, tolerance


def row(value=0.8, sd=0.01, **options):
    known = {"method": "spac", "task": "gold", "metric": "reward", "iteration": 3, "source": "ours", "primary": True}
    return ExpectedRow(**{**known, "value": value, "sd": sd, "seeds": 10, **options})


def published(value=0.6, **options):
    return ExpectedRow(method="dpo", task="arc", metric="acc", iteration=1, source="paper", value=value, primary=True, **options)


def test_tolerance_is_the_t_prediction_interval():
    # t(9, 0.995) = 3.2498 from a printed table
    assert tolerance(row(), [0.7], 0.01) == pytest.approx(3.2498 * 0.01 * math.sqrt(1 + 1 / 10), rel=1e-4)
    assert limits(row(), [0.7], 0.01).mean == tolerance(row(), [0.7], 0.01)


def test_of_several_runs_the_mean_is_tested_as_scipy_tests_two_samples():
    rng = np.random.default_rng(0)
    for runs in (2, 5, 10):
        before, fresh = rng.normal(size=10), rng.normal(0.7, 1.5, size=runs)
        known = row(value=before.mean(), sd=before.std(ddof=1))
        p = stats.ttest_ind(fresh, before).pvalue
        assert tolerance(known, list(fresh), p) == pytest.approx(abs(fresh.mean() - before.mean()), rel=1e-6)


def test_the_documented_limits_are_those_of_the_code():
    page = (Path(__file__).resolve().parents[2] / "docs" / "decisions" / "14-levels.md").read_text()
    table = re.findall(r"\| (\d+) \| (\d+) \| (2|11) \| ([\d.]+) \| ([\d.]*) ?\| ([\d.]*) ?\|", page)
    assert len(table) == 5
    for seeds, runs, rows, *documented in table:
        unit, k, alpha = row(value=0.0, sd=1.0, seeds=int(seeds)), int(runs), 0.01 / int(rows)
        found = limits(unit, [0.0] * k, alpha)
        numbers = (smallest_detectable(unit, k, alpha), found.run, found.spread)
        assert documented == ["" if number is None else f"{number:.1f}" for number in numbers]


def test_several_runs_share_the_level_of_a_row():
    fresh = [0.79, 0.81, 0.80, 0.82]
    assert limits(row(), fresh, 0.01).mean == tolerance(row(), fresh, 0.006)
    assert limits(row(), fresh, 0.01).run == pytest.approx(
        furthest_run_quantile(9, 10, 4, 0.002) * 0.01 * math.sqrt(1 + 1 / 10), rel=1e-9
    )
    assert limits(row(), fresh, 0.01).spread == pytest.approx(spread_quantile(9, 10, 4, 0.002) * 0.01)
    exact = limits(row(sd=0.0, rounding=0.01), fresh, 0.01)
    assert (exact.run, exact.spread) == (0.01, 0.01)


def test_a_row_that_says_that_it_is_more_skewed_gets_quantiles_that_such_scores_keep():
    """Gamma scores with skewness 4: what the usual quantiles forbid too often, those of the row allow."""
    rng = np.random.default_rng(8)
    level, skewness, repetitions = 0.01, 4.0, 20_000
    scores = rng.standard_gamma(4 / skewness**2, (repetitions, 40))
    expected, fresh = scores[:, :20], scores[:, 20:]
    spread = fresh.std(axis=1, ddof=1) / expected.std(axis=1, ddof=1)
    assert np.mean(spread > spread_quantile(19, 20, 20, level)) > 0.03
    assert 0.007 < np.mean(spread > spread_quantile(19, 20, 20, level, skewness)) < 0.013
    known = row(seeds=20, skewness=ArguedValue(value=skewness, argument="a"))
    said = limits(known, [0.8] * 20, 0.01)
    assert said.spread == pytest.approx(0.01 * spread_quantile(19, 20, 20, 0.002, skewness))
    assert said.run > limits(row(seeds=20), [0.8] * 20, 0.01).run
    one = rng.standard_gamma(4 / skewness**2, (repetitions, 21))
    off = np.abs(one[:, 20] - one[:, :20].mean(axis=1)) / (one[:, :20].std(axis=1, ddof=1) * math.sqrt(1 + 1 / 20))
    assert np.mean(off > tolerance(row(seeds=20, sd=1.0), [0.8], level) / math.sqrt(1 + 1 / 20)) > 0.03
    stated = row(seeds=20, sd=1.0, skewness=ArguedValue(value=skewness, argument="a"))
    assert 0.007 < np.mean(off > tolerance(stated, [0.8], level) / math.sqrt(1 + 1 / 20)) < 0.013
    less = row(seeds=20, skewness=ArguedValue(value=0.05, argument="a"))
    assert limits(less, [0.8] * 20, 0.01) == limits(row(seeds=20), [0.8] * 20, 0.01)


@pytest.mark.parametrize(("df", "seeds", "runs"), [(9, 10, 2), (9, 10, 10), (19, 20, 20), (2, 1, 3)])
def test_runs_that_are_as_skewed_as_assumed_or_less_exceed_their_quantiles_no_more_often(df, seeds, runs):
    rng = np.random.default_rng(7)
    level, repetitions = 0.01, 20_000
    for draw, least in ((rng.standard_exponential, 0.007), (rng.standard_normal, 0.0)):
        expected, fresh = draw((repetitions, df + 1)), draw((repetitions, runs))
        mean = expected.mean(axis=1) if seeds == df + 1 else draw(repetitions)
        sd = expected.std(axis=1, ddof=1)
        furthest = np.abs(fresh - mean[:, None]).max(axis=1) / (sd * math.sqrt(1 + 1 / seeds))
        assert least <= np.mean(furthest > furthest_run_quantile(df, seeds, runs, level)) < 0.013
        assert least <= np.mean(fresh.std(axis=1, ddof=1) / sd > spread_quantile(df, seeds, runs, level)) < 0.013


def test_borrowed_spread_stands_for_one_published_run():
    # t(2, 0.975) = 4.3027
    borrowed = BorrowedSpread(sd=0.01, degrees_of_freedom=2, argument="a")
    assert tolerance(published(borrowed=borrowed), [0.6], 0.05) == pytest.approx(4.3027 * 0.01 * math.sqrt(2), rel=1e-4)
    shifted = published(borrowed=borrowed, harness_shift=ArguedValue(value=0.1, argument="a"))
    assert tolerance(shifted, [0.6], 0.05) == pytest.approx(4.3027 * 0.01 * math.sqrt(2) + 0.1, rel=1e-4)
    assert smallest_detectable(shifted, 1, 0.05) > tolerance(shifted, [0.6], 0.05)


def test_argued_tolerance_is_taken_as_it_is_and_its_power_is_unknown():
    argued = published(tolerance=ArguedValue(value=0.02, argument="a"), harness_shift=ArguedValue(value=0.01, argument="a"))
    assert tolerance(argued, [0.6], 0.01) == tolerance(argued, [0.6] * 100, 0.5) == pytest.approx(0.03)
    assert smallest_detectable(argued, 1, 0.01) is None


def test_without_any_spread_only_rounding_is_forgiven():
    exact = row(sd=0.0)
    assert 0 < tolerance(exact, [0.8], 0.01) < 1e-8
    assert tolerance(row(sd=0.0, rounding=0.01), [0.8], 0.01) == 0.01
    widest = 0.1 + 0.8416 * 0.001 * math.sqrt(1.1)  # the normal quantile of 0.8 beyond the rounding
    assert smallest_detectable(row(sd=0.001, rounding=0.1), 1, 0.01) == pytest.approx(widest, rel=1e-4)


@pytest.mark.parametrize(("seeds", "runs", "alpha"), [(10, 1, 0.05), (3, 1, 0.05), (10, 5, 0.01), (20, 2, 0.002)])
def test_smallest_detectable_deviation_equals_the_noncentral_t(seeds, runs, alpha):
    deviation = smallest_detectable(row(sd=1.0, seeds=seeds), runs, alpha)
    noncentrality = deviation / math.sqrt(1 / runs + 1 / seeds)
    level, df = (alpha, seeds - 1) if runs == 1 else (0.6 * alpha, seeds + runs - 2)
    critical = stats.t.isf(level / 2, df)
    # An independent derivation: numerical integration over the estimated spread.
    power, _ = stats_integral(noncentrality, critical, df)
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
    repetitions, alpha = 6000, 0.05
    before, fresh = rng.normal(size=(repetitions, seeds)), rng.normal(size=(repetitions, runs))
    level = alpha if runs == 1 else 0.6 * alpha
    deviation = smallest_detectable(row(sd=1.0, seeds=seeds), runs, alpha)
    alarms, found = 0, np.zeros(2)
    for seen, new in zip(before, fresh, strict=True):
        known = row(value=seen.mean(), sd=seen.std(ddof=1), seeds=seeds)
        allowed, difference = tolerance(known, list(new), level), new.mean() - seen.mean()
        alarms += abs(difference) > allowed
        found += [abs(difference + direction * deviation) > allowed for direction in (-1, 1)]
    assert alarms / repetitions == pytest.approx(level, abs=4 * math.sqrt(level * (1 - level) / repetitions))
    assert found / repetitions == pytest.approx([0.8, 0.8], abs=4 * math.sqrt(0.8 * 0.2 / repetitions))
