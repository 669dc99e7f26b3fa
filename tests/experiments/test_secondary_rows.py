"""Secondary rows: honest runs disagree at the stated rate, two-humped scores too where a row describes them; faults are found."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))

import secondary_rows as simulated
from secondary_rows import ALPHA, RULES

EACH, FAMILY, GAINS, HUMPS = RULES
FAMILIES = 150
MOST = ALPHA + 3 * (ALPHA * (1 - ALPHA) / FAMILIES) ** 0.5  # three standard errors of the simulation


@pytest.mark.parametrize("rule", [FAMILY, GAINS, HUMPS])
def test_the_level_holds_for_normal_scores(rule: str) -> None:
    assert simulated.rate(0.0, 0.0, rule, families=FAMILIES) <= MOST


def test_the_level_holds_for_two_humped_scores_where_the_row_describes_them() -> None:
    assert simulated.rate(0.09, 10.0, HUMPS, families=FAMILIES) <= MOST
    assert simulated.rate(0.5, 10.0, HUMPS, families=FAMILIES) <= MOST


def test_without_that_it_does_not_hold_and_without_the_family_not_at_all() -> None:
    undescribed, described = (simulated.rate(0.09, 10.0, rule, families=FAMILIES) for rule in (GAINS, HUMPS))
    assert undescribed > max(2 * ALPHA, described)
    assert simulated.rate(0.0, 0.0, EACH, families=FAMILIES) > 10 * ALPHA


def test_faults_are_found_and_a_gain_finds_smaller_ones() -> None:
    costly, other = simulated.FAULTS.values()
    assert simulated.rate(0.0, 0.0, FAMILY, fault=other(14.0), families=50) > 0.9
    assert simulated.rate(0.5, 10.0, FAMILY, fault=costly(14.0), families=50) < 0.9
    assert simulated.rate(0.5, 10.0, GAINS, fault=costly(14.0), families=50) > 0.9
