"""Leaving a process group, in a process of its own."""

import subprocess
import sys

ALONE = """
import torch.distributed as dist
from spac_repro.optim import distributed
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
distributed.leave_process_group()
print(dist.is_initialized())
"""


def test_a_group_of_one_process_is_left_too():
    """DeepSpeed makes one, and NCCL warns of a group that is left to the interpreter's end."""
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, timeout=300)
    assert (done.stdout, done.returncode) == ("False\n", 0), done.stderr


def test_without_torch_nothing_is_imported():
    script = (
        "import sys; from spac_repro.optim import distributed; distributed.leave_process_group(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert (done.stdout, done.returncode) == ("False\n", 0), done.stderr
