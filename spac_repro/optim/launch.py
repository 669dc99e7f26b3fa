"""Launch the processes of a run, as torchrun does, and forward signals to them."""

import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from spac_repro.errors import UserError

_LAUNCHER_PID = "SPAC_REPRO_LAUNCHER_PID"  # environment variable: the process that called `launch`
# Of the exit codes of failed processes, the first of these is the run's.
_EXIT_CODES = (3, 2, 130, 70, 1)
FAILURES_VARIABLE = "SPAC_REPRO_FAILURES"  # environment variable: the folder where a process that fails says why


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Run `spac-repro` with these arguments in several processes, and wait for them.

    They run on this machine, or on the PET_NNODES machines of torchrun's environment variables; every machine launches its share.

    Args:
        processes: the world size.
        arguments: the command line after `spac-repro`.

    Returns:
        0, or the exit code of a process that failed.

    Raises:
        UserError: PET_NNODES does not divide the world size, or PET_MASTER_ADDR, PET_MASTER_PORT or PET_NODE_RANK is not set.
        KeyboardInterrupt: SIGTERM or SIGINT arrived.
    """
    import logging

    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # a process that fails prints its own error
    nodes = int(os.environ.get("PET_NNODES", 1))
    per_node, remainder = divmod(processes, nodes)
    if remainder:
        raise UserError(
            f"training.processes is {processes}, which is not a multiple of PET_NNODES={nodes}; change one of the two, "
            "so that every machine gets the same number"
        )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // per_node)))
    os.environ[_LAUNCHER_PID] = str(os.getpid())
    config = _launch_config(nodes, per_node)
    received = _forward_signal(signal.SIGUSR2)
    failures = tempfile.TemporaryDirectory(prefix="spac-repro-")
    os.environ[FAILURES_VARIABLE] = failures.name
    try:
        elastic_launch(config, sys.executable)("-P", "-m", "spac_repro", *arguments)
    except ChildFailedError as error:
        _print_failure(Path(failures.name))
        codes = {failure.exitcode for failure in error.failures.values()}
        if received and -signal.SIGUSR2 in codes:  # the signal killed a process that had no handler for it yet
            return 130
        return next((code for code in _EXIT_CODES if code in codes), 1)
    except SignalException:
        raise KeyboardInterrupt from None
    finally:
        failures.cleanup()
    return 0


def _print_failure(folder: Path) -> None:
    """Print why the processes failed, once. A crash may be the consequence of another process's error, so errors come first."""
    failures = [json.loads(file.read_text(encoding="utf-8")) for file in folder.iterdir()]
    if failures:
        first = min(failures, key=lambda failure: (failure["crash"], failure["rank"]))
        process = f"process {first['rank']}: " if first["rank"] else ""
        print(f"spac-repro: {process}{first['message']}", file=sys.stderr)


def _launch_config(nodes: int, per_node: int) -> Any:
    from torch.distributed.launcher.api import LaunchConfig

    run_id = f"spac-repro-{os.getpid()}"
    rendezvous: dict[str, Any] = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "local_addr": "localhost"}
    if nodes > 1:
        address, port, rank = map(_required_variable, ("PET_MASTER_ADDR", "PET_MASTER_PORT", "PET_NODE_RANK"))
        run_id = f"spac-repro-{port}"
        rendezvous = {"rdzv_backend": "static", "rdzv_endpoint": f"{address}:{port}", "rdzv_configs": {"rank": int(rank)}}
    return LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=per_node,
        run_id=run_id,
        max_restarts=0,
        monitor_interval=0.2,
        **rendezvous,
    )


def _required_variable(name: str) -> str:
    if name not in os.environ:
        raise UserError(f"PET_NNODES is {os.environ['PET_NNODES']}, and {name} is not set; set both, or unset PET_NNODES")
    return os.environ[name]


def _forward_signal(number: signal.Signals) -> set[int]:
    """Forward a signal to the children of this process: each has its own session and would not get it.

    Returns:
        A set that holds the signal's number once it has arrived.
    """
    import psutil

    received: set[int] = set()

    def forward(number: int, frame: object) -> None:
        received.add(number)
        for process in psutil.Process().children():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    signal.signal(number, forward)
    return received


def exit_with_launcher() -> None:
    """Let the kernel kill this process when its launcher dies; it would otherwise keep running and hold the run folder."""
    launcher = os.environ.get(_LAUNCHER_PID)
    if launcher is None or sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != int(launcher):
        sys.exit(130)  # the launcher had died before prctl
