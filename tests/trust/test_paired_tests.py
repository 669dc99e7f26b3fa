"""McNemar's test, sign flips, Holm's correction and the detectable difference, against other derivations of the same numbers."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import gammaln, xlogy
from scipy.stats import binomtest

from spac_repro.trust import paired_tests
from spac_repro.trust.paired_tests import detectable_share, holm, mcnemar, mcnemar_power, share_interval, sign_flips


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_the_binomial_test_of_what_flipped(gained, lost):
    expected = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert mcnemar(gained, lost).value == pytest.approx(expected, rel=1e-9)


@given(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.25, 1.0]), max_size=9))
def test_sign_flips_are_all_of_them(differences):
    sums = [sum(sign * each for sign, each in zip(signs, differences, strict=True)) for signs in _signs(len(differences))]
    share = sum(abs(each) >= abs(sum(differences)) - 1e-12 for each in sums) / len(sums)
    assert sign_flips(differences) == (pytest.approx(share), "sign flips, all", 0.0)


def _signs(length):
    return list(itertools.product((-1, 1), repeat=length))


@given(st.integers(0, 10), st.integers(0, 10))
def test_sign_flips_of_shares_are_mcnemars_test(gained, lost):
    assert sign_flips([1.0] * gained + [-1.0] * lost + [0.0] * 7).value == pytest.approx(mcnemar(gained, lost).value)


def test_drawn_sign_flips_are_within_their_error_of_the_exact_value():
    drawn = sign_flips([1.0] * 40 + [-1.0] * 24)
    exact = mcnemar(40, 24).value
    assert drawn.method == "sign flips, drawn"
    assert 0 < drawn.error < 0.01
    assert abs(drawn.value - exact) < 4 * drawn.error
    assert sign_flips([1.0] * 40 + [-1.0] * 24) == drawn
    assert sign_flips([1.0] * 200).value == pytest.approx(1 / (1 + paired_tests.DRAWS))  # never 0


def test_holm_on_a_worked_example():
    """By hand: 4 × 0.005; 3 × 0.01; 2 × 0.03; then 1 × 0.04, which is raised to the one before it."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.6, 0.9]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.floats(0.001, 0.5))
def test_holm_rejects_as_the_step_down_procedure(values, alpha):
    rejected = set()
    for step, place in enumerate(sorted(range(len(values)), key=lambda place: values[place])):
        if values[place] * (len(values) - step) > alpha:
            break
        rejected.add(place)
    assert {place for place, value in enumerate(holm(values)) if value <= alpha} == rejected


def _outcomes(questions, rate, difference):
    """Every number of gained and lost questions, with its probability."""
    gained, lost = np.meshgrid(range(questions + 1), range(questions + 1), indexing="ij")
    there = gained + lost <= questions
    gained, lost = gained[there], lost[there]
    rest, up, down = questions - gained - lost, (rate + difference) / 2, (rate - difference) / 2
    orders = gammaln(questions + 1) - gammaln(gained + 1) - gammaln(lost + 1) - gammaln(rest + 1)
    return gained, lost, np.exp(orders + xlogy(gained, up) + xlogy(lost, down) + xlogy(rest, 1 - rate))


@pytest.mark.parametrize("questions", [10, 50, 100])
@pytest.mark.parametrize("rate", [0.02, 0.1, 0.3, 0.6])
@pytest.mark.parametrize("part", [0.0, 0.5, 0.9])
def test_the_interval_of_shares_covers_over_all_outcomes(questions, rate, part):
    gained, lost, chances = _outcomes(questions, rate, part * rate)
    likely = chances > 1e-7
    covered = 0.0
    for up, down, chance in zip(gained[likely], lost[likely], chances[likely], strict=True):
        low, high = share_interval(int(up), int(down), questions, 0.05)
        covered += chance * (low <= part * rate <= high)
    assert covered > 0.948


@pytest.mark.parametrize(("rate", "difference"), [(0.2, 0.1), (0.3, 0.0), (0.1, 0.1)])
def test_power_over_all_outcomes(rate, difference):
    gained, lost, chances = _outcomes(60, rate, difference)
    rejected = sum(
        chance for up, down, chance in zip(gained, lost, chances, strict=True) if mcnemar(int(up), int(down)).value <= 0.05
    )
    assert mcnemar_power(60, rate, difference, 0.05) == pytest.approx(rejected, rel=1e-9)


def test_the_detectable_difference_is_found_with_probability_080():
    found = detectable_share(20, 12, 400, 0.01)
    assert found is not None
    assert mcnemar_power(400, 34 / 402, found, 0.01) == pytest.approx(0.8, abs=1e-3)
    # Connor (1987), the usual approximation for many questions: δ²n = (z_{α/2}√ψ + z_β √(ψ − δ²))².
    found = detectable_share(500, 500, 10_000, 0.05)
    psi = 1002 / 10_002
    assert found is not None
    assert found**2 * 10_000 == pytest.approx((1.959964 * math.sqrt(psi) + 0.841621 * math.sqrt(psi - found**2)) ** 2, rel=0.03)


def test_what_too_few_questions_cannot_find():
    assert detectable_share(0, 0, 4, 0.05) is None  # four flips in one direction have p = 0.125
    assert detectable_share(0, 0, 6, 0.05) is not None
    assert 0.0 < detectable_share(0, 0, 1000, 0.05) < detectable_share(50, 50, 1000, 0.05)
