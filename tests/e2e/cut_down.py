"""A run of `tiny` cut down to seconds: the same stages, few steps."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SETTINGS = (
    "supervised_start.num_demonstrations=512",
    "supervised_start.epochs=1",
    "data.max_pairs=48",
    "selfplay.prompts_per_seed=8",
    "training.iterations=2",
    "training.epochs_per_iteration=1",
    "training.global_batch_size=8",
    "training.save_steps=1",
    "evaluation.gold_prompts=16",
    "evaluation.heldout_pairs=16",
    "evaluation.limit=4",
)


def command(out: Path, *arguments: str, settings: tuple[str, ...] = SETTINGS) -> list[str]:
    """The `train` command of a cut-down run."""
    sets = [part for setting in settings for part in ("--set", setting)]
    return [sys.executable, "-m", "spac_repro", "train", "--out", str(out), *sets, *arguments]


def environment() -> dict[str, str]:
    """One thread: the tests share few cores."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def train(out: Path, *arguments: str, settings: tuple[str, ...] = SETTINGS) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return subprocess.run(
        command(out, *arguments, settings=settings), env=environment(), capture_output=True, text=True, timeout=600
    )


def trained(out: Path, *arguments: str, settings: tuple[str, ...] = SETTINGS) -> Path:
    """The folder of a run that finished, and that printed no warning: pytest's filters do not reach other processes."""
    done = train(out, *arguments, settings=settings)
    assert done.returncode == 0, done.stderr
    assert "Warning:" not in done.stderr, done.stderr
    return out


def results(out: Path) -> dict[str, Any]:
    """What results.json holds."""
    return dict(json.loads((out / "results.json").read_text()))
