"""Why two runs differ, in three layers: what differs, where they first differ, and how much it matters.

1. The recorded values that differ, sorted by their impact (`impact.py`).
2. The first difference in the order of computation (`first_difference.py`).
3. The differences of scores, against the spread over seeds (`noise.py`).
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spac_repro import protocols, recipes
from spac_repro.errors import UserError
from spac_repro.recipe import complete
from spac_repro.runs import file_hashes
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.manifest import REQUIRED_KEYS, Manifest, leaf_differences
from spac_repro.runs.results import Score
from spac_repro.trust import commit_hint
from spac_repro.trust.expected import START, ExpectedResults, ExpectedRow, Measured, load_expected
from spac_repro.trust.first_difference import FirstDifference, find_first_difference
from spac_repro.trust.impact import Impact, KnownImpact, impact_of
from spac_repro.trust.noise import ALPHA, ScoreDifference, score_differences, seed_spread, seeds_needed
from spac_repro.trust.statistics import tolerance


@dataclass(frozen=True)
class Difference:
    """A recorded value that differs between two runs."""

    key: str
    a: Any
    b: Any
    known: KnownImpact

    @property
    def impact(self) -> Impact:
        """What the difference can do to the numbers."""
        return self.known.impact

    def as_json(self) -> dict[str, Any]:
        """The difference as `compare --json` prints it."""
        known = {"impact": self.impact.value, "size": self.known.size, "source": self.known.source}
        return {"key": self.key, "a": self.a, "b": self.b, **known}


@dataclass(frozen=True)
class Comparison:
    """Two runs, or a run and a file of expected results, compared in three layers."""

    a: str
    b: str
    differences: tuple[Difference, ...]
    first_difference: FirstDifference
    score_differences: tuple[ScoreDifference, ...]
    spread_runs: int  # runs of other seeds that the spread was estimated from
    files: tuple[str, ...] = ()  # which files of each run were checked
    left_out: tuple[str, ...] = ()  # damaged runs beside A and B that the spread was not estimated from, one line for each

    @property
    def beyond_noise(self) -> bool | None:
        """Whether any score differs by more than noise; None if that can be said of no score."""
        known = [change.beyond_noise for change in self.score_differences if change.beyond_noise is not None]
        return any(known) if known else None

    @property
    def exit_code(self) -> int:
        """1 if a score differs by more than noise, otherwise 0."""
        return 1 if self.beyond_noise else 0

    @property
    def unexplained(self) -> bool:
        """Whether the runs differ somewhere although no recorded difference could have caused it."""
        causes = [difference for difference in self.differences if difference.impact is not Impact.NONE]
        return bool(self.first_difference.training or self.first_difference.scores) and not causes

    @property
    def summary(self) -> tuple[str, str, str]:
        """Each layer in one sentence."""
        return self._what(), self._where(), self._how_much()

    def _what(self) -> str:
        if not self.differences:
            return "nothing that is recorded differs"
        first, more = self.differences[0], len(self.differences) - 1
        rest = f"; {more} more" if more else ""
        return f"{first.key} is {abbreviate(first.a)} in A and {abbreviate(first.b)} in B, which {first.impact.value}{rest}"

    def _where(self) -> str:
        found = self.first_difference
        mismatches = [str(mismatch) for mismatch in (found.scores, found.training) if mismatch]
        if not mismatches and not found.equal_up_to:
            return "not known"
        if not mismatches:
            return f"nowhere, as far as both go: equal up to the {found.equal_up_to}"
        text = "; ".join(mismatches)
        if found.training is None:
            return f"{text}; what is trained is equal up to the {found.equal_up_to}"
        return f"{text}; nothing that is recorded explains it" if self.unexplained else text

    def _how_much(self) -> str:
        if not self.score_differences:
            return "no score was measured in both"
        changed = [change for change in self.score_differences if change.difference != 0]
        if not changed:
            return f"all {len(self.score_differences)} scores are equal"
        beyond = [change for change in changed if change.beyond_noise]
        unknown = [change for change in changed if change.beyond_noise is None]
        text = f"{len(changed)} of {len(self.score_differences)} scores differ"
        if len(unknown) == len(changed) and self.spread_runs:
            return f"{text}, on other questions or under other protocols"
        if len(unknown) == len(changed):
            return f"{text}; {seeds_needed(len(self.score_differences))} (name runs of other seeds with --seed-run)"
        if beyond:
            largest = max(beyond, key=lambda change: abs(change.difference) / (change.limit or math.inf))
            text += f", {len(beyond)} of them by more than two seeds would; the largest relative to noise is {largest}"
        else:
            text += ", none of them by more than two seeds would"
        known = [change for change in changed if change.spread and change.limit is not None]
        ratios = [(change.limit or 0.0) / (change.spread or 1.0) for change in known]
        needed = f"noise ends at {max(ratios):.3g} × the spread, " if ratios else ""
        return f"{text} ({needed}spread of {self.spread_runs} other seeds, {ALPHA:.0%} level over all scores)"

    def as_json(self) -> dict[str, Any]:
        """What `compare --json` prints."""
        what, where, how_much = self.summary
        found = self.first_difference
        return {
            "a": self.a,
            "b": self.b,
            "summary": {"what": what, "where": where, "how_much": how_much},
            "differences": [difference.as_json() for difference in self.differences],
            "first_difference": found.training.as_json() if found.training else None,
            "first_score_difference": found.scores.as_json() if found.scores else None,
            "equal_up_to": found.equal_up_to,
            "unfinished": list(found.unfinished),
            "weights_read": found.weight_bytes_read,
            "scores": [change.as_json() for change in self.score_differences],
            "spread_of_runs": self.spread_runs,
            "left_out": list(self.left_out),
            "files": list(self.files),
            "beyond_noise": self.beyond_noise,
        }


def compare(a: Path, b: Path, seeds: Sequence[Path] = (), *, deep: bool = False) -> Comparison:
    """Compare two run folders, complete or not.

    Args:
        a: a run folder.
        b: another run folder.
        seeds: runs that differ from A or B in the seed alone. Noise is estimated from them and from the finished runs next to A and
            B. A and B themselves are left out.
        deep: check large files of the runs too.

    Raises:
        UserError: not a run, a run of a newer version, a damaged file, or two runs that share nothing.
    """
    run_a, run_b, *others = map(RunFolder.open, (a, b, *seeds))
    checked = {run: file_hashes.check(run, deep=deep) for run in (run_a, run_b, *others)}
    scores = (run_a.scores(), run_b.scores())
    _check_something_shared((run_a, run_b), scores)
    of_seeds = seed_spread(run_a, run_b, others)
    # Versions are compared only for scores that both runs have: a score that one run lacks is no difference in versions.
    versions = [_measured_with(run, run_scores) for run, run_scores in zip((run_a, run_b), scores, strict=True)]
    shared = versions[0].keys() & versions[1].keys()
    recorded = [
        {**_recorded(run.manifest), "scores": {key: own[key] for key in own if key in shared}}
        for run, own in zip((run_a, run_b), versions, strict=True)
    ]
    return Comparison(
        a=str(a),
        b=str(b),
        differences=_ranked(recorded),
        first_difference=find_first_difference(run_a, run_b),
        score_differences=tuple(_with_protocols(score_differences(*scores, of_seeds.spread), (run_a, run_b), scores[0])),
        spread_runs=of_seeds.runs,
        left_out=of_seeds.left_out,
        files=tuple(f"{name}: {checked[run]}" for name, run in (("A", run_a), ("B", run_b))),
    )


def compare_expected(run: Path, file: Path, *, deep: bool = False) -> Comparison:
    """Compare a run with a file of expected results. The file has no steps, so there is no first difference.

    Args:
        run: a run folder.
        file: the file.
        deep: check large files of the run too.

    Raises:
        UserError: not a run, not an expected_results file, or no row of the run's recipe and method.
    """
    folder = RunFolder.open(run)
    checked = file_hashes.check(folder, deep=deep)
    manifest, expected = folder.manifest, load_expected(file)
    if expected.recipe != manifest.recipe:
        raise UserError(
            f"{file} is about recipe {expected.recipe}, and {run} is of {manifest.recipe}; name the file of that recipe"
        )
    own = [row for row in expected.rows if row.method in (manifest.method, START) and row.value is not None]
    rows = {(row.iteration, row.task, row.metric): row for row in own}
    places = [(t, score, (t, score.task, score.metric)) for t, score in folder.scores()]
    scored = [(t, score, rows[place]) for t, score, place in places if place in rows]
    if not scored:
        raise UserError(f"{file} has no row with a number for what {run} measured; `spac-repro verify {run}` says what it has")
    ranked = sorted(_expected_differences(manifest, expected, [row for _, _, row in scored]), key=lambda pair: pair[0])
    alpha = expected.alpha / len(scored)
    no_steps = "an expected result has no steps: name a run folder to see where two runs first differ"
    return Comparison(
        a=str(run),
        b=str(file),
        differences=tuple(difference for _, difference in ranked),
        first_difference=FirstDifference(None, None, "", (no_steps,), 0),
        score_differences=tuple(_change_from_row(t, score, row, tolerance(row, [score.value], alpha)) for t, score, row in scored),
        spread_runs=max(row.seeds or 1 for _, _, row in scored),
        files=(f"A: {checked}",),
    )


def differences(a: Manifest, b: Manifest) -> tuple[Difference, ...]:
    """The differences between two manifests, sorted by explanatory power."""
    return _ranked(map(_recorded, (a, b)))


# What differs


def _recorded(manifest: Manifest) -> dict[str, Any]:
    """The recorded values that can bear on a result. Provenance cannot, and digests repeat other values."""
    parts = {part: getattr(manifest, part) for part in REQUIRED_KEYS} | {"settings": complete(manifest.settings)}
    return {**parts, **({"segments": manifest.segments} if manifest.segments else {})}


def _ranked(recorded: Iterable[Mapping[str, Any]]) -> tuple[Difference, ...]:
    a, b = recorded
    ranked = []
    for key, x, y in leaf_differences(*_aligned(a, b)):
        ranked.append(_ranked_difference(key, x, y, (a, b)))
    return tuple(difference for _, difference in sorted(ranked, key=lambda pair: pair[0]))


def _ranked_difference(
    key: str, x: Any, y: Any, recorded: tuple[Mapping[str, Any], Mapping[str, Any]], note: str = ""
) -> tuple[int, Difference]:
    known, rank = impact_of(key, recorded)
    if key == "environment.source.commit":
        known = replace(known, size=commit_hint.advice(x, y) + note)
    return rank, Difference(key, x, y, known)


def _aligned(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Both records; settings of two different methods get the common key `methods.*`, so that equal ones are no difference."""
    if a.get("method") == b.get("method"):
        return a, b
    return _with_method_as_star(a), _with_method_as_star(b)


