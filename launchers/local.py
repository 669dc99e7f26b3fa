"""Executes the jobs of a sweep on this machine, with submitit's local executor."""

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spac_repro.launchers import sealed
from spac_repro.launchers.job import Job
from spac_repro.launchers.profile import Cluster


def run_jobs(
    jobs: Sequence[Job], cluster: Cluster, folder: Path, *, after: Mapping[int, int], on_end: Callable[[Job], None]
) -> None:
    """Run jobs to their end. If interrupted, tell them to stop at a checkpoint, and wait for that.

    Args:
        jobs: the jobs.
        cluster: the profile; at most `max_parallel_runs` jobs run at the same time.
        folder: where submitit writes pickles and logs.
        after: job i begins when job after[i] has ended.
        on_end: called when a job has ended.
    """
    from submitit.local.local import LocalExecutor

    executor = LocalExecutor(folder, python=sealed.python_command(cluster, sys.executable))
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
                on_end(jobs[i])
            ready = [i for i in waiting if i not in after or after[i] in finished]
            for i in ready[: (cluster.max_parallel_runs or len(jobs)) - len(running)]:
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
