"""The run folder as an object. Only this package knows the layout of a run folder.

manifest.json      identity: settings, inputs, environment; no clock times, no host names, no absolute paths
timing.json        clocks, throughput, peak memory, machine: what may differ between equal runs
metrics.jsonl      one line per optimizer step
iteration-<t>/     the iterate: selfplay.parquet, policy/, scores.json, and training state while unfinished
results.json       scores per iteration; weights_sha256 of the last iterate
verdict.json       the result of the last verification
"""

import os
import re
from contextlib import AbstractContextManager, suppress
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
    """The folder of a run: complete, unfinished, or not yet created."""

    path: Path

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open the folder of an existing run.

        Raises:
            UserError: The folder is not a run folder, or its manifest is damaged or needs a newer version.
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

    # Paths

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
        """The same metrics as event files of TensorBoard."""
        return self.path / "tensorboard"

    @property
    def timing_file(self) -> Path:
        """Time and memory of every attempt at every stage."""
        return self.path / "timing.json"

    @property
    def contamination_file(self) -> Path:
        """Which preference prompts are also leaderboard questions. Runs of version 0.1 call it overlap.json."""
        old = self.path / "overlap.json"
        return old if old.exists() else self.path / "contamination.json"

    @property
    def ro_crate_file(self) -> Path:
        """The metadata of the run as an RO-Crate research object."""
        return self.path / "ro-crate-metadata.json"

    def iteration(self, t: int) -> IterationFolder:
        """Return the folder of iteration t, whether it exists or not."""
        return IterationFolder(self.path / f"iteration-{t}", t)

    def iterations(self) -> list[IterationFolder]:
        """Return every existing iteration folder, in order."""
        names = [entry.name for entry in self.path.iterdir()] if self.path.is_dir() else []
        return [self.iteration(t) for t in sorted(int(match[1]) for match in map(_ITERATION.fullmatch, names) if match)]

    # Contents

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
        """Return every score with its iteration. The run may be unfinished."""
        return [(each.number, score) for each in self.iterations() if each.has_scores for score in each.scores()]

    def verdict(self) -> Verdict:
        """Read `verdict_file`.

        Raises:
            UserError: The file cannot be read, was changed, or is about other results.
        """
        return verdict.read(self.verdict_file, computed_from=self._verdict_computed_from)

    def write_verdict(self, new: Verdict) -> None:
        """Write `verdict_file`."""
        verdict.write(self.path, new, computed_from=self._verdict_computed_from)

    @property
    def _verdict_computed_from(self) -> dict[str, Any]:
        return {"results_sha256": files.sha256_file(self.results_file)} if self.complete else {}

    def metrics(self) -> list[StepMetrics]:
        """Read the metrics of every optimizer step, in order."""
        return metrics.read(self.metrics_file)

    def last_step(self) -> StepMetrics | None:
        """Read the metrics of the last optimizer step only; None where there is no step."""
        return metrics.last(self.metrics_file)

    def timing(self) -> list[StageTiming]:
        """Read time and memory of every attempt at every stage.

        Raises:
            UserError: The file is damaged, or is about another run.
        """
        return timing.read(self.timing_file, self.timing_computed_from)

    @property
    def timing_computed_from(self) -> dict[str, Any] | None:
        """What `timing_file` is bound to; None for a run of version 0.1."""
        has_hashes = self.has_manifest and self.manifest.written_files is not None
        return {"run": self.manifest.identity_sha256()} if has_hashes else None

    def contamination(self) -> dict[str, Any] | None:
        """Read `contamination_file`; None where contamination was not measured."""
        return dict(files.read_json(self.contamination_file)) if self.contamination_file.exists() else None

    def last_iterate(self) -> IterationFolder | None:
        """Return the last iteration that has a policy; None where none has."""
        return next((each for each in reversed(self.iterations()) if each.has_policy), None)

    def artifacts(self) -> list[str]:
        """Return the relative paths of what the run has produced: iterates, scores, checkpoints, self-play batches, results."""
        folders = [folder for each in self.iterations() for folder in (each.path, each.checkpoints, each.selfplay_batches_folder)]
        entries = [entry for folder in folders if folder.is_dir() for entry in folder.iterdir()]
        entries += [self.results_file] if self.complete else []
        return sorted(str(entry.relative_to(self.path)) for entry in entries if not entry.name.startswith("."))

    # Ownership

    def exclusive_access(self) -> AbstractContextManager[None]:
        """Lock the folder while the block runs. Raises UserError where another process has the lock."""
        return lock.exclusive_access(self.path)

    @property
    def in_use(self) -> bool:
        """Whether a process on any node has the lock."""
        return self.path.exists() and lock.is_locked(self.path)

    @property
    def owner_is_alive(self) -> bool:
        """Whether the process that is recorded as the owner runs on this machine."""
        return lock.owner_is_alive(self.path)

    def create_or_resume(self, wanted: Manifest, *, allow_changed_environment: bool) -> None:
        """Write the manifest of a new run, or check that the folder contains the same run.

        A run that is resumed in a changed environment gets a segment with that environment, and no longer claims equal bits. The
        environment of a complete run is not checked, because nothing is computed in it.

        Args:
            wanted: The manifest of the run that begins or resumes.
            allow_changed_environment: Whether to resume in a changed environment.

        Raises:
            UserError: The folder contains another run, or the environment changed and `allow_changed_environment` is false.
        """
        files.remove_partial(self.path)
        if not self.has_manifest:
            if any(entry for entry in self.path.iterdir() if not _may_precede_manifest(entry)):
                raise UserError(f"{self.path} has files but no manifest.json: it is not a run folder; choose another with --out")
            files.write_json(self.manifest_file, wanted.as_json())
            return
        existing = manifest.read(self.manifest_file)
        old, new = existing.identity(), wanted.identity()
        for part in IDENTITY_KEYS:
            for key, old_value, new_value in leaf_differences({part: old[part]}, {part: new[part]}):
                raise UserError(
                    f"{self.path} was made by another run: {key} is {old_value!r} there and {new_value!r} here; "
                    "choose another folder with --out"
                )
        if not self.complete:
            self._resume(existing, wanted.environment, allow_changed_environment)

    def _resume(self, existing: Manifest, environment: dict[str, Any], allow_changed_environment: bool) -> None:
        last = existing.segments[-1] if existing.segments else existing.environment
        difference = next(leaf_differences(last, environment), None)
        if difference is None:
            return
        key, old_value, new_value = difference
        if not allow_changed_environment:
            raise UserError(
                f"{self.path} was begun in another environment: {key} was {old_value!r} and is {new_value!r}; resume with "
                "--allow-changed-environment (the run then no longer claims equal bits), or choose another folder with --out"
            )
        files.write_json(self.manifest_file, existing.with_segment(environment).as_json())


