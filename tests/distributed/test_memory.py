"""What a process keeps over the iterations of a run: nothing of an engine or of a model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cut_down
import pytest

pytestmark = pytest.mark.distributed

SETTINGS = (
    "supervised_start.num_demonstrations=64",
    "supervised_start.epochs=1",
    "data.max_pairs=8",
    "selfplay.prompts_per_seed=8",
    "training.epochs_per_iteration=1",
    "training.global_batch_size=4",
    "training.processes=2",
    "evaluation.gold_prompts=0",
    "evaluation.heldout_pairs=8",
    "evaluation.suite=none",
    "methods.spac.reference_policy=start",  # from the second iteration on another model than the policy
)
COUNTED = str(Path(__file__).with_name("counted_tensors.py"))


def growth(folder: Path, engine: str, iterations: int, **variables: str) -> list[float]:
    """What each of two processes has more at the last iteration's beginning than at the first's, as a share of an engine."""
    settings = (*SETTINGS, f"training.engine={engine}", f"training.iterations={iterations}")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", COUNTED]
    variables |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2]), "COUNTED_TENSORS": str(folder)}
    command = [*torchrun, *cut_down.command(folder / "run", settings=settings)[3:]]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    shares = []
    for rank in (0, 1):
        found = [json.loads(line) for line in (folder / f"{rank}.jsonl").read_text().splitlines()]
        assert len(found) == iterations
        assert (folder / f"{rank}.connected").read_text() == "False"
        assert engine != "deepspeed-zero3" or all(sum(each["partitioned"].values()) > 300_000 for each in found)
        shares.append((found[-1]["before"] - found[0]["before"]) / found[0]["engine"])
    return shares


@pytest.mark.parametrize(("engine", "iterations"), [("deepspeed-zero2", 3), ("deepspeed-zero3", 10)])
def test_iterations_leave_less_than_a_hundredth_of_an_engine(engine: str, iterations: int, tmp_path: Path) -> None:
    assert max(growth(tmp_path, engine, iterations)) < 0.01


def test_an_engine_that_deepspeed_remembers_is_seen(tmp_path: Path) -> None:
    assert min(growth(tmp_path, "deepspeed-zero3", 3, DEEPSPEED_REMEMBERS="1")) > 2
