"""The simulation of false alarms: it measures the tabular setting's rows as the file has them, and tests as the package does."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from spac_repro.trust.expected import ExpectedResults, ExpectedRow, Measured, expected_path, load_expected
from spac_repro.trust.verification import verify

SCRIPT = Path(__file__).resolve().parents[2] / "experiments" / "false_alarm_rates.py"


@pytest.fixture(scope="module")
def rates() -> ModuleType:
    spec = importlib.util.spec_from_file_location("false_alarm_rates", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def primary_rows() -> list[ExpectedRow]:
    return [row for row in load_expected(expected_path("theory")).rows if row.primary]


def test_every_primary_row_of_the_tabular_setting_is_measured(rates: Any) -> None:
    assert {(row.task, row.metric, row.method) for row in primary_rows()} == set(rates.MEASURES)


def test_the_rows_own_seeds_give_the_rows_own_numbers(rates: Any) -> None:
    for row in primary_rows():
        if row.task in ("prototype", "coverage"):
            values = rates.MEASURES[row.task, row.metric, row.method](range(1, 21))
            assert row.value == pytest.approx(values.mean(), rel=1e-6)
            assert row.sd == pytest.approx(values.std(ddof=1), rel=1e-6)


@pytest.mark.parametrize("runs", [1, 5])
def test_it_rejects_what_verification_rejects(rates: Any, runs: int) -> None:
    rng = np.random.default_rng(3)
    scores = 2 * rng.standard_exponential((150, 10 + runs)) ** 2
    source = {"kind": "measured", "commit": "c", "lock_sha256": "l", "hardware": "h", "date": "2026-01-31", "command": "x"}
    sources = {"ours": Measured.model_validate({**source, "seeds": range(1, 11)})}
    agreed = []
    for own, fresh in zip(scores[:, :10], scores[:, 10:], strict=True):
        row = ExpectedRow(
            method="spac", task="t", metric="m", source="ours", primary=True, value=own.mean(), sd=own.std(ddof=1), seeds=10
        )
        expected = ExpectedResults(recipe="r", alpha=0.05, sources=sources, rows=(row,))
        agreed.append(verify(expected, {row.key: list(fresh)}).status != "disagrees")
    rejected = rates.rejected(scores[:, :10], scores[:, 10:], 0.05)
    assert rejected.tolist() == [not each for each in agreed]
    assert 0 < rejected.sum() < 75
