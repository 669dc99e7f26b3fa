"""Why two runs differ, in three layers: what differs, where they first part, and how much it matters.

The first layer reads the manifests and sorts every difference by what it can do (effects.py). The second follows both runs in the
order of computation to their first difference (divergence.py). The third holds the scores' differences against the spread over
seeds: two runs that differ in nothing but the seed differ by s·√2 as a rule, s being the standard deviation over seeds, and by more
than t(df, 1 − α/2m)·s·√2 in one of m scores with probability α or less. A spread is never taken to be less than one item: a run
of few questions cannot tell less apart.
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spac_repro import recipes
from spac_repro.errors import UserError
from spac_repro.recipe import complete
from spac_repro.runs import files as runs
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.manifest import PARTS, leaf_differences
from spac_repro.trust import first_difference
from spac_repro.trust.effects import Effect, Sort, effect_of
from spac_repro.trust.expected import START, Expected, Measured, Row, load_expected
from spac_repro.trust.first_difference import Walk
from spac_repro.trust.verification import tolerance

if TYPE_CHECKING:
    from rich.console import RenderableType

ALPHA = 0.01
FEWEST = 3  # runs of the same settings, for a spread


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
class Change:
    """One score of both runs. `spread` is the standard deviation over seeds, `limit` what two seeds rarely differ by."""

    iteration: int
    task: str
    metric: str
    a: float
    b: float
    spread: float | None
    limit: float | None
    stderr: float | None
    items: tuple[int, int]  # that each value is a mean over; 0 where that is not known

    @property
    def difference(self) -> float:
        return self.b - self.a

    @property
    def beyond(self) -> bool | None:
        """Whether it is more than noise; None where no spread is known."""
        if self.difference == 0:
            return False
        return None if self.limit is None or self.items[0] != self.items[1] else not abs(self.difference) <= self.limit

    @property
    def words(self) -> str:
        if self.difference == 0:
            return "equal"
        if self.items[0] != self.items[1]:
            return f"other questions: {self.items[0]} and {self.items[1]}"
        if self.spread is None or self.limit is None:
            return "differs; how much seeds differ is not known"
        ratio = abs(self.difference) / (self.spread * math.sqrt(2)) if self.spread else math.inf
        told = "beyond noise" if self.beyond else "within noise" if ratio <= 2 else "not told from noise by so few seeds"
        return f"{told}: {ratio:.1f} × what two seeds usually differ by"

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "difference": self.difference, "beyond_noise": self.beyond, "words": self.words}


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
        return f"{first.key} is {_short(first.a)} in A and {_short(first.b)} in B, which {first.effect.sort.value}{rest}"

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
            text += f", {len(beyond)} of them by more than two seeds would; the most telling is {_named(most)}"
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
    manifests = (manifest(a), manifest(b))
    scores = (_scores(a), _scores(b))
    _check_something_shared((a, b), manifests, scores)
    spread, runs_used = _spread([a, b, *seeds])
    found = tuple(_differences((a, b), manifests))
    return Comparison(str(a), str(b), found, first_difference.walk(a, b), tuple(_changes(scores, spread)), runs_used)


def compare_expected(run: Path, file: Path) -> Comparison:
    """Compare a run with the expected results in a file: the same layers, as far as a row tells.

    Raises:
        UserError: not a run, not such a file, or no row of the run's recipe and method.
    """
    its = manifest(run)
    expected = load_expected(file)
    if expected.recipe != its["recipe"]:
        raise UserError(f"{file} is about recipe {expected.recipe}, and {run} is of {its['recipe']}; name the file of that recipe")
    methods = (its["method"], START)
    rows = {(row.iteration, row.task, row.metric): row for row in expected.rows if row.method in methods and row.value is not None}
    scored = [
        (t, score, rows[t, score["task"], score["metric"]])
        for t, score in _scores(run)
        if (t, score["task"], score["metric"]) in rows
    ]
    if not scored:
        raise UserError(f"{file} has no row with a number for what {run} measured; `spac-repro verify {run}` says what it has")
    found = sorted(_expected_differences(its, expected, [row for _, _, row in scored]), key=lambda pair: pair[0])
    alpha = expected.alpha / len(scored)
    changes = tuple(_against(t, score, row, tolerance(row, 1, alpha)) for t, score, row in scored)
    nothing = Walk(None, None, "", ("an expected result has no steps: name a run folder to see where two runs part",), 0)
    return Comparison(
        str(run), str(file), tuple(each for _, each in found), nothing, changes, max(row.seeds or 1 for _, _, row in scored)
    )


def _against(iteration: int, score: dict[str, Any], row: Row, limit: float) -> Change:
    items = int(score.get("n") or 0)
    values = (float(score["value"]), float(row.value or 0))
    return Change(iteration, row.task, row.metric, *values, row.sd, limit, score.get("stderr"), (items, row.n or items))


def _expected_differences(its: dict[str, Any], expected: Expected, rows: Sequence[Row]) -> Iterator[tuple[int, Difference]]:
    """What the file says of how its rows came about, where the run says otherwise."""
    pairs: list[tuple[str, Any, Any]] = []
    its = {**its, "settings": complete(its["settings"])}
    digest = expected.settings_sha256.get(its["method"])
    if digest is not None and digest != its.get("settings_sha256"):
        usual = recipes.load(expected.recipe, method=its["method"], seed=its["seed"])
        if usual.settings_sha256 == digest:
            pairs += leaf_differences({"settings": its["settings"]}, {"settings": complete(usual.settings())})
        else:
            pairs.append(("settings.digest", its.get("settings_sha256"), digest))
    for source in {row.source: expected.sources[row.source] for row in rows}.values():
        if isinstance(source, Measured):
            environment = its["environment"]
            pairs.append(("environment.source.commit", (environment.get("source") or {}).get("commit"), source.commit))
            pairs.append(("environment.lock.sha256", (environment.get("lock") or {}).get("sha256"), source.lock_sha256))
            pairs.append(("environment.cpu", environment.get("cpu"), source.hardware))
    for key, x, y in dict.fromkeys((key, str(x), str(y)) for key, x, y in pairs if x != y):
        effect, rank = effect_of(key, (its, its))
        yield rank, Difference(key, x, y, effect)


# What differs


def manifest(folder: Path) -> dict[str, Any]:
    """What identifies a run.

    Raises:
        UserError: not a run folder, half a manifest, or one of a newer version.
    """
    return RunFolder.open(folder).manifest.as_json()


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Difference]:
    """The differences of two manifests, what tells most first."""
    a, b = ({**each, "settings": complete(each["settings"])} for each in (a, b))
    ranked = []
    for key, x, y in leaf_differences(_identity(a), _identity(b)):
        effect, rank = effect_of(key, (a, b))
        ranked.append((rank, Difference(key, x, y, effect)))
    return [difference for _, difference in sorted(ranked, key=lambda pair: pair[0])]


def _identity(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The recorded values that can bear on a result. Where a setting comes from cannot, and a digest repeats what it is of."""
    parts = {part: manifest[part] for part in (*PARTS, "scores") if part in manifest}
    return {**parts, **({"segments": manifest["segments"]} if manifest.get("segments") else {})}


