"""A rehearsal as a job: two nodes meet, a signal of Slurm stops the training, and the document comes back."""

import json
from pathlib import Path
from typing import Any

import lab
import yaml
from cluster import Cluster

SETTINGS = {**lab.SETTINGS, "evaluation.gold_prompts": 0, "evaluation.heldout_pairs": 0, "supervised_start.num_demonstrations": 64}


def rehearse(folder: Path, profile: dict[str, Any], *more: str) -> Any:
    file = folder / "lab.yaml"
    file.write_text(yaml.safe_dump({**lab.PROFILE, **profile}))
    sets = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    out = folder / "rehearsal.json"
    return lab.run("rehearse", "--cluster", file, "--out", out, "--layers", "2", "--minutes", "0.1", *sets, *more)


def test_two_nodes_rehearse_and_slurm_signals_them(cluster: Cluster, tmp_path: Path) -> None:
    nodes = {"nodes": 2, "processes_per_node": 1, "scratch": str(tmp_path / "scratch")}
    done = rehearse(tmp_path, nodes, "--set", "training.processes=2", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["fits"]
    proved = said["rehearsal"]["proved"]
    assert proved[0] == "2 processes connected"
    assert {"a signal of Slurm reached the training", "2 nodes met", f"scratch {tmp_path / 'scratch'} takes caches"} <= set(proved)
    assert not list((tmp_path / "scratch").iterdir())
    assert not list(tmp_path.glob(".rehearsal-*"))
    assert "one job" in " ".join(said["notes"])


def test_a_job_that_cannot_rehearse_says_why(cluster: Cluster, tmp_path: Path) -> None:
    done = rehearse(tmp_path, {"scratch": "$NOT_SET_ON_THE_NODE"})
    assert done.returncode == 2
    assert "NOT_SET_ON_THE_NODE is not set on the node; correct `scratch` in the cluster profile" in done.stderr
    assert not (tmp_path / "rehearsal.json").exists()
    other = rehearse(tmp_path, {"nodes": 2, "processes_per_node": 1})
    assert other.returncode == 2
    assert "the profile starts 2; --set training.processes=2" in other.stderr
