"""The leaderboard over one, two and three processes: the same scores."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from spac_repro import recipes

pytestmark = pytest.mark.distributed

SCRIPT = Path(__file__).with_name("scored.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The policy of `tiny` before any training."""
    from spac_repro.model import policy

    folder = tmp_path_factory.mktemp("model")
    policy.save(*policy.create_initial(recipes.load("tiny").recipe.policy, seed=0), folder)
    return folder


def scores(folder: Path, processes: int) -> list[Any]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*torchrun, str(SCRIPT), str(folder)], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("[[")]
    return list(json.loads(line))


def test_the_scores_do_not_depend_on_the_number_of_processes(folder: Path) -> None:
    alone = scores(folder, 1)
    assert len(alone) > 6
    for processes in (2, 3):
        for ours, theirs in zip(scores(folder, processes), alone, strict=True):
            assert ours[:2] == theirs[:2]
            assert ours[2:] == pytest.approx(theirs[2:], rel=1e-5)
