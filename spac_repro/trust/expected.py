"""The expected_results files: rows of numbers, each with its source.

```yaml
recipe: tiny
alpha: 0.01                  # family-wise, over the primary rows
settings_sha256: {spac: …}   # the settings that a method's rows hold for
sources:
  ours: {kind: measured, commit: …, lock_sha256: …, hardware: …, date: …, seeds: [1, 2, 3, …], command: …, harness: …}
                               # lost: {replaced_by: …, argument: …} if the commit is not in the git history
  paper: {kind: published, citation: …}
  table: {kind: not transcribed, citation: …}
rows:
- {source: ours, method: spac, iteration: 3, task: gold, metric: reward, primary: true, value: 0.79, seeds: 10, sd: 0.01}
- {source: ours, method: spac, iteration: 3, task: mini_mmlu, metric: acc, value: 0.44, seeds: 10, sd: 0.08,
   gain: {value: -0.01, sd: 0.02}}                # or humps: {others: [{value: 0.7, runs: 1}], argument: …} (judged_values.py)
- {source: paper, method: start, iteration: 0, task: gsm8k, metric: exact_match, value: 0.27,
   tolerance: {value: 0.02, argument: …}}
- {source: table, method: spac, iteration: 1, task: gsm8k, metric: exact_match}
observations:                  # what other groups measured; published rows without a tolerance get theirs from it (group_spread.py)
- {source: other, method: spin, iteration: 1, weights: same, scores: {gsm8k: 0.31}}
```
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

from spac_repro import protocols
from spac_repro.documents import yaml_subset
from spac_repro.documents.errors import one_line
from spac_repro.documents.suggestions import did_you_mean
from spac_repro.documents.validation import validate
from spac_repro.errors import UserError
from spac_repro.recipe import RECIPE_NAME
from spac_repro.runs.verdict import ScoreKey
from spac_repro.trust.expected_parts import ArguedValue, BorrowedSpread, Gain, Humps, LostCommit, StrictModel
from spac_repro.trust.group_spread import GroupSpread, evaluation_spread, method_tolerance

START = "start"  # the method of scores at iteration 0: all methods train from the same start policy
MIN_SEEDS = 3
SAME_WEIGHTS = "what groups differ by that scored the same weights"
OWN_TRAINING = "the gain over the start, which groups that trained on their own did not repeat, and what evaluations differ by"


FreshValues = Mapping[ScoreKey, Sequence[float]]  # for each score, one value a run


def _check_seeds(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(seeds)) < max(len(seeds), MIN_SEEDS) or min(seeds) < 1:
        raise ValueError(f"at least {MIN_SEEDS} different seeds are needed, none of them 0, which is kept for fresh runs")
    return seeds


class Measured(StrictModel):
    """The source of rows that our own runs measured. Seed 0 is kept for fresh runs and is never among them."""

    kind: Literal["measured"]
    commit: str
    lost: LostCommit | None = None  # where the commit is not in the git history
    lock_sha256: str
    hardware: str
    date: date
    seeds: Annotated[tuple[int, ...], AfterValidator(_check_seeds)]
    command: str
    harness: str = ""
    protocol: str = protocols.CURRENT  # under which the leaderboard's tasks were asked

    @property
    def commit_in_history(self) -> str:
        """The commit, or the one that replaced it."""
        return self.lost.replaced_by if self.lost else self.commit

    @property
    def lost_commit_note(self) -> str:
        """What to say where the code of the rows is named; empty where their commit is not lost."""
        if self.lost is None:
            return ""
        return f"; the rows' own commit {self.commit[:8]} is lost, and {self.lost.replaced_by[:8]} replaced it"


class Published(StrictModel):
    """The source of rows that were published elsewhere."""

    kind: Literal["published"]
    citation: str
    protocol: protocols.Name | None = None  # of the evaluation; None where it is not stated


class NotTranscribed(StrictModel):
    """A published source whose numbers were not at hand; its rows verify nothing."""

    kind: Literal["not transcribed"]
    citation: str


Source = Annotated[Measured | Published | NotTranscribed, Field(discriminator="kind")]


class ExpectedRow(StrictModel):
    """One expected number. The kind of its source decides which optional fields it must have.

    measured: value, seeds (K), sd. published: value, and borrowed or tolerance; harness_shift is added to the tolerance.
    not transcribed: none of these.
    """

    method: str
    task: str
    metric: str
    iteration: NonNegativeInt | None = None
    source: str
    primary: bool = False
    value: float | None = None
    seeds: Annotated[int, Field(ge=MIN_SEEDS)] | None = None
    sd: NonNegativeFloat | None = None
    borrowed: BorrowedSpread | None = None
    tolerance: ArguedValue | None = None
    harness_shift: ArguedValue | None = None
    skewness: ArguedValue | None = None  # of the score over seeds, without its sign, where it is known
    gain: Gain | None = None  # of secondary rows: a run is judged by its gain over its own start
    humps: Humps | None = None  # of secondary rows: a run is judged by the nearest of the value and these
    effect: PositiveFloat | None = None  # deviation that the row is there to find; default: distance from the start policy
    rounding: NonNegativeFloat | None = None  # absolute; a smaller difference counts as none
    stderr: NonNegativeFloat | None = None  # the harness's, for information
    n: PositiveInt | None = None  # items behind the value
    version: str | None = None  # of the task
    note: str = ""

    @property
    def key(self) -> ScoreKey:
        """Method, task, metric and iteration."""
        return ScoreKey(self.method, self.task, self.metric, self.iteration)


class Observation(StrictModel):
    """The scores that another group published for a method: no rows, but what the spread between groups is derived from."""

    source: str
    method: str
    iteration: NonNegativeInt
    weights: Literal["same", "own"]  # those that the rows are about, or the group's own training
    scores: dict[str, float]  # by task
    quoted_by: str = ""  # where the scores were read, if not at their source
    note: str = ""


REQUIRED_FIELDS = {"measured": ("value", "seeds", "sd"), "published": ("value",), "not transcribed": ()}
ALLOWED_FIELDS = {
    "measured": ("value", "seeds", "sd", "skewness", "gain", "humps", "rounding"),
    "published": ("value", "borrowed", "tolerance", "harness_shift", "rounding"),
    "not transcribed": (),
}


class ExpectedResults(StrictModel):
    """An expected_results file.

    `settings_sha256` holds the digest of the settings that each method's rows apply to. The rows of a method without a digest apply
    to any settings.
    """

    recipe: str
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.01
    settings_sha256: dict[str, str] = Field(default_factory=dict)
    sources: dict[str, Source]
    rows: tuple[ExpectedRow, ...]
    observations: tuple[Observation, ...] = ()

    def source_kind(self, row: ExpectedRow) -> str:
        """The kind of a row's source: measured, published or not transcribed."""
        return self.sources[row.source].kind

    def group_spread(self, task: str) -> GroupSpread | None:
        """The spread between groups of a task's score, from rows and observations of the same weights; None if not known."""
        trainings: dict[str, dict[int, list[float]]] = {}
        for row in self.rows:
            if row.task == task and row.value is not None and row.iteration is not None and self.source_kind(row) == "published":
                trainings.setdefault(row.method, {}).setdefault(row.iteration, []).append(row.value)
        for observed in self.observations:
            if observed.weights == "same" and task in observed.scores:
                trainings.setdefault(observed.method, {}).setdefault(observed.iteration, []).append(observed.scores[task])
        return evaluation_spread(list(trainings.values()))

    def with_tolerances(self) -> "ExpectedResults":
        """The file with the tolerances that follow from the observations, in published rows that state none."""
        starts = {(row.task, row.metric): row.value for row in self.rows if row.method == START}
        spreads = {task: self.group_spread(task) for task in {row.task for row in self.rows}} if self.observations else {}
        rows = []
        for row in self.rows:
            start, spread = starts.get((row.task, row.metric)), spreads.get(row.task)
            stated = row.borrowed is not None or row.tolerance is not None
            if stated or row.value is None or spread is None or start is None or self.source_kind(row) != "published":
                rows.append(row)
            elif row.method == START:
                borrowed = BorrowedSpread(sd=spread.sd, degrees_of_freedom=spread.degrees_of_freedom, argument=SAME_WEIGHTS)
                rows.append(row.model_copy(update={"borrowed": borrowed}))
            else:
                width = method_tolerance(row.value, start, spread, self.alpha)
                rows.append(row.model_copy(update={"tolerance": ArguedValue(value=width, argument=OWN_TRAINING)}))
        return self.model_copy(update={"rows": tuple(rows)})

    def as_yaml(self) -> str:
        """The file's content; fields at their defaults are left out."""
        return yaml_subset.dump(self.model_dump(mode="json", exclude_defaults=True))


