"""The run folder as an object: the one place that knows where in it what lies.

manifest.json      identity: settings, inputs, environment; no clock times, no host names, no absolute paths
timing.json        clocks, throughput, peak memory, machine: what may differ between equal runs
metrics.jsonl      one line an optimiser step
iteration-<t>/     the iterate: selfplay.parquet, policy/, scores.json, and training state while unfinished
results.json       scores per iteration; weights_sha256 of the last iterate
verdict.json       what verification said
"""

import os
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from spac_repro.errors import UserError
from spac_repro.runs import files, lock, manifest, metrics, ownership, results, timing, verdict
from spac_repro.runs.iteration import IterationFolder
from spac_repro.runs.manifest import IDENTITY_KEYS, Manifest, leaf_differences
from spac_repro.runs.metrics import StepMetrics
from spac_repro.runs.results import Results, Score
from spac_repro.runs.timing import StageTiming
from spac_repro.runs.verdict import Verdict

_ITERATION = re.compile(r"iteration-(\d+)")


@dataclass(frozen=True)
class RunFolder:
    """A run's folder, complete or not, there or yet to be made."""

    path: Path

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """The folder of a run that was begun.

        Raises:
            UserError: it is no run folder, or its manifest is damaged or of a newer version.
        """
        folder = cls(path)
        if not path.is_dir():
            raise UserError(f"{path}: no such run folder")
        if not folder.has_manifest:
            raise UserError(f"{path} has no manifest.json, so it is not a run folder; name one that `spac-repro train` made")
        _ = folder.manifest
        return folder

    def __str__(self) -> str:
        return str(self.path)

    # What lies where

    @property
    def manifest_file(self) -> Path:
        """The run's identity: settings, inputs and environment."""
        return self.path / "manifest.json"

    @property
    def results_file(self) -> Path:
        """The scores of every iterate; written when the run is complete."""
        return self.path / "results.json"

    @property
    def verdict_file(self) -> Path:
        """The result of the last verification."""
        return self.path / verdict.FILE

    @property
    def metrics_file(self) -> Path:
        """One JSON line per optimizer step."""
        return self.path / "metrics.jsonl"

    @property
    def tensorboard_folder(self) -> Path:
        """The same as `metrics_file`, for TensorBoard."""
        return self.path / "tensorboard"

    @property
    def timing_file(self) -> Path:
        """The duration of every stage."""
        return self.path / "timing.json"

    @property
    def contamination_file(self) -> Path:
        """Which preference prompts are also leaderboard questions. Runs of version 0.1 call it overlap.json."""
        old = self.path / "overlap.json"
        return old if old.exists() else self.path / "contamination.json"

    @property
    def ro_crate_file(self) -> Path:
        """The run as a research object."""
        return self.path / "ro-crate-metadata.json"

    def iteration(self, t: int) -> IterationFolder:
        """The folder of iteration t, whether it exists or not."""
        return IterationFolder(self.path / f"iteration-{t}", t)

    def iterations(self) -> list[IterationFolder]:
        """Every iteration that left anything, in order."""
        names = [entry.name for entry in self.path.iterdir()] if self.path.is_dir() else []
        return [self.iteration(t) for t in sorted(int(match[1]) for match in map(_ITERATION.fullmatch, names) if match)]

    # What is in it

    @property
    def has_manifest(self) -> bool:
        """Whether the folder belongs to a run."""
        return self.manifest_file.exists()

    @property
    def complete(self) -> bool:
        """Whether the run finished."""
        return self.results_file.exists()

    @cached_property
    def manifest(self) -> Manifest:
        """The content of `manifest_file`."""
        return manifest.read(self.manifest_file)

    @cached_property
    def results(self) -> Results:
        """The content of `results_file`."""
        return results.read(self.results_file)

    def scores(self) -> list[tuple[int, Score]]:
        """Every score with its iteration, as far as the run went."""
        return [(each.number, score) for each in self.iterations() if each.has_scores for score in each.scores()]

    def verdict(self) -> Verdict:
        """The content of `verdict_file`."""
        return verdict.read(self.verdict_file)

    def write_verdict(self, new: Verdict) -> None:
        """Write `verdict_file`."""
        verdict.write(self.path, new)

    def metrics(self) -> list[StepMetrics]:
        """Every optimiser step's metrics, in order."""
        return metrics.read(self.metrics_file)

    def last_step(self) -> StepMetrics | None:
        """The last optimiser step's metrics; the rest are not read."""
        return metrics.last(self.metrics_file)

    def timing(self) -> list[StageTiming]:
        """How long each stage took, in every attempt at it."""
        return timing.read(self.timing_file)

    def contamination(self) -> dict[str, Any] | None:
        """What `contamination_file` holds; None where it was not measured."""
        return dict(files.read_json(self.contamination_file)) if self.contamination_file.exists() else None

    def last_iterate(self) -> IterationFolder | None:
        """The last iteration that has a policy; None where none has."""
        return next((each for each in reversed(self.iterations()) if each.has_policy), None)

    def artifacts(self) -> list[str]:
        """What the run has to show so far, by name: iterates, scores, checkpoints, self-play batches, results."""
        folders = [folder for each in self.iterations() for folder in (each.path, each.checkpoints, each.selfplay_batches_folder)]
        entries = [entry for folder in folders if folder.is_dir() for entry in folder.iterdir()]
        entries += [self.results_file] if self.complete else []
        return sorted(str(entry.relative_to(self.path)) for entry in entries if not entry.name.startswith("."))

    # Becoming a run's

    def exclusive_access(self) -> AbstractContextManager[None]:
        """Own the folder while the block runs; raises UserError where another process does."""
        return lock.exclusive_access(self.path)

    @property
    def in_use(self) -> bool:
        """Whether a process on any node owns the folder, as the lock says."""
        return self.path.exists() and lock.is_locked(self.path)

    @property
    def owner_is_alive(self) -> bool:
        """Whether the process that wrote itself down as the owner runs on this machine."""
        return lock.owner_is_alive(self.path)

    def create_or_resume(self, wanted: Manifest, *, allow_changed_environment: bool) -> None:
        """Write the manifest of a new run, or check that the folder holds this very run.

        A run carried on in a changed environment gets a segment for each; its claim to equal bits is withdrawn. A finished one is
        only looked at, so its environment may be another.

        Raises:
            UserError: the folder holds another run, or the environment changed and that was not allowed.
        """
        files.remove_partial(self.path)
        if not self.has_manifest:
            if any(entry for entry in self.path.iterdir() if not _may_come_first(entry)):
                raise UserError(f"{self.path} holds files but no manifest.json: it is not a run folder; choose another with --out")
            files.write_json(self.manifest_file, wanted.as_json())
            return
        there = manifest.read(self.manifest_file)
        old, new = there.identity(), wanted.identity()
        for part in IDENTITY_KEYS:
            for key, was, is_now in leaf_differences({part: old[part]}, {part: new[part]}):
                raise UserError(
                    f"{self.path} was made by another run: {key} is {was!r} there and {is_now!r} here; "
                    "choose another folder with --out"
                )
        if not self.complete:
            self._carry_on(there, wanted.environment, allow_changed_environment)

    def _carry_on(self, there: Manifest, environment: dict[str, Any], allowed: bool) -> None:
        last = there.segments[-1] if there.segments else there.environment
        changed = next(leaf_differences(last, environment), None)
        if changed is None:
            return
        key, was, is_now = changed
        if not allowed:
            raise UserError(
                f"{self.path} was begun in another environment: {key} was {was!r} and is {is_now!r}; go on with "
                "--allow-changed-environment (the run then no longer claims equal bits), or choose another folder with --out"
            )
        files.write_json(self.manifest_file, there.with_segment(environment).as_json())


