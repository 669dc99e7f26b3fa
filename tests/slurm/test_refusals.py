"""What is wrong is said in one line before anything is in the queue."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lab
import pytest
from cluster import Cluster, wait_for


def refused(sweep: lab.Sweep, cluster: Cluster, code: int = 2) -> str:
    """Submit what must be refused with one line, leaving nothing in the queue; the line."""
    before = cluster.ask("squeue", "-h", "-a", "-o", "%i")
    done = sweep.submit()
    assert done.returncode == code, done
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert cluster.ask("squeue", "-h", "-a", "-o", "%i") == before
    return lines[0]


@pytest.fixture(autouse=True)
def empty_queue(cluster: Cluster) -> Iterator[None]:
    """What a test leaves in the queue must not fail the next."""
    yield
    cluster.ask("scancel", "-u", "root")


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ({"partition": "nowhere"}, "invalid partition specified: nowhere"),
        ({"account": "nobody"}, "Invalid account or account/partition combination specified"),
        ({"memory_gb": 999}, "Memory specification can not be satisfied"),
        ({"gpus_per_node": 64, "processes_per_node": 1}, "Requested node configuration is not available"),
        ({"sbatch": {"no-such-option": True}}, "unrecognized option"),
    ],
)
def test_slurms_error_is_quoted(cluster: Cluster, sweep: lab.Sweep, profile: dict[str, Any], words: str) -> None:
    sweep.write(profile=profile)
    line = refused(sweep, cluster)
    assert words in line
    assert "nothing was submitted" in line


def test_a_rejection_cancels_the_start_jobs(cluster: Cluster, sweep: lab.Sweep) -> None:
    """Two arrays, the second refused: the first must not stay."""
    sweep.write(seeds=[1, 2], methods=["spac", "dpo"])
    cluster.ask("sacctmgr", "-i", "modify", "user", "root", "set", "MaxSubmitJobs=3")
    try:
        line = refused(sweep, cluster)
    finally:
        cluster.ask("sacctmgr", "-i", "modify", "user", "root", "set", "MaxSubmitJobs=-1")
    assert "Job violates accounting/QOS policy" in line
    wait_for(lambda: not cluster.ask("squeue", "-h"), "an empty queue", 30)
    assert not (sweep.folder / "sweep.json").exists(), "what was refused would bind the next attempt to its settings"


def test_an_unknown_setting_is_refused(cluster: Cluster, sweep: lab.Sweep) -> None:
    sweep.write(vary={"methods.*.preference_wait": [1.0, 3.0]})
    assert "unknown key 'methods.spac.preference_wait' (did you mean methods.spac.preference_weight?)" in refused(sweep, cluster)


def test_a_profile_with_another_number_of_processes_is_refused(cluster: Cluster, sweep: lab.Sweep) -> None:
    sweep.write(profile={"nodes": 2})
    assert "has training.processes=1, but the cluster profile starts 2" in refused(sweep, cluster)


def test_a_folder_that_the_nodes_cannot_write(cluster: Cluster, sweep: lab.Sweep) -> None:
    sweep.write()
    sweep.folder.mkdir()
    for node in range(4):
        cluster.stop_node(node)
        cluster.start_node(node, "unshare", "--mount", "sh", "-c", f'mount -t tmpfs -o ro tmpfs "{sweep.folder}" && exec "$0" "$@"')
    wait_for(lambda: len(cluster.ask("sinfo", "-hN", "-p", "main", "-t", "idle", "-o", "%N").split()) == 4, "idle nodes", 60)
    try:
        line = refused(sweep, cluster)
    finally:
        for node in range(4):
            cluster.stop_node(node)
            cluster.start_node(node)
    assert f"cannot write to {sweep.folder}/jobs; choose a folder on a shared disk with --out" in line


def test_another_users_jobs_are_not_touched(cluster: Cluster, sweep: lab.Sweep) -> None:
    sweep.write()
    (sweep.folder / "jobs").mkdir(parents=True, mode=0o700)
    shutil.chown(sweep.folder / "jobs", "nobody")
    assert "is not yours" in refused(sweep, cluster)


def test_missing_slurm_is_reported(cluster: Cluster, sweep: lab.Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    sweep.write()
    done = sweep.submit()
    assert done.returncode == 3
    assert done.stderr.splitlines() == [
        "spac-repro: Slurm is not installed here (sbatch is missing); run this on a login node, or use --cluster local"
    ]
