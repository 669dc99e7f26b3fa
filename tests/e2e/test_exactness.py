"""The same recipe, seed and environment give the same bits; another seed gives others."""

import json
import shutil
from pathlib import Path

import cut_down
import pytest

from spac_repro import methods, suites
from spac_repro.errors import UserError
from spac_repro.evaluation import model_folder
from spac_repro.progress import NoProgress
from spac_repro.runs import files
from spac_repro.runs.folder import RunFolder

pytestmark = pytest.mark.e2e


def test_twice_the_same_and_another_seed_another(uninterrupted: Path, tmp_path: Path) -> None:
    again, other = tmp_path / "again", tmp_path / "other"
    for out, seed in ((again, "0"), (other, "1")):
        cut_down.trained(out, "--seed", seed)
    assert cut_down.results(again) == cut_down.results(uninterrupted)
    for iterate, those in zip(cut_down.results(uninterrupted)["iterations"], cut_down.results(other)["iterations"], strict=True):
        assert iterate["weights_sha256"] != those["weights_sha256"]


def test_repeating_a_finished_run_says_so_and_changes_nothing(uninterrupted: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*.safetensors")}
    done = cut_down.train(uninterrupted)
    assert done.returncode == 0, done.stderr
    assert "is complete; nothing to do" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*.safetensors")} == before


def test_the_manifest_names_no_place_and_no_time(uninterrupted: Path) -> None:
    text = (uninterrupted / "manifest.json").read_text()
    assert str(uninterrupted) not in text
    assert str(Path.home()) not in text
    assert "/tmp" not in text


def test_a_folder_of_another_run_is_refused(uninterrupted: Path) -> None:
    done = cut_down.train(uninterrupted, "--set", "training.max_grad_norm=5.0")
    assert done.returncode == 2
    assert "settings.training.max_grad_norm is 10.0 there and 5.0 here" in done.stderr.splitlines()[-1]


def test_a_changed_environment_is_refused_and_where_allowed_recorded(uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "moved"
    shutil.copytree(uninterrupted, run)
    (run / "results.json").unlink()
    recorded = RunFolder(run).manifest
    elsewhere = recorded.model_copy(update={"environment": {**recorded.environment, "cpu": "another processor"}})
    files.write_json(run / "manifest.json", elsewhere.as_json())
    refused = cut_down.train(run)
    assert refused.returncode == 2
    assert "cpu was 'another processor'" in refused.stderr.splitlines()[-1]
    cut_down.trained(run, "--allow-changed-environment")
    after = json.loads((run / "manifest.json").read_text())
    assert len(after["segments"]) == 1
    assert after["equal_bits_claimed"] is False


def test_an_earlier_iterate_is_not_evaluated_for_the_last(uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    shutil.rmtree(run / "iteration-2" / "policy")
    with pytest.raises(UserError, match=f"its last iterate was removed; .* such as {run}/iteration-1/policy"):
        model_folder.evaluate(
            run, suites.get("mini"), questions_folder=None, tasks=None, limit=1, batch_size=1, progress=NoProgress()
        )


@pytest.mark.check
@pytest.mark.parametrize("method", [name for name in methods.names() if name != "spac"])
def test_every_method_trains_the_same_number_of_steps(uninterrupted: Path, tmp_path: Path, method: str) -> None:
    out = tmp_path / method
    cut_down.trained(out, "--method", method)
    steps = [
        [line["iteration"] for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())]
        for run in (out, uninterrupted)
    ]
    assert steps[0] == steps[1]
    start, *iterates = cut_down.results(out)["iterations"]
    assert start["weights_sha256"] == cut_down.results(uninterrupted)["iterations"][0]["weights_sha256"]
    assert len({iterate["weights_sha256"] for iterate in (start, *iterates)}) == 3


@pytest.mark.check
def test_a_shared_start_is_the_start_and_gives_the_same_run(uninterrupted: Path, tmp_path: Path) -> None:
    start, run = tmp_path / "start", tmp_path / "run"
    stopped = cut_down.train(start, "--until", "0", "--method", "dpo")
    assert stopped.returncode == 0, stopped.stderr
    assert "stopped after iteration 0" in stopped.stdout
    assert not (start / "results.json").exists()
    cut_down.trained(run, "--start-from", str(start))
    assert (run / "iteration-0/policy/model.safetensors").samefile(start / "iteration-0/policy/model.safetensors")
    assert cut_down.results(run) == cut_down.results(uninterrupted)
    assert (run / "metrics.jsonl").read_bytes() == (uninterrupted / "metrics.jsonl").read_bytes()


@pytest.mark.check
def test_a_start_of_another_seed_or_setting_or_none_is_refused(uninterrupted: Path, tmp_path: Path) -> None:
    start = ("--start-from", str(uninterrupted))
    slower = ("--set", "supervised_start.learning_rate=1e-3")
    for arguments, why in (
        (("--seed", "1", *start), "seed is 0 there and 1 here"),
        ((*slower, *start), "supervised_start.learning_rate is 0.003 there and 0.001 here"),
        (("--set", "training.micro_batch_tokens=100", *start), "training.micro_batch_tokens is 4096 there and 100 here"),
        (("--start-from", str(tmp_path)), "has no finished start policy"),
    ):
        refused = cut_down.train(tmp_path / "refused", *arguments)
        assert refused.returncode == 2
        assert why in refused.stderr.splitlines()[-1]
        assert len(refused.stderr.splitlines()[-1]) < 400


@pytest.mark.check
def test_the_reference_is_the_iterate_that_it_should_be(uninterrupted: Path, tmp_path: Path) -> None:
    """The dataset of another iteration is refused; without it the run continues, with the same results."""
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    (run / "results.json").unlink()
    shutil.rmtree(run / "iteration-2" / "policy")
    shutil.copy(run / "iteration-1" / "selfplay.parquet", run / "iteration-2" / "selfplay.parquet")
    refused = cut_down.train(run)
    assert refused.returncode == 2
    assert "iteration-2/selfplay.parquet: it is not what the run wrote" in refused.stderr.splitlines()[-1]
    (run / "iteration-2" / "selfplay.parquet").unlink()
    assert cut_down.train(run).returncode == 0
    assert cut_down.results(run) == cut_down.results(uninterrupted)


@pytest.mark.check
def test_packed_rows_give_the_loss_curve_of_responses_computed_one_by_one(uninterrupted: Path, tmp_path: Path) -> None:
    """From the supervised start on: to fp32 rounding that all steps before have passed on."""
    done = cut_down.train(tmp_path, "--set", "policy.attn_implementation=eager", "--until", "1")
    assert done.returncode == 0, done.stderr
    assert "every response is computed with its own copy of the prompt" in done.stderr
    packed, apart = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] for folder in (uninterrupted, tmp_path)
    )
    assert apart[-1]["iteration"] == 1
    for one, other in zip(packed, apart, strict=False):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-4), (one["iteration"], one["step"])