def _with_method_as_star(recorded: Mapping[str, Any]) -> dict[str, Any]:
    settings = recorded.get("settings") or {}
    own = (settings.get("methods") or {}).get(recorded.get("method"))
    return {**recorded, "settings": {**settings, "methods": {"*": own}}}


def _measured_with(run: RunFolder, scores: Sequence[tuple[int, Score]]) -> dict[str, Any]:
    """The versions of the harness and of each task that measured a run's scores."""
    harness = {"harness": run.results.harness} if run.complete else {}
    return {**harness, **{f"version.{score.task}": score.version for _, score in scores if score.version}}


def _with_protocols(
    changes: Iterable[ScoreDifference], runs: tuple[RunFolder, RunFolder], scores: Sequence[tuple[int, Score]]
) -> Iterator[ScoreDifference]:
    """The differences of leaderboard scores with the runs' protocols; under two of them neither noise nor effect can be told."""
    a, b = (complete(run.manifest.settings).get("evaluation", {}).get("protocol", protocols.CURRENT) for run in runs)
    asked = {score.task for _, score in scores if score.of_leaderboard}
    for change in changes:
        yield replace(change, protocols=(a, b)) if change.task in asked else change


def _check_something_shared(runs: tuple[RunFolder, RunFolder], scores: tuple[list[tuple[int, Score]], ...]) -> None:
    a, b = (run.manifest for run in runs)
    other_policy = complete(a.settings).get("policy") != complete(b.settings).get("policy")
    other_data = a.inputs.get("preferences_sha256") != b.inputs.get("preferences_sha256")
    measured = [{(score.task, score.metric) for _, score in of_run} for of_run in scores]
    if a.recipe != b.recipe and other_policy and other_data and not measured[0] & measured[1]:
        raise UserError(
            f"{runs[0]} is of recipe {a.recipe} and {runs[1]} of {b.recipe}: other policies, other preferences, "
            "and no score that both have, so there is nothing to compare"
        )


