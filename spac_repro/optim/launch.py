"""Launch the processes of a run, as torchrun does, and forward signals to them."""

import json
import os
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from spac_repro.errors import UserError

_LAUNCHER_PID = "SPAC_REPRO_LAUNCHER_PID"  # environment variable: the process that called `launch`
# Of the exit codes of failed processes, the first of these is the run's.
_EXIT_CODES = (3, 2, 130, 70, 1)
_EXIT_KILLED = 3  # a process was killed, or a library ended it
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
        codes = {failure.exitcode for failure in error.failures.values()}
        if received and -signal.SIGUSR2 in codes:  # the signal killed a process that had no handler for it yet
            return 130
        return _report_failure(Path(failures.name), error.failures)
    except SignalException:
        raise KeyboardInterrupt from None
    finally:
        failures.cleanup()
    return 0


def _report_failure(folder: Path, ended: Mapping[int, Any]) -> int:
    """Print why the processes failed, once, and return the run's exit code.

    A crash may be the consequence of another process's error or end, whose connections then close. So errors come first, then
    processes that were killed.

    Args:
        folder: what the processes said themselves.
        ended: torchrun's record of each process that failed; the only one of a process that was killed.
    """
    said = [json.loads(file.read_text(encoding="utf-8")) for file in folder.iterdir()]
    first = min(said, key=lambda failure: (failure["crash"], failure["rank"]), default=None)
    killed = {rank: failure for rank, failure in ended.items() if failure.exitcode not in _EXIT_CODES}
    if killed and (first is None or first["crash"]):
        rank, failure = min(killed.items(), key=lambda item: item[1].timestamp)
        how = f"exited with {failure.exitcode}"
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            how = f"was ended by {name}" + (", most likely because the machine ran out of memory" if name == "SIGKILL" else "")
        remedy = "what libraries said is above; repeat the command"
        print(f"spac-repro: process {rank} {how}; {remedy}", file=sys.stderr)
        return _EXIT_KILLED
    if first is not None:
        process = f"process {first['rank']}: " if first["rank"] else ""
        print(f"spac-repro: {process}{first['message']}", file=sys.stderr)
    codes = {failure.exitcode for failure in ended.values()}
    return next((code for code in _EXIT_CODES if code in codes), 1)


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
