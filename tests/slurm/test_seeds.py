"""Many seeds and methods on the cluster: the same bits as without one, no start made twice, nothing done again."""

import json
import stat
from pathlib import Path

import lab
import pytest
from cluster import Cluster

METHODS = lab.METHODS
SEEDS = (1, 2, 3)


@pytest.fixture(scope="module")
def done(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> lab.Sweep:
    """Two methods with three seeds, two runs at a time over four nodes."""
    sweep = lab.Sweep(tmp_path_factory.mktemp("seeds"))
    sweep.submitted(methods=list(METHODS), seeds=list(SEEDS))
    runs = sweep.ended()
    assert {run["state"] for run in runs.values()} == {"done"}, runs
    return sweep


def test_every_run_has_the_bits_of_a_direct_run(done: lab.Sweep, direct: lab.Direct) -> None:
    for seed in SEEDS:
        for method, alone in direct(seed).items():
            assert lab.weights(done.folder / method / f"seed-{seed}") == lab.weights(alone)
    hashes = {lab.weights(path.parent)[-1] for path in done.folder.rglob("results.json")}
    assert len(hashes) == len(METHODS) * len(SEEDS)


def test_a_start_is_made_once_and_linked(done: lab.Sweep) -> None:
    for seed in SEEDS:
        files = [done.folder / method / f"seed-{seed}" / "iteration-0" / "policy" / "model.safetensors" for method in METHODS]
        assert len({file.stat().st_ino for file in files}) == 1
    assert set(json.loads((done.folder / "sweep.json").read_text())["jobs"]["start"]) == {f"spac/seed-{seed}" for seed in SEEDS}


def test_two_at_a_time_on_more_than_one_node(done: lab.Sweep, cluster: Cluster) -> None:
    array = done.job("spac/seed-1").partition("_")[0]
    rows = cluster.ask("sacct", "-X", "-n", "-P", "-j", array, "-o", "Start,End,NodeList").splitlines()
    spans = [row.split("|") for row in rows]
    assert len(spans) == len(METHODS) * len(SEEDS)
    decode_batch_size = [sum(start <= moment < end for start, end, _ in spans) for moment, _, _ in spans]
    assert max(decode_batch_size) == 2
    assert len({node for _, _, node in spans}) > 1


def test_submitting_again_adds_only_what_is_missing(done: lab.Sweep) -> None:
    before = {path: path.stat().st_mtime_ns for path in done.folder.rglob("results.json")}
    again = done.submit("--json")
    assert again.returncode == 0
    assert json.loads(again.stdout)["submitted"] == []
    done.write(methods=list(METHODS), seeds=[*SEEDS, 4])
    dry = json.loads(done.submit("--json", "--dry-run").stdout)
    assert [(task["task"], task["run"]) for task in dry["tasks"]] == [
        ("start", "spac/seed-4"),
        ("run", "spac/seed-4"),
        ("run", "dpo/seed-4"),
    ]
    assert "#SBATCH --array=0-1%2" in dry["sbatch"]
    assert {path: path.stat().st_mtime_ns for path in done.folder.rglob("results.json")} == before


def test_a_changed_setting_is_another_sweep(done: lab.Sweep) -> None:
    done.write(methods=list(METHODS), seeds=list(SEEDS), settings={"training.max_grad_norm": 5.0})
    refused = done.submit()
    assert refused.returncode == 2
    assert "has a run spac/seed-1 with other settings" in refused.stderr


def test_one_table_in_four_formats(done: lab.Sweep) -> None:
    table = done.do("collect")
    assert table["missing"] == []
    reward = [row for row in table["rows"] if (row["method"], row["iteration"], row["metric"]) == ("dpo", 1, "reward")]
    assert len(reward) == 1
    assert reward[0]["seeds"] == 3
    values = [
        score["value"]
        for seed in SEEDS
        for score in json.loads((done.folder / f"dpo/seed-{seed}/results.json").read_text())["iterations"][1]["scores"]
        if score["metric"] == "reward"
    ]
    assert reward[0]["mean"] == pytest.approx(sum(values) / 3)
    assert {Path(file).suffix for file in table["files"]} == {".parquet", ".csv", ".md", ".tex"}


def test_the_table_of_a_sweep_shows_scores_and_ends_with_the_last_run(done: lab.Sweep) -> None:
    shown = lab.run("sweep", "status", done.folder, "--watch", "1", timeout=30)
    assert shown.returncode == 0
    assert "runs: 6 of 6 done" in shown.stdout
    reward = next(
        score["value"]
        for score in json.loads((done.folder / "dpo/seed-2/results.json").read_text())["iterations"][-1]["scores"]
        if score["metric"] == "reward"
    )
    (row,) = [line for line in shown.stdout.splitlines() if "dpo/seed-2" in line]
    assert f"gold reward {reward:.3f}" in row


def test_jobs_are_private(done: lab.Sweep) -> None:
    jobs = done.folder / "jobs"
    assert stat.S_IMODE(jobs.stat().st_mode) == 0o700
    jobs.chmod(0o755)
    refused = lab.run("sweep", "status", done.folder)
    jobs.chmod(0o700)
    assert refused.returncode == 2
    assert "is open to other users" in refused.stderr
