"""The scores of a run, and what is known about how they were measured."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spac_repro import protocols, recipes
from spac_repro.documents.errors import one_line
from spac_repro.errors import UserError
from spac_repro.recipe import complete
from spac_repro.runs import answer_scores, file_hashes
from spac_repro.runs import results as run_results
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.results import Score


class IncomparableError(UserError):
    """The scores cannot be compared with the expected rows: another recipe, other task versions, an unfinished run."""


@dataclass(frozen=True)
class RunScores:
    """The scores of one run, by iteration, and what they were made with; None and "" mean not known."""

    source: str  # the run folder or the results file
    recipe: str
    method: str
    scores: Mapping[int, tuple[Score, ...]]
    harness: str = ""
    seed: int | None = None
    settings: Mapping[str, Any] | None = None
    settings_sha256: str | None = None
    weights_sha256: str | None = None
    files: str = ""  # which files were checked
    protocol: str = protocols.CURRENT  # under which the leaderboard's tasks were asked

    @property
    def name(self) -> str:
        """What a verdict calls the run. It holds no path if possible, so that equal runs have equal verdicts."""
        return self.source if self.seed is None else f"{self.method} seed {self.seed}"

    def items(self) -> Iterator[tuple[int, Score]]:
        """Every score with its iteration."""
        return ((iteration, score) for iteration, scores in sorted(self.scores.items()) for score in scores)

    def changed_settings(self) -> list[str]:
        """The settings that differ from the recipe's, as "key value (recipe: value)"; none if they are not known."""
        if self.settings is None:
            return []
        try:
            run = recipes.load(self.recipe, method=self.method, seed=self.seed or 0)
        except UserError:  # a recipe of the user's own
            return []
        ours, usual = (dict(_leaves(complete(settings))) for settings in (self.settings, run.settings()))
        keys = [key for key in {**usual, **ours} if ours.get(key) != usual.get(key)]
        return [f"{key} {ours.get(key)} (recipe: {usual.get(key)})" for key in keys]


def read_run_scores(folder: Path | str, *, deep: bool = False) -> RunScores:
    """The scores in a run folder, or in a results.json alone.

    Args:
        folder: the run folder, or the file.
        deep: check large files too.

    Raises:
        IncomparableError: the run is unfinished.
        UserError: it is no run folder, is damaged or of a newer version, or cannot be read.
    """
    if Path(folder).is_file():
        return _read_results_file(Path(folder))
    run = RunFolder.open(Path(folder))
    checked = file_hashes.check(run, deep=deep)
    if not run.complete:
        raise IncomparableError(f"{folder}: has no results.json, so the run is unfinished; repeat its `train` command to go on")
    results = run.results
    if not results.complete:
        raise IncomparableError(f"{folder}: the run is unfinished; repeat its `train` command to go on")
    check_answers(run)
    return RunScores(
        source=str(folder),
        recipe=results.recipe,
        method=results.method,
        scores={iterate.iteration: iterate.scores for iterate in results.iterations},
        harness=results.harness or "",
        protocol=results.protocol,
        seed=results.seed,
        settings=run.manifest.settings,
        settings_sha256=run.manifest.settings_sha256 or results.settings_sha256,
        weights_sha256=results.weights_sha256,
        files=str(checked),
    )


def check_answers(run: RunFolder) -> None:
    """Compute the scores of each iterate of a finished run from its answers again. Runs of version 0.2 kept none.

    Raises:
        UserError: an answer gives another value than is recorded, the answers give another score than results.json has, or they
            are of other weights or under another protocol.
    """
    for iterate in run.results.iterations:
        folder = run.iteration(iterate.iteration)
        found = folder.answers()
        if found is None:
            continue
        file = folder.answers_file
        if iterate.weights_sha256 and found.about.weights_sha256 not in ("", iterate.weights_sha256):
            raise UserError(f"{file}: its answers are of the weights {found.about.weights_sha256[:12]}; evaluate again")
        if found.about.protocol != run.results.protocol:
            raise UserError(
                f"{file}: its answers are under the protocol {one_line(found.about.protocol, 60)}, and {run.results_file.name} "
                f"says {run.results.protocol}; the run is damaged, train it again in another folder"
            )
        answer_scores.check(found, str(file))
        for recorded_file, recorded in ((run.results_file, iterate.scores), (folder.scores_file, folder.scores())):
            if differences := answer_scores.differences(found, recorded):
                raise UserError(
                    f"{file}: {differences[0]} ({recorded_file.name}); the run is damaged, train it again in another folder"
                )


def _read_results_file(file: Path) -> RunScores:
    results = run_results.read(file)
    if not results.complete:
        raise IncomparableError(f"{file}: the run is unfinished; repeat its `train` command to go on")
    return RunScores(
        source=str(file),
        recipe=results.recipe,
        method=results.method,
        scores={iterate.iteration: iterate.scores for iterate in results.iterations},
        harness=results.harness or "",
        protocol=results.protocol,
        seed=results.seed,
        settings_sha256=results.settings_sha256,
        weights_sha256=results.weights_sha256,
        files="a results file alone: its numbers are believed as they are; nothing shows that a run computed them",
    )


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
