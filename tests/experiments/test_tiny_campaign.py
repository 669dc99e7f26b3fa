"""The campaign on `tiny`: what it trains, that a repeated command trains nothing again, and that it fits its six hours."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from spac_repro import methods, recipes

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))

import tiny_campaign
import tiny_rules as rules
from tiny_campaign import Campaign, Job

REWARDS = {"spac": 0.72, "dpo": 0.66, "ipo": 0.70, "sft": 0.64}


class Invented(Campaign):
    """A campaign whose runs take no time; larger learning rates are better up to 1e-4, and 1e-3 is not finite."""

    def __init__(self, out: Path) -> None:
        super().__init__(out, 2)
        self.trained: list[Job] = []
        self.done: set[str] = set()

    def train(self, jobs: Any) -> None:
        fresh = [job for job in jobs if not self.finished(job)]
        self.trained += fresh
        self.done |= {job.folder for job in fresh}

    def finished(self, job: Job) -> bool:
        return job.folder in self.done

    def reward(self, job: Job) -> float:
        rate = float(job.settings[f"methods.{job.method}.learning_rate"])
        return float("-inf") if rate > 5e-4 else REWARDS.get(job.method, 0.5) - abs(rate - 1e-4)


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Invented:
    made = Invented(tmp_path_factory.mktemp("campaign"))
    for stage in ("tuning", "seeds", "compute", "rereferenced", "ratio", "critic", "fresh"):
        tiny_campaign.run_stage(made, stage)
    return made


def folders(campaign: Invented, start: str) -> list[str]:
    return sorted(job.folder for job in campaign.trained if job.folder.startswith(start))


def test_every_method_is_tuned_at_equally_many_points_on_a_seed_of_its_own(campaign: Invented) -> None:
    own = [job for job in campaign.trained if job.folder.startswith("tuning/") and "reference_policy" not in job.folder]
    counts = {method: sum(job.method == method for job in own) for method in methods.names()}
    assert set(counts) == set(methods.names())
    assert all(5 <= count <= rules.MOST_POINTS for count in counts.values())
    assert {job.seed for job in own} == {rules.TUNING_SEED}
    assert rules.TUNING_SEED not in {job.seed for job in campaign.trained if not job.folder.startswith("tuning/")}
    chosen = campaign.chosen()
    assert {point.learning_rate for point in chosen.values()} == {1e-4}


def test_all_get_five_seeds_and_those_that_are_close_ten(campaign: Invented) -> None:
    for method in methods.names():
        found = folders(campaign, f"seeds/{method}/")
        assert len(found) == (10 if method in ("spac", "dpo", "ipo") else 5), method


def test_the_best_rivals_compute_as_many_responses_and_dpo_and_ipo_get_a_beta_of_their_own(campaign: Invented) -> None:
    longer = [job for job in campaign.trained if "epochs_per_iteration" in job.folder]
    assert {job.method for job in longer} == {"ipo", "dpo", "sft"}
    for job in longer:
        assert job.settings["training.epochs_per_iteration"] * len(methods.get(job.method).responses) == 6
    again = [job for job in campaign.trained if "reference_policy" in job.folder]
    assert {job.method for job in again} == {"dpo", "ipo"}
    assert all(job.settings[f"methods.{job.method}.reference_policy"] == "previous" for job in again)
    assert len([job for job in again if job.folder.startswith("seeds/")]) == 10
    assert len({job.settings["methods.dpo.beta"] for job in again if job.method == "dpo"}) >= 3


def test_runs_of_a_seed_share_their_start_and_their_settings_are_the_recipes_own(campaign: Invented) -> None:
    assert all(job.start.endswith(f"seed-{job.seed}") for job in campaign.trained)
    several = {tuple(sorted(job.settings.items())): job for job in campaign.trained if job.folder.startswith(("seeds/", "fresh/"))}
    starts = set()
    for settings, job in several.items():
        loaded = recipes.load("tiny", method=job.method, overrides=[f"{key}={value}" for key, value in settings])
        starts.add(repr(loaded.start_settings()))
    assert len(starts) == 1


def test_the_ratio_of_the_two_weights(campaign: Invented) -> None:
    ratios = {job.settings["methods.spac.preference_weight"] for job in campaign.trained if "preference_weight" in job.folder}
    assert ratios == set(rules.RATIOS)
    by_critic = {3.0 / job.settings["methods.spac.critic_weight"] for job in campaign.trained if "critic_weight" in job.folder}
    assert sorted(by_critic) == pytest.approx(rules.RATIOS, rel=0.01)


def test_each_critic_and_baseline_but_the_recipes_own(campaign: Invented) -> None:
    jobs = [job for job in campaign.trained if "critic_loss" in job.folder]
    pairs = {(job.settings["methods.spac.critic_loss"], job.settings["methods.spac.critic_baseline"]) for job in jobs}
    assert ("smoothed", "both") not in pairs
    assert len(pairs) == 7
    assert len(jobs) == 7 * len(rules.FIRST_SEEDS)


def test_a_repeated_command_trains_nothing_again(campaign: Invented) -> None:
    before = len(campaign.trained)
    for stage in ("tuning", "seeds", "compute", "rereferenced", "ratio", "critic", "fresh"):
        tiny_campaign.run_stage(campaign, stage)
    assert len(campaign.trained) == before
    assert len({job.folder for job in campaign.trained}) == before


def test_a_stage_before_its_time_says_which_one_to_run_first(tmp_path: Path) -> None:
    empty = Invented(tmp_path)
    with pytest.raises(SystemExit, match="run the stage `tuning` first"):
        tiny_campaign.run_stage(empty, "ratio")
    tiny_campaign.run_stage(empty, "tuning")
    with pytest.raises(SystemExit, match="run the stage `seeds` first"):
        tiny_campaign.run_stage(empty, "compute")


def test_it_fits_six_hours_of_two_cores(capsys: pytest.CaptureFixture[str]) -> None:
    assert sum(minutes for _, _, minutes in tiny_campaign.budget()) / 2 < 6 * 60
    tiny_campaign.show_budget(2)
    assert "hours with 2 runs at a time" in capsys.readouterr().out


@pytest.mark.parametrize(("status", "error", "known"), [(2, "the loss is not finite", True), (1, "", False), (70, "a fault", None)])
def test_a_training_that_is_not_finite_is_a_result_and_any_other_failure_ends_the_campaign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, error: str, known: bool | None
) -> None:
    def process(command: list[str], **options: Any) -> Any:
        return subprocess.CompletedProcess(command, status if "--start-from" in command else 0, "", error)

    monkeypatch.setattr(tiny_campaign.subprocess, "run", process)
    campaign, job = Campaign(tmp_path, 1), tiny_campaign.tuning_job("spac", rules.Point(1e-3, 0.3))
    if known is None:
        with pytest.raises(SystemExit, match="exit status 70"):
            campaign.train([job])
        return
    campaign.train([job])
    assert campaign.finished(job) == known
    if known:
        assert campaign.reward(job) == float("-inf")
