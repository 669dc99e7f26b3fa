"""The same jobs on this machine, through submitit's local executor: so many at a time, each after the start that it needs."""

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spac_repro.launchers.job import Job
from spac_repro.launchers.profile import Cluster


def run(jobs: Sequence[Job], cluster: Cluster, folder: Path, *, after: Mapping[int, int], ended: Callable[[Job], None]) -> None:
    """Run jobs to their end, at most `cluster.parallelism` at a time; job i after job after[i]. `ended` is told of each.

    Interrupted, it asks the jobs to stop at a checkpoint, and waits for them.
    """
    from submitit.local.local import LocalExecutor

    executor = LocalExecutor(folder, python=cluster.interpreter(sys.executable))
    executor.update_parameters(
        timeout_min=cluster.minutes,
        signal_delay_s=cluster.requeue.signal_seconds,
        gpus_per_node=cluster.gpus_per_node,
        setup=cluster.setup,
    )
    waiting = list(range(len(jobs)))
    running: dict[int, Any] = {}
    finished: set[int] = set()
    try:
        while waiting or running:
            for i in [i for i, job in running.items() if job.done()]:
                del running[i]
                finished.add(i)
                ended(jobs[i])
            ready = [i for i in waiting if i not in after or after[i] in finished]
            for i in ready[: (cluster.parallelism or len(jobs)) - len(running)]:
                waiting.remove(i)
                running[i] = executor.submit(jobs[i])
            time.sleep(0.2)
    finally:
        for job in running.values():
            os.kill(int(job.job_id), signal.SIGTERM)
        deadline = time.monotonic() + cluster.requeue.signal_seconds
        while any(not job.done() for job in running.values()) and time.monotonic() < deadline:
            time.sleep(0.2)
        for job in running.values():
            if not job.done():
                os.kill(int(job.job_id), signal.SIGINT)
