"""A model whose rows cannot be packed, under ZeRO-3: the steps of one process without sharding."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.distributed


def test_the_steps_are_those_of_one_process() -> None:
    script = str(Path(__file__).with_name("one_by_one.py"))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(torchrun, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "weights apart" in done.stdout
