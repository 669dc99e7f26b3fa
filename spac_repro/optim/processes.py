"""The processes of a run: which of them this is, what falls to it, and what they tell each other.

Whoever starts them (torchrun, `accelerate launch`, or `spac-repro train` itself) says so in the environment;
whether they found each other is asserted, because processes that each believe they are alone train without a word of complaint.
Nothing here needs torch before there is more than one process. With one, every function is the identity.
"""

import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

from spac_repro.errors import UnfitEnvironmentError, UserError

T = TypeVar("T")
K = TypeVar("K")

PATIENCE = timedelta(hours=6)  # of a process that waits for another; who died is noticed by whoever started them
_STARTER = "SPAC_REPRO_STARTER"  # the process that `start` ran in

_alone = False


def started() -> bool:
    """Whether this process was started as one of several that can find each other."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def rank() -> int:
    """Which process this is, from 0."""
    return 0 if _alone else int(os.environ.get("RANK", 0))


def world() -> int:
    """How many processes there are."""
    return 1 if _alone else int(os.environ.get("WORLD_SIZE", 1))


def is_main() -> bool:
    """Whether this is the process that owns the run folder and speaks."""
    return rank() == 0


def join(expected: int, *, group: bool = False) -> None:
    """Meet the other processes, and see that there are as many as the recipe says; `group`: even if there is only one.

    Raises:
        UserError: another number of processes was started.
        UnfitEnvironmentError: they do not find each other.
    """
    if world() != expected:
        raise UserError(
            f"training.processes is {expected}, and {world()} were started; start as many as the recipe says "
            f"(nodes × processes a node), or --set training.processes={world()}"
        )
    _die_with_starter()
    if world() == 1 and not group:
        return
    import torch
    import torch.distributed as dist

    os.environ.setdefault("OMP_NUM_THREADS", "1")  # Accelerate would choose another number of threads by itself
    os.environ.pop("ACCELERATE_USE_DEEPSPEED", None)  # the recipe chooses the engine, not whoever starts the processes
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    if not dist.is_initialized():
        try:
            dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=PATIENCE)
        except (RuntimeError, ValueError, KeyError) as error:
            raise UnfitEnvironmentError(f"process {rank()} of {world()} does not find the others: {error}; use torchrun") from None
    there = dist.get_world_size()
    counted = len(gather({rank(): True}))
    if not there == counted == expected:
        raise UnfitEnvironmentError(f"{expected} processes are wanted, {there} are connected and {counted} answered")


def mine(items: Sequence[T]) -> Sequence[T]:
    """The items that fall to this process: every so-manieth."""
    return items[rank() :: world()]


def gather(own: Mapping[K, T]) -> dict[K, T]:
    """What every process has found, for all of them."""
    if world() == 1:
        return dict(own)
    import torch.distributed as dist

    parts: list[Any] = [None] * world()
    dist.all_gather_object(parts, dict(own))
    return {key: value for part in parts for key, value in part.items()}


def total(values: Mapping[str, float]) -> dict[str, float]:
    """The sums over all processes, in float64; all name the same values."""
    if world() == 1:
        return dict(values)
    import torch
    import torch.distributed as dist

    sums = torch.tensor(list(values.values()), dtype=torch.float64)
    dist.all_reduce(sums)
    return dict(zip(values, sums.tolist(), strict=True))


def any_of(answer: bool) -> bool:
    """Whether any process answers yes: so all stop at the same step, whichever of them was asked to."""
    return total({"yes": float(answer)})["yes"] > 0


def on_main(work: Callable[[], T]) -> T:
    """Let the main process work; all get its result, or its error."""
    if world() == 1:
        return work()
    import torch.distributed as dist

    told: list[Any] = [None, None]
    if is_main():
        try:
            told[0] = work()
        except Exception as error:
            told[1] = _portable(error)
            dist.broadcast_object_list(told, src=0)
            raise
    dist.broadcast_object_list(told, src=0)
    if told[1] is not None:
        raise told[1]
    return told[0]


def _portable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"process 0: {type(error).__name__}: {error}")
    return error


@contextmanager
def alone() -> Iterator[None]:
    """In this block the process is the only one: for work that is not divided. Others must not wait for it inside."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def start(processes: int, arguments: Sequence[str]) -> int:
    """Start the processes of a run, as torchrun does; returns the exit code of the first that failed, or 0.

    On this machine alone, or on as many as torchrun's own variables (PET_NNODES and the like) say, each of which starts its share.
    """
    import logging

    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # what failed says so itself
    nodes = int(os.environ.get("PET_NNODES", 1))
    here, rest = divmod(processes, nodes)
    if rest:
        raise UserError(f"training.processes is {processes}, which {nodes} machines (PET_NNODES) cannot share evenly")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // here)))
    os.environ[_STARTER] = str(os.getpid())
    meeting: dict[str, Any] = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "local_addr": "localhost"}
    if nodes > 1:  # every machine is told its rank and the first one's address; none has to guess
        address, port, rank = _told("PET_MASTER_ADDR"), _told("PET_MASTER_PORT"), _told("PET_NODE_RANK")
        meeting = {"rdzv_backend": "static", "rdzv_endpoint": f"{address}:{port}", "rdzv_configs": {"rank": int(rank)}}
    config = LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=here,
        run_id=f"spac-repro-{os.getpid() if nodes == 1 else port}",
        max_restarts=0,
        monitor_interval=0.2,
        **meeting,
    )
    asked = _pass_on(signal.SIGUSR2)
    try:
        elastic_launch(config, sys.executable)("-m", "spac_repro", *arguments)
    except ChildFailedError as error:
        codes = {failure.exitcode for failure in error.failures.values()}
        if asked and -signal.SIGUSR2 in codes:  # asked while it was starting, and could not answer yet
            return 130
        ours = [code for code in (3, 2, 130, 1) if code in codes]
        return ours[0] if ours else 1
    except SignalException:
        raise KeyboardInterrupt from None
    return 0


def _told(name: str) -> str:
    if name not in os.environ:
        raise UserError(f"PET_NNODES is {os.environ['PET_NNODES']}, and {name} is not set; set both, or unset PET_NNODES")
    return os.environ[name]


def _pass_on(number: signal.Signals) -> set[int]:
    """Hand a signal on to the processes that this one starts, each in a session of its own; when it came, it is in the set."""
    import psutil

    came: set[int] = set()

    def hand_on(number: int, frame: object) -> None:
        came.add(number)
        for process in psutil.Process().children():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    signal.signal(number, hand_on)
    return came


def _die_with_starter() -> None:
    """A process whose starter was killed would go on, and hold the run folder, with nobody to look after it."""
    starter = os.environ.get(_STARTER)
    if starter is None or sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != int(starter):
        sys.exit(130)  # it was gone before that