def measured_rows(
    fresh: FreshValues, source: str, *, primary: Callable[[ScoreKey], bool] = lambda key: False, **information: Any
) -> tuple[ExpectedRow, ...]:
    """Make rows from the scores of K runs: mean, K and standard deviation (K − 1) of each score.

    Args:
        fresh: for each score, one value a run.
        source: name of the source in the file.
        primary: whether the row of a score is primary.
        information: further fields of every row: effect, rounding, n, version.

    Raises:
        UserError: fewer than 3 values of a score, or a value that is not finite; no tolerance can be computed from them.
    """
    rows = []
    for key, values in fresh.items():
        if len(values) < MIN_SEEDS or not all(map(math.isfinite, values)):
            raise UserError(f"{key}: {len(values)} values; a row is made of at least {MIN_SEEDS}, all of them finite")
        mean = math.fsum(values) / len(values)
        sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
        known = {**key._asdict(), "source": source, "primary": primary(key), "value": mean, "seeds": len(values), "sd": sd}
        rows.append(ExpectedRow.model_validate({**known, **information}))
    return tuple(rows)


def expected_path(recipe: str) -> Path:
    """The path of the package's expected results for a recipe; the file need not exist.

    Raises:
        UserError: the name is not a recipe's name; a path would lead to a file that is not the package's.
    """
    if not RECIPE_NAME.fullmatch(recipe):
        raise UserError(
            f"{one_line(recipe, 100)!r} is not the name of a recipe; give a name, and --expected for a file of your own"
        )
    return Path(str(files("spac_repro"))) / "expected_results" / f"{recipe}.yaml"


