"""Why two runs differ, in three layers: what differs, where they first part, and how much it matters.

The first layer reads the manifests and sorts every difference by what it can do (effects.py). The second follows both runs in the
order of computation to their first difference (first_difference.py). The third holds the scores' differences against the spread
over seeds (noise.py).
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spac_repro import recipes
from spac_repro.errors import UserError
from spac_repro.recipe import complete
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.manifest import REQUIRED_KEYS, Manifest, leaf_differences
from spac_repro.runs.results import Score
from spac_repro.trust import first_difference
from spac_repro.trust.effects import Effect, Sort, effect_of
from spac_repro.trust.expected import START, Expected, Measured, Row, load_expected
from spac_repro.trust.first_difference import Walk
from spac_repro.trust.noise import ALPHA, Change, changes, spread_of
from spac_repro.trust.statistics import tolerance


@dataclass(frozen=True)
class Difference:
    """Something recorded that is not the same in both runs."""

    key: str
    a: Any
    b: Any
    effect: Effect

    def as_json(self) -> dict[str, Any]:
        effect = {"sort": self.effect.sort.value, "size": self.effect.size, "source": self.effect.source}
        return {"key": self.key, "a": self.a, "b": self.b, **effect}


@dataclass(frozen=True)
class Comparison:
    """The three layers."""

    a: str
    b: str
    differences: tuple[Difference, ...]
    walk: Walk
    changes: tuple[Change, ...]
    seeds: int  # runs that the spread was taken from

    @property
    def exit_code(self) -> int:
        """1 where a score differs by more than noise."""
        return 1 if any(change.beyond for change in self.changes) else 0

    @property
    def summary(self) -> tuple[str, str, str]:
        """Each layer in a sentence."""
        return self._what(), self._where(), self._how_much()

    def _what(self) -> str:
        if not self.differences:
            return "nothing that is recorded differs"
        first, more = self.differences[0], len(self.differences) - 1
        rest = f"; {more} more" if more else ""
        return f"{first.key} is {short(first.a)} in A and {short(first.b)} in B, which {first.effect.sort.value}{rest}"

    def _where(self) -> str:
        walk = self.walk
        parts = [str(parting) for parting in (walk.scores, walk.training) if parting]
        if not parts and not walk.equal:
            return "not known"
        if not parts:
            return f"nowhere, as far as both go: equal up to the {walk.equal}"
        text = "; ".join(parts)
        if walk.training is None:
            return f"{text}; what is trained is equal up to the {walk.equal}"
        causes = [each for each in self.differences if each.effect.sort is not Sort.NOTHING]
        return text if causes else f"{text}; nothing that is recorded explains it"

    def _how_much(self) -> str:
        if not self.changes:
            return "not one score was measured in both"
        moved = [change for change in self.changes if change.difference != 0]
        if not moved:
            return f"all {len(self.changes)} scores are equal"
        beyond = [change for change in moved if change.beyond]
        unknown = [change for change in moved if change.beyond is None]
        text = f"{len(moved)} of {len(self.changes)} scores differ"
        if len(unknown) == len(moved) and self.seeds:
            return f"{text}, on other questions"
        if len(unknown) == len(moved):
            return f"{text}; whether that is more than noise cannot be said without runs of other seeds (name some with --seeds)"
        if beyond:
            most = max(beyond, key=lambda change: abs(change.difference) / (change.limit or math.inf))
            text += f", {len(beyond)} of them by more than two seeds would; the most telling is {most}"
        else:
            text += ", none of them by more than two seeds would"
        return f"{text} (spread of {self.seeds} runs, {ALPHA:.0%} level over all scores)"

    def as_json(self) -> dict[str, Any]:
        what, where, how_much = self.summary
        return {
            "a": self.a,
            "b": self.b,
            "summary": {"what": what, "where": where, "how_much": how_much},
            "differences": [difference.as_json() for difference in self.differences],
            "parting": self.walk.training.as_json() if self.walk.training else None,
            "score_parting": self.walk.scores.as_json() if self.walk.scores else None,
            "equal_up_to": self.walk.equal,
            "unfinished": list(self.walk.unfinished),
            "weights_read": self.walk.read,
            "scores": [change.as_json() for change in self.changes],
            "spread_of_runs": self.seeds,
            "beyond_noise": self.exit_code == 1,
        }


def compare(a: Path, b: Path, seeds: Sequence[Path] = ()) -> Comparison:
    """Compare two run folders, complete or not.

    `seeds` are runs whose spread is the unit of noise, together with those found next to A and B.

    Raises:
        UserError: not a run, one of a newer version, a damaged file, or two runs that share nothing.
    """
    one, other, *more = map(RunFolder.open, (a, b, *seeds))
    scores = (one.scores(), other.scores())
    _check_something_shared((one, other), scores)
    spread, runs_used = spread_of([one, other, *more])
    # Scores that only one run has were measured by nothing in the other: that is not another harness, nor another task.
    used = [_instruments(run, its) for run, its in zip((one, other), scores, strict=True)]
    both = [{key: each[key] for key in used[0].keys() & used[1].keys()} for each in used]
    found = _ranked({**_recorded(run.manifest), "scores": its} for run, its in zip((one, other), both, strict=True))
    return Comparison(str(a), str(b), found, first_difference.walk(one, other), tuple(changes(*scores, spread)), runs_used)


def compare_expected(run: Path, file: Path) -> Comparison:
    """Compare a run with the expected results in a file: the same layers, as far as a row tells.

    Raises:
        UserError: not a run, not such a file, or no row of the run's recipe and method.
    """
    folder = RunFolder.open(run)
    its, expected = folder.manifest, load_expected(file)
    if expected.recipe != its.recipe:
        raise UserError(f"{file} is about recipe {expected.recipe}, and {run} is of {its.recipe}; name the file of that recipe")
    methods = (its.method, START)
    rows = {(row.iteration, row.task, row.metric): row for row in expected.rows if row.method in methods and row.value is not None}
    places = [(t, score, (t, score.task, score.metric)) for t, score in folder.scores()]
    scored = [(t, score, rows[place]) for t, score, place in places if place in rows]
    if not scored:
        raise UserError(f"{file} has no row with a number for what {run} measured; `spac-repro verify {run}` says what it has")
    found = sorted(_expected_differences(its, expected, [row for _, _, row in scored]), key=lambda pair: pair[0])
    alpha = expected.alpha / len(scored)
    against = tuple(_against(t, score, row, tolerance(row, 1, alpha)) for t, score, row in scored)
    nothing = Walk(None, None, "", ("an expected result has no steps: name a run folder to see where two runs part",), 0)
    seeds = max(row.seeds or 1 for _, _, row in scored)
    return Comparison(str(run), str(file), tuple(each for _, each in found), nothing, against, seeds)


def differences(a: Manifest, b: Manifest) -> tuple[Difference, ...]:
    """The differences of two manifests, what tells most first."""
    return _ranked(map(_recorded, (a, b)))


# What differs


def _recorded(manifest: Manifest) -> dict[str, Any]:
    """The recorded values that can bear on a result. Where a setting comes from cannot, and a digest repeats what it is of."""
    parts = {part: getattr(manifest, part) for part in REQUIRED_KEYS} | {"settings": complete(manifest.settings)}
    return {**parts, **({"segments": manifest.segments} if manifest.segments else {})}


def _ranked(recorded: Iterable[Mapping[str, Any]]) -> tuple[Difference, ...]:
    a, b = recorded
    ranked = []
    for key, x, y in leaf_differences(*_aligned(a, b)):
        effect, rank = effect_of(key, (a, b))
        ranked.append((rank, Difference(key, x, y, effect)))
    return tuple(difference for _, difference in sorted(ranked, key=lambda pair: pair[0]))


def _aligned(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Both, with the settings of different methods under one key, `methods.*`: what the methods share is then compared."""
    if a.get("method") == b.get("method"):
        return a, b
    return _own_method_as_star(a), _own_method_as_star(b)


