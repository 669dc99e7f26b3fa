"""The processes of a run: rank, world size, and collectives over Python objects.

A launcher (torchrun, `accelerate launch` or `optim.launch`) sets RANK and WORLD_SIZE. `init_process_group` checks that the
processes are really connected: processes that each believe they are the only one would all train, without an error. With one
process every function here is the identity, and torch is not imported.
"""

import os
import pickle
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from math import inf
from pathlib import Path
from typing import Any, TypeVar, cast

from spac_repro.errors import UnfitEnvironmentError, UserError
from spac_repro.optim import launch

T = TypeVar("T")
K = TypeVar("K")

# When a process gives up waiting in a collective: environment variables, and minutes where they are not set. The launcher notices a
# process that died much earlier; what takes so long is a network or a process that hangs.
TIMEOUT_VARIABLES = {"nccl": "SPAC_REPRO_NCCL_MINUTES", "gloo": "SPAC_REPRO_GLOO_MINUTES"}
MINUTES = {"nccl": 30.0, "gloo": 120.0}  # over gloo the others wait while the main process evaluates, hashes and saves

_single_process = False

_OF_MAIN_PROCESS = "raised on the main process"


def is_launched() -> bool:
    """Whether a launcher started this process as one of a group."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def rank() -> int:
    """The rank of this process, from 0."""
    return 0 if _single_process else int(os.environ.get("RANK", 0))


def world_size() -> int:
    """The number of processes."""
    return 1 if _single_process else int(os.environ.get("WORLD_SIZE", 1))


def is_main_process() -> bool:
    """Whether this is rank 0, which owns the run folder and prints."""
    return rank() == 0


def init_process_group(expected: int, *, force: bool = False) -> None:
    """Connect the processes of the run and check their number.

    Args:
        expected: the world size that the recipe asks for.
        force: create the process group even if there is only one process.

    Raises:
        UserError: a different number of processes was started.
        UnfitEnvironmentError: the processes cannot connect.
    """
    if world_size() != expected:
        raise UserError(
            f"training.processes is {expected}, and {world_size()} were started; start {expected} processes "
            f"(nodes × processes per node), or --set training.processes={world_size()}"
        )
    launch.exit_with_launcher()
    if world_size() == 1 and not force:
        return
    import torch
    import torch.distributed as dist

    os.environ.setdefault("OMP_NUM_THREADS", "1")  # otherwise Accelerate chooses a number of threads
    os.environ.pop("ACCELERATE_USE_DEEPSPEED", None)  # the recipe chooses the engine, not the launcher
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    if not dist.is_initialized():
        try:
            dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=_timeout("gloo"))
            limit_waiting()
        except (RuntimeError, ValueError, KeyError) as error:
            raise UnfitEnvironmentError(
                f"process {rank()} of {world_size()} cannot connect to the others: {error}; start them with torchrun"
            ) from None
    connected = dist.get_world_size()
    answered = len(all_gather({rank(): True}))
    if not connected == answered == expected:
        raise UnfitEnvironmentError(
            f"training.processes is {expected}, but {connected} processes are connected and {answered} answered; "
            "start them with torchrun"
        )


def leave_process_group() -> None:
    """Disconnect from the other processes, at the end of a command that has succeeded.

    DeepSpeed makes a group of one process, too, and NCCL warns of a group that is left to the interpreter's end. After an error
    the group is left as it is: NCCL would wait for the others.
    """
    if "torch.distributed" in sys.modules:
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()


def _timeout(backend: str) -> timedelta:
    """How long to wait in a collective of this backend.

    Raises:
        UserError: the environment variable is not a positive number.
    """
    text = os.environ.get(TIMEOUT_VARIABLES[backend], "")
    try:
        minutes = float(text or MINUTES[backend])
        if not 0 < minutes < inf:
            raise ValueError
    except ValueError:
        raise UserError(f"{TIMEOUT_VARIABLES[backend]} is {text!r}; write a number of minutes, or unset it") from None
    return timedelta(minutes=minutes)


def limit_waiting() -> None:
    """Set the timeouts of every process group that there is: DeepSpeed makes groups of its own, with torch's timeouts.

    torch's own function for it, `_set_pg_timeout`, sets one timeout for all backends of a group.
    """
    import torch
    import torch.distributed as dist

    world: Any = dist.distributed_c10d._world  # noqa: SLF001  # torch has no public name for the groups, nor for what follows
    for group in world.pg_map:
        for device in group._device_types:  # noqa: SLF001
            backend = group._get_backend(torch.device(device))  # noqa: SLF001
            if backend.name() in TIMEOUT_VARIABLES:
                backend._set_default_timeout(_timeout(backend.name()))  # noqa: SLF001


@contextmanager
def _explain_timeout() -> Iterator[None]:
    """Say in one line that the other processes did not answer in time."""
    try:
        yield
    except RuntimeError as error:
        if not re.search(r"[Tt]imed ?out|[Tt]imeout", str(error)):
            raise
        minutes = _timeout("gloo").total_seconds() / 60
        raise UnfitEnvironmentError(
            f"process {rank()} of {world_size()} waited {minutes:g} minutes for the others: one of them or the network hangs; "
            f"repeat the command, or raise the limit with {TIMEOUT_VARIABLES['gloo']}"
        ) from None


def shard(items: Sequence[T]) -> Sequence[T]:
    """This process's share of the items: every `world_size`-th item, starting at this rank."""
    return items[rank() :: world_size()]