def _differences(folders: tuple[Path, Path], manifests: tuple[dict[str, Any], dict[str, Any]]) -> Iterator[Difference]:
    # Scores that only one run has were measured by nothing in the other: that is not another harness, nor another task.
    used = [_instruments(folder) for folder in folders]
    both = [{key: each[key] for key in used[0].keys() & used[1].keys()} for each in used]
    a, b = ({**manifest, "scores": its} for manifest, its in zip(manifests, both, strict=True))
    yield from differences(a, b)


def _instruments(folder: Path) -> dict[str, Any]:
    """What measured a run's scores: the harness, and the version of each task."""
    path = folder / "results.json"
    harness = {"harness": runs.read_json(path).get("harness")} if path.exists() else {}
    versions = {f"version.{score['task']}": score["version"] for _, score in _scores(folder) if score.get("version")}
    return {**harness, **versions}


def _check_something_shared(
    folders: tuple[Path, Path],
    manifests: tuple[dict[str, Any], dict[str, Any]],
    scores: tuple[list[tuple[int, dict[str, Any]]], list[tuple[int, dict[str, Any]]]],
) -> None:
    a, b = manifests
    policies, data = (
        [complete(each["settings"]).get("policy") for each in manifests],
        [each["inputs"].get("preferences_sha256") for each in manifests],
    )
    measured = [{(score["task"], score["metric"]) for _, score in its} for its in scores]
    if a["recipe"] != b["recipe"] and policies[0] != policies[1] and data[0] != data[1] and not measured[0] & measured[1]:
        raise UserError(
            f"{folders[0]} is of recipe {a['recipe']} and {folders[1]} of {b['recipe']}: other policies, other preferences, "
            "and no score that both have, so there is nothing to compare"
        )


# How much it matters

Spread = dict[tuple[int, str, str], tuple[float, int]]  # of an iterate's score: standard deviation and degrees of freedom


def _scores(folder: Path) -> list[tuple[int, dict[str, Any]]]:
    """Every score of a run with its iteration, as far as the run went."""
    files = sorted(folder.glob("iteration-*/scores.json"), key=lambda file: int(file.parent.name.removeprefix("iteration-")))
    return [
        (int(file.parent.name.removeprefix("iteration-")), score) for file in files for score in first_difference.scores_of(file)
    ]


