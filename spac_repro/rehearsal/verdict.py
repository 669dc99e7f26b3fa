"""Whether a run fits: a rehearsal held against the time limit of a job, the memory, the disk and the processors."""

from dataclasses import dataclass
from typing import Any

from spac_repro import cost
from spac_repro.launchers.profile import Cluster
from spac_repro.recipe import Run
from spac_repro.rehearsal import document
from spac_repro.rehearsal.document import Rehearsal, Work
from spac_repro.rehearsal.extrapolation import Interval, Stage, coverage, stages, total_seconds
from spac_repro.runs import disk, environment

FRAGMENTATION = 0.1  # of a device's allocated memory [assumed]


@dataclass(frozen=True)
class Verdict:
    """What a rehearsal says of the whole run.

    Attributes:
        stages: every stage.
        seconds: of the whole run.
        planned_gpu_hours: the estimate of `train --dry-run`; None where it has none.
        reasons: why the run does not fit; empty: it fits.
        notes: what the user must know.
    """

    rehearsal: Rehearsal
    stages: list[Stage]
    seconds: Interval
    planned_gpu_hours: float | None
    reasons: list[str]
    notes: list[str]

    @property
    def line(self) -> str:
        """The verdict in a line."""
        return "fits" if not self.reasons else f"does not fit, because {'; '.join(self.reasons)}"

    def as_json(self) -> dict[str, Any]:
        """Return the verdict for `--json`."""
        return {
            "fits": not self.reasons,
            "verdict": self.line,
            "seconds": self.seconds.as_json(),
            "coverage": coverage(self.rehearsal.rounds),
            "planned_gpu_hours": self.planned_gpu_hours,
            "stages": [stage.as_json() for stage in self.stages],
            "notes": self.notes,
            "rehearsal": self.rehearsal.model_dump(mode="json", by_alias=True),
        }


def judge(rehearsal: Rehearsal, run: Run, cluster: Cluster | None) -> Verdict:
    """Hold a rehearsal against the limits.

    Args:
        rehearsal: what was measured.
        run: the whole run.
        cluster: its time limit and memory; None: this machine, without a limit of time.
    """
    found, seconds = stages(rehearsal), total_seconds(rehearsal)
    by_name = {stage.name: stage for stage in found}
    reasons = [*_processors(rehearsal), *_memory(rehearsal, found, cluster), *_disk(rehearsal, run)]
    notes = list(rehearsal.notes)
    if cluster is not None:
        limit = 60 * cluster.minutes - cluster.requeue.signal_seconds
        reasons += _time(run, rehearsal.work, by_name, limit)
        jobs = max(1, -(-int(seconds.middle) // limit))
        notes.append(f"about {jobs} jobs of {cluster.minutes} minutes" if jobs > 1 else "one job")
    planned = cost.estimate(run, rehearsal.pairs).gpu_hours if cost.has_known_size(run) else None
    return Verdict(rehearsal, found, seconds, planned, reasons, notes)


def _processors(rehearsal: Rehearsal) -> list[str]:
    if rehearsal.asks_for_gpus and rehearsal.machine.device is None:
        return [f"the recipe asks for {rehearsal.processes} GPUs and this machine has none"]
    return []


def _memory(rehearsal: Rehearsal, found: list[Stage], cluster: Cluster | None) -> list[str]:
    machine, reasons = rehearsal.machine, []
    most = max(found, key=lambda stage: stage.host.middle)
    host = min(machine.host, 10**9 * cluster.memory_gb) if cluster and cluster.memory_gb else machine.host
    needed = machine.processes_here * most.host.middle
    if needed > host:
        reasons.append(f"{most.name} takes {disk.size(needed)} of memory, and there are {disk.size(host)}")
    if machine.device is not None:
        largest = max(found, key=lambda stage: stage.device.middle if stage.device else 0)
        taken = (1 + FRAGMENTATION) * (largest.device.middle if largest.device else 0)
        if taken > machine.device:
            reasons.append(f"{largest.name} takes {disk.size(taken)} of a GPU's memory, and it has {disk.size(machine.device)}")
    return reasons


def _disk(rehearsal: Rehearsal, run: Run) -> list[str]:
    if not cost.has_known_size(run):
        return []
    needed = cost.estimate(run, None).disk
    if needed > rehearsal.machine.disk:
        return [f"checkpoints and iterates take {disk.size(needed)}, and {disk.size(rehearsal.machine.disk)} are free on the disk"]
    return []


def _time(run: Run, work: dict[str, Work], found: dict[str, Stage], limit: float) -> list[str]:
    """What a job must finish before its time limit, because it is begun anew otherwise: one batch of self-play, and the scores.

    Optimizer steps are saved at a signal, so one step is enough.
    """
    selfplay = run.recipe.selfplay
    batches = selfplay.prompts_per_seed / (selfplay.decode_batch_size or selfplay.prompts_per_seed)
    tasks = [stage for name, stage in found.items() if name in work and work[name].by_rows]
    pieces = {
        "a batch of self-play": (batches * found["self-play"].seconds.high) if "self-play" in found else 0.0,
        "an optimizer step with its checkpoint": sum(
            found[name].seconds.high for name in ("step", "checkpoint write") if name in found
        ),
        "the leaderboard": sum(stage.seconds.high for stage in tasks),
    }
    load = found["load"].seconds.high if "load" in found else 0.0
    return [
        f"{what} takes {duration(seconds)}, and a job has {duration(limit)} before its signal"
        for what, seconds in pieces.items()
        if seconds + load > limit
    ]


def duration(seconds: float) -> str:
    """A time with a unit that suits it."""
    for unit, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds >= 0.1 else f"{1000 * seconds:.1f} ms"


def summary(verdict: Verdict) -> str:
    """A verdict in a line: the time of the whole run, on which machine, whether it fits, and what differs from this environment."""
    low, middle, high = map(duration, (verdict.seconds.low, verdict.seconds.middle, verdict.seconds.high))
    other = document.differences(verdict.rehearsal, environment.describe())
    where = f"; measured in another environment ({', '.join(other[:3])})" if other else ""
    return f"{middle} ({low} to {high}) on {verdict.rehearsal.machine.name}, {verdict.line}{where}"