def _may_come_first(entry: Path) -> bool:
    """Whether an entry may lie in a folder before its manifest: the lock's files, and what a kill left of a file half written."""
    return entry.name in (ownership.LOCK, lock.OWNER) or (entry.name.startswith(".") and entry.name.endswith(".partial"))


# Finding runs


def find_runs(path: Path) -> list[RunFolder]:
    """The run at `path`, or the runs below it in the order of their paths.

    Raises:
        UserError: there is none, or one is damaged or of a newer version.
    """
    here = RunFolder(path)
    found = [path] if here.has_manifest else sorted(file.parent for file in path.rglob(here.manifest_file.name))
    if not found:
        raise UserError(f"{path}: no run folder, and none below it; name one that `spac-repro train` made")
    return list(map(RunFolder.open, found))


def find_complete_runs(path: Path) -> list[RunFolder]:
    """The finished runs directly in a folder, in the order of their names: a sweep's seeds are neighbours.

    Raises:
        UserError: one is damaged or of a newer version.
    """
    complete = sorted(file.parent for file in path.glob(f"*/{RunFolder(path).results_file.name}"))
    opened = [RunFolder.open(folder) for folder in complete if RunFolder(folder).has_manifest]
    return [run for run in opened if run.results.complete]


def run_of_policy(policy: Path) -> RunFolder | None:
    """The run whose iterate lies in a model folder; None where it is no run's.

    Raises:
        UserError: the run's manifest is damaged or of a newer version.
    """
    place = Path(os.path.abspath(policy))
    number, run = number_of_iterate(place), RunFolder(place.parent.parent)
    if number is None or run.iteration(number).policy != place or not run.has_manifest:
        return None
    return RunFolder.open(run.path)


def number_of_iterate(policy: Path) -> int | None:
    """The iteration whose iterate lies in a model folder, as the name of the folder around it says; None where it says none."""
    match = _ITERATION.fullmatch(Path(os.path.abspath(policy)).parent.name)
    return int(match[1]) if match else None
