"""What a node must have is looked for in the job, and `sweep status` says what it lacks."""

from pathlib import Path
from typing import Any

import lab
import pytest
from cluster import Cluster

RUN = "spac/seed-1"


@pytest.mark.parametrize(
    ("profile", "settings", "said"),
    [
        (
            {"scratch": "$NO_SUCH_DISK/me"},
            {},
            "scratch is $NO_SUCH_DISK/me: NO_SUCH_DISK is not set on the node; correct `scratch`",
        ),
        ({}, {"training.device": "cuda"}, "training.device is cuda: no GPU is visible"),
    ],
)
def test_what_a_node_lacks_fails_the_run(
    cluster: Cluster, sweep: lab.Sweep, profile: dict[str, Any], settings: dict[str, Any], said: str
) -> None:
    sweep.submitted(profile=profile, settings=settings)
    run = sweep.ended()[RUN]
    assert run["state"] == "failed"
    assert said in run["detail"]
    assert not (sweep.folder / RUN / "manifest.json").exists()
    assert not list(Path.cwd().glob("$*"))