def _expected_differences(
    manifest: Manifest, expected: ExpectedResults, rows: Sequence[ExpectedRow]
) -> Iterator[tuple[int, Difference]]:
    """Where the run's record differs from what the file says about its rows, each with its rank."""
    recorded = _recorded(manifest)
    pairs = [
        *_expected_settings(manifest, expected, recorded),
        *(
            pair
            for source in dict.fromkeys(row.source for row in rows)
            for pair in _expected_environment(manifest, expected, source)
        ),
    ]
    lost = "".join(source.lost_commit_note for source in expected.sources.values() if isinstance(source, Measured))
    for key, x, y in dict.fromkeys((key, str(x), str(y)) for key, x, y in pairs if x != y):
        yield _ranked_difference(key, x, y, (recorded, recorded), note=lost)


def _expected_settings(
    manifest: Manifest, expected: ExpectedResults, recorded: Mapping[str, Any]
) -> Iterable[tuple[str, Any, Any]]:
    """The settings that differ from those of the rows: by name if the recipe's settings are the rows', otherwise by digest."""
    digest = expected.settings_sha256.get(manifest.method)
    if digest is None or digest == manifest.settings_sha256:
        return []
    usual = recipes.load(expected.recipe, method=manifest.method, seed=manifest.seed)
    if usual.settings_sha256 != digest:
        return [("settings_sha256", manifest.settings_sha256, digest)]
    return leaf_differences({"settings": recorded["settings"]}, {"settings": complete(usual.settings())})


def _expected_environment(manifest: Manifest, expected: ExpectedResults, source: str) -> Iterator[tuple[str, Any, Any]]:
    """Commit, lock and processor of a run beside those of a measured source."""
    measured, environment = expected.sources[source], manifest.environment
    if isinstance(measured, Measured):
        yield "environment.source.commit", (environment.get("source") or {}).get("commit"), measured.commit_in_history
        yield "environment.lock.sha256", (environment.get("lock") or {}).get("sha256"), measured.lock_sha256
        yield "environment.cpu", environment.get("cpu"), measured.hardware


def _change_from_row(iteration: int, score: Score, row: ExpectedRow, limit: float) -> ScoreDifference:
    values = (score.value, float(row.value or 0))
    return ScoreDifference(iteration, row.task, row.metric, *values, row.sd, limit, score.stderr, (score.n, row.n or score.n))


def abbreviate(value: Any) -> str:
    """A value in one line; a SHA-256 as its first 12 digits."""
    text = "absent" if value is None else str(value)
    return f"{text[:12]}…" if len(text) == 64 and " " not in text else text
