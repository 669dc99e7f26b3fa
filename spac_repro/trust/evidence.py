"""What run folders and the harness's results files say, as scores that can be held against expected results."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spac_repro import recipes
from spac_repro.documents import strict_json
from spac_repro.errors import UserError
from spac_repro.recipe import complete
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.results import Score


class IncomparableError(UserError):
    """Scores that no row can be held against: another recipe, other tasks, an unfinished run."""


@dataclass(frozen=True)
class Evidence:
    """The scores of one run, by iteration, and what they were made with; None and "" where the file does not tell."""

    place: str
    recipe: str
    method: str
    scores: Mapping[int, tuple[Score, ...]]
    harness: str = ""
    seed: int | None = None
    settings_sha256: str | None = None
    weights_sha256: str | None = None

    @property
    def name(self) -> str:
        """What a verdict calls it: equal runs have equal verdicts, wherever they lie."""
        return self.place if self.seed is None else f"{self.method} seed {self.seed}"

    def each(self) -> Iterator[tuple[int, Score]]:
        """Every score with its iteration."""
        return ((iteration, score) for iteration, scores in sorted(self.scores.items()) for score in scores)

    def changed_settings(self) -> list[str]:
        """The settings of this run that are not its recipe's, as "key value (recipe: value)", as far as its manifest tells."""
        try:
            manifest = strict_json.read(Path(self.place) / "manifest.json")
            ours = dict(_leaves(complete(manifest["settings"])))
            usual = dict(_leaves(complete(recipes.load(self.recipe, method=self.method, seed=self.seed or 0).settings())))
        except (LookupError, TypeError, AttributeError, UserError):
            return []
        keys = [key for key in {**usual, **ours} if ours.get(key) != usual.get(key)]
        return [f"{key} {ours.get(key)} (recipe: {usual.get(key)})" for key in keys]


def read_run(folder: Path | str) -> Evidence:
    """The scores in a run folder. Raises IncomparableError while the run is unfinished, UserError where it cannot be read."""
    run = RunFolder(Path(folder))
    if not run.path.is_dir():
        raise UserError(f"{folder}: no such run folder")
    if not run.complete:
        raise IncomparableError(f"{folder}: has no results.json, so the run is unfinished; repeat its `train` command to go on")
    results = run.results
    if not results.complete:
        raise IncomparableError(f"{folder}: the run is unfinished; repeat its `train` command to go on")
    return Evidence(
        place=str(folder),
        recipe=results.recipe,
        method=results.method,
        scores={iterate.iteration: iterate.scores for iterate in results.iterations},
        harness=results.harness or "",
        seed=results.seed,
        settings_sha256=results.settings_sha256,
        weights_sha256=results.weights_sha256,
    )


def read_scores(path: Path | str, *, recipe: str, method: str, iteration: int) -> Evidence:
    """The scores in a results file of lm-eval, under our names of tasks and metrics.

    The file does not say which recipe, method and iteration it is about; the caller does.
    Raises UserError where it is not such a file.
    """
    path = Path(path)
    content = strict_json.read(path)
    results = content.get("results") if isinstance(content, dict) else None
    if not isinstance(results, dict) or not all(isinstance(metrics, dict) for metrics in results.values()):
        raise UserError(f"{path}: not a results file of lm-eval (it has no object `results`); give the results_….json it wrote")
    harness = f"lm_eval {content['lm_eval_version']}" if content.get("lm_eval_version") else ""
    return Evidence(str(path), recipe, method, {iteration: tuple(_scores(content, results))}, harness)


def _scores(content: dict[str, Any], results: dict[str, dict[str, Any]]) -> Iterator[Score]:
    from spac_repro.evaluation.leaderboard.suites import SUITES
    from spac_repro.evaluation.leaderboard.table import average

    known = {task.name: task for suite in SUITES.values() for task in suite}
    scores = []
    for name, metrics in results.items():
        task = known.get(name)
        wanted = task.metrics if task else {key.removesuffix(",none"): key for key in metrics if "_stderr" not in key}
        for metric, key in wanted.items():
            value = metrics.get(key)
            error = metrics.get("_stderr,".join(key.split(",", 1)))
            if task is not None and metric == "acc_macro":  # the harness weights subjects by size; the leaderboard did not
                value, error = _plain_mean(name, key, content, results), None
            if isinstance(value, int | float) and not isinstance(value, bool):
                version = _entry(content, "versions", name)
                scores.append(
                    Score(
                        task=name,
                        metric=metric,
                        value=float(value),
                        stderr=error if isinstance(error, float) else None,
                        n=_asked(name, content),
                        version="" if version is None else str(version),
                    )
                )
    yield from scores
    for suite in SUITES.values():
        yield from average(scores, suite)


def _plain_mean(name: str, key: str, content: dict[str, Any], results: dict[str, dict[str, Any]]) -> float | None:
    """The plain mean over the subjects of a task; None where there is a subject without a number."""
    subjects = [leaf for leaf in results if leaf.startswith(f"{name}_") and not _entry(content, "group_subtasks", leaf)]
    values = [results[leaf].get(key) for leaf in subjects]
    if not values or not all(isinstance(value, int | float) for value in values):
        return None
    return sum(float(value) for value in values if value is not None) / len(values)


def _asked(name: str, content: dict[str, Any]) -> int:
    """How many questions of a task were asked; 0 where the file does not tell."""
    children = _entry(content, "group_subtasks", name)
    if isinstance(children, list) and children:
        return sum(_asked(child, content) for child in children)
    counts = _entry(content, "n-samples", name)
    effective = counts.get("effective") if isinstance(counts, dict) else None
    return effective if isinstance(effective, int) else 0


def _entry(content: dict[str, Any], table: str, name: str) -> Any:
    found = content.get(table)
    return found.get(name) if isinstance(found, dict) else None


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