def load_expected(path: Path | str) -> ExpectedResults:
    """Read and check an expected_results file. Rows get the tolerances that follow from the file's observations.

    Raises:
        UserError: the file is wrong; the message names file, line and key.
    """
    return check_expected(yaml_subset.read(Path(path), missing_file_remedy="name an expected_results file"))


def check_expected(document: yaml_subset.Document) -> ExpectedResults:
    """Check the content of an expected_results file, and return it with the tolerances that follow from its observations.

    Raises:
        UserError: the content is wrong; the message names document, line and key.
    """
    expected = validate(ExpectedResults, document.value, document)
    for place, source in [
        *((("rows", index), row.source) for index, row in enumerate(expected.rows)),
        *((("observations", index), observed.source) for index, observed in enumerate(expected.observations)),
    ]:
        if source not in expected.sources:
            near = did_you_mean(source, expected.sources) or f"; there are {', '.join(expected.sources)}"
            raise document.error((*place, "source"), f"unknown source {source!r}{near}")
    expected = expected.with_tolerances()
    seen: set[ScoreKey] = set()
    for index, row in enumerate(expected.rows):
        for problem in _row_problems(expected, row, seen):
            raise document.error(("rows", index), f"({row.key}) {problem}")
        seen.add(row.key)
    for index, observed in enumerate(expected.observations):
        for problem in _observation_problems(expected, observed):
            raise document.error(("observations", index), problem)
    return expected


def _row_problems(expected: ExpectedResults, row: ExpectedRow, seen: set[ScoreKey]) -> Iterator[str]:
    """What is wrong with a row beyond the types of its fields, most important first."""
    if row.key in seen:
        yield "occurs twice; remove one"
    yield from _field_problems(row, expected.source_kind(row))
    source = expected.sources[row.source]
    if isinstance(source, Measured) and row.seeds != len(source.seeds):
        yield f"seeds is {row.seeds}, and its source {row.source!r} lists {len(source.seeds)}"


def _observation_problems(expected: ExpectedResults, observed: Observation) -> Iterator[str]:
    """What is wrong with an observation beyond the types of its fields."""
    tasks = {row.task for row in expected.rows}
    if unknown := next((task for task in observed.scores if task not in tasks), None):
        yield f"no row has the task {unknown!r}{did_you_mean(unknown, tasks)}"
    if not isinstance(expected.sources[observed.source], Published):
        yield f"its source {observed.source!r} is not published, so it is no other group's"
    places = [(each.source, each.method, each.iteration) for each in expected.observations]
    if places.count((observed.source, observed.method, observed.iteration)) > 1:
        yield f"{observed.method} iteration {observed.iteration} of {observed.source!r} occurs twice; remove one"


def _field_problems(row: ExpectedRow, kind: str) -> Iterator[str]:
    """Fields that a row of this kind of source lacks or must not have."""
    for field in REQUIRED_FIELDS[kind]:
        if getattr(row, field) is None:
            yield f"lacks {field}, which a {kind} row must have"
    statistics = {field for fields in ALLOWED_FIELDS.values() for field in fields}
    for field in sorted(statistics - set(ALLOWED_FIELDS[kind])):
        if getattr(row, field) is not None:
            yield f"has {field}, which a {kind} row cannot have"
    if row.gain is not None and (row.humps is not None or not row.iteration):
        yield "a gain over the start is of a later iterate, and has no humps; remove one of them"
    if row.primary and (row.gain is not None or row.humps is not None):
        yield "a primary row is judged by its value alone; remove its gain and humps, or make it secondary"
    if kind == "published" and (row.borrowed is None) == (row.tolerance is None):
        yield "a published row must have either borrowed or tolerance"
