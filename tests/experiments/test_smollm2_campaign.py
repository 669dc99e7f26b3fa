"""The campaign on SmolLM2-135M: its sweeps share their starts, and the learning rates are those of the largest margins."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from spac_repro.launchers import matrix

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))

import smollm2_campaign as campaign


def finished(method: str, rate: float, margin: float) -> Any:
    """A run as far as the choice of a rate reads it."""
    settings = {"methods": {method: {"learning_rate": rate}}}
    scores = [SimpleNamespace(task="heldout", metric="margin", value=margin)]
    results = SimpleNamespace(iterations=[SimpleNamespace(scores=[]), SimpleNamespace(scores=scores)])
    return SimpleNamespace(manifest=SimpleNamespace(settings=settings, method=method), results=results)


def test_the_largest_margin_chooses_each_methods_rate(monkeypatch):
    runs = [finished("spac", 1e-6, 0.5), finished("spac", 3e-6, 2.0), finished("dpo", 1e-6, 1.0), finished("dpo", 1e-5, -1.0)]
    monkeypatch.setattr(campaign, "finished", lambda folder, methods: runs)
    rates = campaign.chosen_rates(Path("tuning"))
    assert rates == {"spac": 3e-6, "dpo": 1e-6}
    settings = campaign.rate_settings(rates)
    assert settings[-1] == "methods.ipo.learning_rate=1e-06"
    monkeypatch.setattr(campaign, "finished", lambda folder, methods: runs[:2])
    with pytest.raises(SystemExit, match="no finished run of dpo"):
        campaign.chosen_rates(Path("tuning"))


def test_runs_of_one_seed_share_their_start_and_train_at_the_chosen_rate():
    settings = campaign.rate_settings({"spac": 3e-6, "dpo": 1e-6})
    runs = [run for name in ("smollm2_seeds", "smollm2_ipo") for run in matrix.runs(matrix.Sweep.load(name), settings)]
    assert len(runs) == 13
    for seed in (1, 2, 3):
        assert len({run.start_sha256 for run in runs if run.seed == seed}) == 1
    assert len({run.start_sha256 for run in runs}) == 5
    tuning = matrix.runs(matrix.Sweep.load("smollm2_tuning"))
    assert len(tuning) == 6
    assert {run.seed for run in tuning}.isdisjoint({run.seed for run in runs})
    assert {run.seed for run in tuning} == {campaign.TUNING_SEED}
    assert {f"data.max_pairs={campaign.PAIRS}"} == {
        each for run in (*runs, *tuning) for each in run.settings if "max_pairs" in each
    }
