"""The campaign on `tiny` with real runs, cut down: runs share their start, and a repeated command trains nothing."""

import sys
from pathlib import Path

import cut_down
import pytest

from spac_repro.runs import files
from spac_repro.runs.folder import RunFolder

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))

import tiny_campaign
import tiny_rules as rules
from tiny_campaign import Campaign

pytestmark = pytest.mark.e2e

SETTINGS = (*cut_down.SETTINGS, "training.iterations=1")


@pytest.mark.check
def test_runs_share_their_start_and_have_the_settings_of_their_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    campaign = Campaign(tmp_path, 1, SETTINGS)
    point = rules.Point(1e-4, 0.3)
    jobs = [tiny_campaign.tuning_job("dpo", point), tiny_campaign.tuning_job("dpo", point, "reference_policy=previous/")]
    campaign.train(jobs)
    campaign.train(jobs)
    assert capsys.readouterr().out.count("done") == 2
    runs = [RunFolder.open(tmp_path / job.folder) for job in jobs]
    assert [run.manifest.settings["methods"]["dpo"]["reference_policy"] for run in runs] == ["start", "previous"]
    assert len({run.iteration(0).weights_sha256 for run in runs}) == 1
    assert all(run.manifest.settings["evaluation"]["suite"] == "none" for run in runs)
    assert [campaign.reward(job) for job in jobs] == [
        next(score.value for score in run.results.iterations[-1].scores if score.metric == "reward") for run in runs
    ]
    assert campaign.tuned("dpo") == {}  # the other points of the first round are missing


def test_the_verification_comes_after_its_expected_results(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "fresh" / "spac" / "seed-11")
    identity = {"recipe": "tiny", "method": "spac", "seed": 11, "settings": {}, "inputs": {}, "settings_sha256": "f" * 64}
    files.write_json(folder.manifest_file, {"schema": 1, **identity, "environment": {}})
    with pytest.raises(SystemExit, match=r"the recipe and expected_results/tiny\.yaml: not of the settings"):
        tiny_campaign.verification(Campaign(tmp_path, 1))
