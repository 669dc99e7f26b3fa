"""The run folder as an object: the one place that knows where in it what lies.

manifest.json      identity: settings, inputs, environment; no clock times, no host names, no absolute paths
timing.json        clocks, throughput, peak memory, machine: what may differ between equal runs
metrics.jsonl      one line an optimiser step
iteration-<t>/     the iterate: selfplay.parquet, policy/, scores.json, and training state while unfinished
results.json       scores per iteration; weights_sha256 of the last iterate
verdict.json       what verification said
"""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from spac_repro.errors import UserError
from spac_repro.runs import files, lock, manifest, metrics, results
from spac_repro.runs.manifest import IDENTITY, Manifest, leaf_differences
from spac_repro.runs.results import Results, Score

_SCORES = TypeAdapter(tuple[Score, ...])


@dataclass(frozen=True)
class IterationFolder:
    """What lies in iteration-<t>/."""

    path: Path
    number: int

    @property
    def policy(self) -> Path:
        """The iterate: a Hugging Face model folder. It appears last of what an iteration computes."""
        return self.path / "policy"

    @property
    def training(self) -> Path:
        """Checkpoints, while the iteration is unfinished."""
        return self.path / "training"

    @property
    def selfplay_batches(self) -> Path:
        """Self-play responses by batch, until all are stored in `triples`."""
        return self.path / "selfplay"

    @property
    def triples(self) -> Path:
        """Preferences with self-play responses and reference log-probabilities, as Parquet."""
        return self.path / "selfplay.parquet"

    @property
    def scores_file(self) -> Path:
        return self.path / "scores.json"

    @property
    def samples_file(self) -> Path:
        """What the iterate says to the first prompts."""
        return self.path / "samples.json"

    @property
    def gold_file(self) -> Path:
        """The start's rewards, which every iterate's are held against; in iteration 0 only."""
        return self.path / "gold.json"

    @property
    def heldout_file(self) -> Path:
        """Held-out preferences with log π_0; in iteration 0 only."""
        return self.path / "heldout.parquet"

    @property
    def has_policy(self) -> bool:
        return self.policy.is_dir()

    @property
    def has_scores(self) -> bool:
        return self.scores_file.exists()

    @property
    def weights_sha256(self) -> str:
        """The hash that was written beside the weights."""
        return str(files.read_json(self.fingerprint_file)["weights_sha256"])

    @property
    def fingerprint_file(self) -> Path:
        return self.policy / "fingerprint.json"

    def scores(self) -> tuple[Score, ...]:
        """The iterate's scores.

        Raises:
            UserError: the file is missing or damaged.
        """
        try:
            return _SCORES.validate_python(files.read_json(self.scores_file))
        except ValidationError:
            raise UserError(f"{self.scores_file}: not a list of scores; remove it and repeat the run's command") from None

    def samples(self) -> list[str]:
        """What the iterate said to the first prompts; nothing where that was not kept."""
        return list(map(str, files.read_json(self.samples_file))) if self.samples_file.exists() else []


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
        if not folder.begun:
            raise UserError(f"{path} has no manifest.json, so it is not a run folder; name one that `spac-repro train` made")
        _ = folder.manifest
        return folder

    def __str__(self) -> str:
        return str(self.path)

    # What lies where

    @property
    def manifest_file(self) -> Path:
        return self.path / "manifest.json"

    @property
    def results_file(self) -> Path:
        return self.path / "results.json"

    @property
    def verdict_file(self) -> Path:
        return self.path / "verdict.json"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def events(self) -> Path:
        """The same as `metrics_file`, for TensorBoard."""
        return self.path / "tensorboard"

    @property
    def timing_file(self) -> Path:
        return self.path / "timing.json"

    @property
    def contamination_file(self) -> Path:
        """Which prompts of the preferences are also questions of the leaderboard."""
        return self.path / "overlap.json"

    @property
    def crate_file(self) -> Path:
        """The run as a research object."""
        return self.path / "ro-crate-metadata.json"

    def iteration(self, t: int) -> IterationFolder:
        return IterationFolder(self.path / f"iteration-{t}", t)

    def iterations(self) -> Iterator[IterationFolder]:
        """Every iteration that left anything, in order."""
        found = (re.fullmatch(r"iteration-(\d+)", entry.name) for entry in self.path.iterdir())
        return map(self.iteration, sorted(int(match[1]) for match in found if match))

    # What is in it

    @property
    def begun(self) -> bool:
        return self.manifest_file.exists()

    @property
    def complete(self) -> bool:
        return self.results_file.exists()

    @cached_property
    def manifest(self) -> Manifest:
        return manifest.read(self.manifest_file)

    @cached_property
    def results(self) -> Results:
        return results.read(self.results_file)

    def scores(self) -> list[tuple[int, Score]]:
        """Every score with its iteration, as far as the run went."""
        return [(each.number, score) for each in self.iterations() if each.has_scores for score in each.scores()]

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, in order."""
        return metrics.read(self.metrics_file)

    def timing(self) -> list[dict[str, Any]]:
        """How long each stage took, in every attempt at it."""
        return list(files.read_json(self.timing_file)) if self.timing_file.exists() else []

    def contamination(self) -> dict[str, Any] | None:
        """What `contamination_file` holds; None where it was not measured."""
        return dict(files.read_json(self.contamination_file)) if self.contamination_file.exists() else None

    # Becoming a run's

    def owned(self) -> AbstractContextManager[None]:
        """Own the folder while the block runs; raises UserError where another process does."""
        return lock.owned(self.path)

    def claim(self, wanted: Manifest, *, allow_changed_environment: bool) -> None:
        """Write the manifest of a new run, or check that the folder holds this very run.

        A run carried on in a changed environment gets a segment for each; its claim to equal bits is withdrawn. A finished one is
        only looked at, so its environment may be another.

        Raises:
            UserError: the folder holds another run, or the environment changed and that was not allowed.
        """
        if not self.begun:
            if any(entry for entry in self.path.iterdir() if not _may_come_first(entry)):
                raise UserError(f"{self.path} holds files but no manifest.json: it is not a run folder; choose another with --out")
            files.write_json(self.manifest_file, wanted.as_json())
            return
        there = manifest.read(self.manifest_file)
        old, new = there.identity(), wanted.identity()
        for part in IDENTITY:
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
        files.write_json(self.manifest_file, there.carried_on_in(environment).as_json())


def _may_come_first(entry: Path) -> bool:
    """Whether an entry may lie in a folder before its manifest: the lock's files, and what a kill left of a file half written."""
    return entry.name in (lock.LOCK, lock.OWNER) or (entry.name.startswith(".") and entry.name.endswith(".partial"))