def _own_method_as_star(recorded: Mapping[str, Any]) -> dict[str, Any]:
    settings = recorded.get("settings") or {}
    own = (settings.get("methods") or {}).get(recorded.get("method"))
    return {**recorded, "settings": {**settings, "methods": {"*": own}}}


def _instruments(run: RunFolder, scores: Sequence[tuple[int, Score]]) -> dict[str, Any]:
    """What measured a run's scores: the harness, and the version of each task."""
    harness = {"harness": run.results.harness} if run.complete else {}
    return {**harness, **{f"version.{score.task}": score.version for _, score in scores if score.version}}


def _check_something_shared(runs: tuple[RunFolder, RunFolder], scores: tuple[list[tuple[int, Score]], ...]) -> None:
    a, b = (run.manifest for run in runs)
    other_policy = complete(a.settings).get("policy") != complete(b.settings).get("policy")
    other_data = a.inputs.get("preferences_sha256") != b.inputs.get("preferences_sha256")
    measured = [{(score.task, score.metric) for _, score in its} for its in scores]
    if a.recipe != b.recipe and other_policy and other_data and not measured[0] & measured[1]:
        raise UserError(
            f"{runs[0]} is of recipe {a.recipe} and {runs[1]} of {b.recipe}: other policies, other preferences, "
            "and no score that both have, so there is nothing to compare"
        )


def _expected_differences(its: Manifest, expected: Expected, rows: Sequence[Row]) -> Iterator[tuple[int, Difference]]:
    """What the file says of how its rows came about, where the run says otherwise."""
    pairs: list[tuple[str, Any, Any]] = []
    recorded = _recorded(its)
    digest = expected.settings_sha256.get(its.method)
    if digest is not None and digest != its.settings_sha256:
        usual = recipes.load(expected.recipe, method=its.method, seed=its.seed)
        if usual.settings_sha256 == digest:
            pairs += leaf_differences({"settings": recorded["settings"]}, {"settings": complete(usual.settings())})
        else:
            pairs.append(("settings_sha256", its.settings_sha256, digest))
    for source in {row.source: expected.sources[row.source] for row in rows}.values():
        if isinstance(source, Measured):
            environment = its.environment
            pairs.append(("environment.source.commit", (environment.get("source") or {}).get("commit"), source.commit))
            pairs.append(("environment.lock.sha256", (environment.get("lock") or {}).get("sha256"), source.lock_sha256))
            pairs.append(("environment.cpu", environment.get("cpu"), source.hardware))
    for key, x, y in dict.fromkeys((key, str(x), str(y)) for key, x, y in pairs if x != y):
        effect, rank = effect_of(key, (recorded, recorded))
        yield rank, Difference(key, x, y, effect)


def _against(iteration: int, score: Score, row: Row, limit: float) -> Change:
    values = (score.value, float(row.value or 0))
    return Change(iteration, row.task, row.metric, *values, row.sd, limit, score.stderr, (score.n, row.n or score.n))


def short(value: Any) -> str:
    """A value in a line; a hash by its beginning."""
    text = "absent" if value is None else str(value)
    return f"{text[:12]}…" if len(text) == 64 and " " not in text else text