def _may_precede_manifest(entry: Path) -> bool:
    """Whether an entry may be in a folder before its manifest: files of the lock, and temporary files of a killed process."""
    return entry.name in (ownership.LOCK, lock.OWNER) or (entry.name.startswith(".") and entry.name.endswith(".partial"))


# Finding runs


def find_runs(path: Path) -> list[RunFolder]:
    """Return the run at `path`, or else all runs below it, in the order of their paths.

    Raises:
        UserError: There is no run, or one is damaged or needs a newer version.
    """
    run = RunFolder(path)
    folders = [path] if run.has_manifest else sorted(file.parent for file in path.rglob(run.manifest_file.name))
    if not folders:
        raise UserError(f"{path}: no run folder, and none below it; name one that `spac-repro train` made")
    return list(map(RunFolder.open, folders))


def find_complete_runs(path: Path, damaged: list[UserError] | None = None) -> list[RunFolder]:
    """Return the complete runs directly in a folder, in the order of their names. A sweep puts the seeds of a method in one folder.

    Args:
        path: The folder.
        damaged: Takes the error of each run that cannot be read. Without it, the first such run is an error.

    Raises:
        UserError: A run is damaged or needs a newer version.
    """
    found = []
    for folder in sorted(file.parent for file in path.glob(f"*/{RunFolder(path).results_file.name}")):
        try:
            if RunFolder(folder).has_manifest and (run := RunFolder.open(folder)).results.complete:
                found.append(run)
        except UserError as error:
            if damaged is None:
                raise
            damaged.append(error)
    return found


def enclosing_run(path: Path) -> RunFolder | None:
    """Return the run whose folder `path` is or lies in, links followed; None where it lies in none. Nothing has to exist."""
    place = Path(os.path.realpath(path))
    for folder in map(RunFolder, (place, *place.parents)):
        with suppress(OSError):  # a folder that may not be read, or a name that is too long
            if folder.has_manifest and (folder.iterations() or _is_manifest(folder.manifest_file)):
                return folder
    return None


def _is_manifest(file: Path) -> bool:
    """Whether a manifest.json is a run's: other programs use the name too."""
    try:
        manifest.read(file)
    except UserError:
        return False
    return True


def run_of_policy(policy: Path) -> RunFolder | None:
    """Return the run that a model folder is an iterate of; None where it belongs to no run.

    Raises:
        UserError: The run's manifest is damaged or needs a newer version.
    """
    place = Path(os.path.abspath(policy))
    number, run = number_of_iterate(place), RunFolder(place.parent.parent)
    if number is None or run.iteration(number).policy != place or not run.has_manifest:
        return None
    return RunFolder.open(run.path)


def number_of_iterate(policy: Path) -> int | None:
    """Return the iteration that a model folder belongs to, read from the name of its parent folder; None where it has no number."""
    match = _ITERATION.fullmatch(Path(os.path.abspath(policy)).parent.name)
    return int(match[1]) if match else None