def all_gather(own: Mapping[K, T]) -> dict[K, T]:
    """Merge the mappings of all processes; every process gets the result. Keys must not repeat."""
    if world_size() == 1:
        return dict(own)
    import torch.distributed as dist

    parts: list[Any] = [None] * world_size()
    with _explain_timeout():
        dist.all_gather_object(parts, dict(own))
    return {key: value for part in parts for key, value in part.items()}


def all_reduce_sum(values: Mapping[str, float]) -> dict[str, float]:
    """Sum each value over all processes, in float64. All processes pass the same keys in the same order."""
    if world_size() == 1:
        return dict(values)
    import torch
    import torch.distributed as dist

    sums = torch.tensor(list(values.values()), dtype=torch.float64)
    with _explain_timeout():
        dist.all_reduce(sums)
    return dict(zip(values, sums.tolist(), strict=True))


def any_process(condition: bool) -> bool:
    """Whether the condition holds in at least one process; every process gets the same answer."""
    return all_reduce_sum({"count": float(condition)})["count"] > 0


def on_main_process(work: Callable[[], T]) -> T:
    """Call `work` on the main process and broadcast its result; an exception is raised in every process."""
    if world_size() == 1:
        return work()
    import torch.distributed as dist

    outcome: list[Any] = [None, None]  # result, exception
    if is_main_process():
        try:
            outcome[0] = work()
        except Exception as error:
            outcome[1] = _picklable(error)
            with _explain_timeout():
                dist.broadcast_object_list(outcome, src=0)
            raise
    with _explain_timeout():
        dist.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        outcome[1].add_note(_OF_MAIN_PROCESS)
        raise outcome[1]
    return cast(T, outcome[0])


def is_copy_of_main_process_error(error: BaseException) -> bool:
    """Whether an error in another process is the copy of one that the main process raised."""
    return _OF_MAIN_PROCESS in getattr(error, "__notes__", ())


def exists_on_main_process(path: Path) -> bool:
    """Whether a path exists for the main process; on a shared disk another process may see it later."""
    return on_main_process(path.exists)


def _picklable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"process 0: {type(error).__name__}: {error}")
    return error


@contextmanager
def as_single_process() -> Iterator[None]:
    """Inside this block every function here treats the process as the only one. No other process may wait for it meanwhile."""
    global _single_process
    before, _single_process = _single_process, True
    try:
        yield
    finally:
        _single_process = before