def _spread(folders: Sequence[Path]) -> tuple[Spread, int]:
    """The spread over seeds of each score, and how many runs it was taken from.

    It is pooled over the groups of runs that differ in nothing but the seed, and that one of the folders given belongs to.
    """
    wanted = {manifest(folder).get("settings_sha256") for folder in folders}
    groups: dict[str, dict[int, Path]] = {}
    for folder in dict.fromkeys(_with_siblings(folders)):
        its = manifest(folder)
        if its.get("settings_sha256") in wanted:
            groups.setdefault(str(its.get("settings_sha256")), {}).setdefault(int(its["seed"]), folder)
    used = [list(group.values()) for group in groups.values() if len(group) >= FEWEST]
    sums: dict[tuple[int, str, str], list[tuple[float, int]]] = {}
    for group in used:
        values: dict[tuple[int, str, str], list[float]] = {}
        for folder in group:
            for iteration, score in _scores(folder):
                values.setdefault((iteration, score["task"], score["metric"]), []).append(float(score["value"]))
        for key, its_values in values.items():
            if len(its_values) >= FEWEST:
                freedom = len(its_values) - 1
                sums.setdefault(key, []).append((statistics.variance(its_values) * freedom, freedom))
    pooled = {key: (sum(s for s, _ in parts), sum(f for _, f in parts)) for key, parts in sums.items()}
    return {key: (math.sqrt(total / freedom), freedom) for key, (total, freedom) in pooled.items()}, sum(map(len, used))


def _with_siblings(folders: Sequence[Path]) -> Iterator[Path]:
    """The runs given, and the finished ones that lie beside them: a sweep's seeds are neighbours."""
    for folder in folders:
        resolved = folder.resolve()
        yield resolved
        for other in sorted(resolved.parent.glob("*/results.json")):
            if (other.parent / "manifest.json").exists() and runs.read_json(other).get("complete"):
                yield other.parent


def _changes(scores: tuple[list[tuple[int, dict[str, Any]]], ...], spread: Spread) -> Iterator[Change]:
    others = {(iteration, score["task"], score["metric"]): score for iteration, score in scores[1]}
    shared = [(iteration, score) for iteration, score in scores[0] if (iteration, score["task"], score["metric"]) in others]
    for iteration, score in shared:
        key = (iteration, score["task"], score["metric"])
        sd, limit = _noise(spread.get(key), int(score.get("n") or 0), len(shared))
        other = others[key]
        items = (int(score.get("n") or 0), int(other.get("n") or 0))
        yield Change(*key, float(score["value"]), float(other["value"]), sd, limit, score.get("stderr"), items)


def _noise(spread: tuple[float, int] | None, items: int, scores: int) -> tuple[float | None, float | None]:
    """Standard deviation over seeds, at least one item's worth, and what two seeds differ by with probability ALPHA / scores."""
    from scipy.special import stdtrit

    if spread is None:
        return None, None
    sd, freedom = max(spread[0], 1 / items if items else 0.0), spread[1]
    return sd, float(stdtrit(freedom, 1 - ALPHA / scores / 2)) * sd * math.sqrt(2)


# For the terminal


def render(comparison: Comparison) -> "RenderableType":
    """The three layers, each begun with its sentence."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    what, where, how_much = comparison.summary
    parts: list[Any] = [Text(f"A {comparison.a}\nB {comparison.b}"), Text(f"\nWhat differs: {what}", "bold")]
    if comparison.differences:
        table = Table("key", "A", "B", "effect", "known about it")
        for column in table.columns:
            column.overflow = "fold"
        for each in comparison.differences:
            known = each.effect.size + (f" [{each.effect.source}]" if each.effect.source else "")
            cells = (each.key, _short(each.a), _short(each.b), each.effect.sort.value, known)
            table.add_row(*map(Text, cells))
        parts.append(table)
    parts.append(Text(f"\nWhere they first part: {where}", "bold"))
    parts += [Text(f"  {line}") for line in comparison.walk.unfinished]
    parts.append(Text(f"\nHow much it matters: {how_much}", "bold"))
    moved = [change for change in comparison.changes if change.difference != 0]
    if moved:
        table = Table("iteration", "score", "A", "B", "difference", "in words")
        for change in moved:
            numbers = (f"{change.a:.4f}", f"{change.b:.4f}", f"{change.difference:+.4f}")
            table.add_row(str(change.iteration), f"{change.task} {change.metric}", *numbers, change.words)
        parts.append(table)
    return Group(*parts)


def _named(change: Change) -> str:
    return f"{change.task} {change.metric} of iterate {change.iteration}, {change.a:.4f} → {change.b:.4f}"


def _short(value: Any) -> str:
    """A value in a line; a hash by its beginning."""
    text = "absent" if value is None else str(value)
    return f"{text[:12]}…" if len(text) == 64 and " " not in text else text
