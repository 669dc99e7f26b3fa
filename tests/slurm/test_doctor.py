"""`doctor` on a real cluster: fit as it is, and unfit in each way that can be made here."""

import json
from pathlib import Path
from typing import Any

import lab
import pytest
import yaml
from cluster import Cluster


def doctor(tmp_path: Path, **profile: Any) -> tuple[int, dict[str, dict[str, str]]]:
    """The exit code, and the checks by what they are of."""
    file = tmp_path / "lab.yaml"
    file.write_text(yaml.safe_dump({**lab.PROFILE, **profile}))
    done = lab.run("doctor", "--cluster", file, "--sweep", "seeds", "--out", tmp_path / "runs", "--json")
    assert done.stderr == ""
    return done.returncode, {check["what"]: check for check in json.loads(done.stdout)["checks"]}


def test_a_fit_cluster_passes(cluster: Cluster, tmp_path: Path) -> None:
    code, checks = doctor(tmp_path)
    assert code == 0
    wanted = ("Python", "torch", "disk", "locks", "Slurm", "accounting", "job request", "shared folder")
    assert {what: checks[what]["verdict"] for what in wanted} == dict.fromkeys(wanted, "ok")
    assert "50 runs need" in checks["disk"]["found"]
    assert not (tmp_path / "runs").exists()
    assert cluster.ask("squeue", "-h", "-t", "PENDING,RUNNING") == ""


@pytest.mark.parametrize(
    ("profile", "what", "found"),
    [
        ({"partition": "nowhere"}, "job request", "invalid partition specified: nowhere"),
        ({"image": {"runtime": "apptainer", "path": "/nowhere/image.sif"}}, "image", "/nowhere/image.sif does not exist"),
        ({"cache": "/nowhere/cache"}, "cache", "has no prefetch.json"),
    ],
)
def test_an_unfit_cluster_is_reported(cluster: Cluster, tmp_path: Path, profile: dict[str, Any], what: str, found: str) -> None:
    code, checks = doctor(tmp_path, **profile)
    assert code == 3
    assert checks[what]["verdict"] == "unfit"
    assert found in checks[what]["found"]
    assert checks[what]["remedy"]
