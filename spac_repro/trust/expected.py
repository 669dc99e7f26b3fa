"""The expected_results files: rows of numbers, each with its source.

```yaml
recipe: tiny
alpha: 0.01                  # family-wise, over the primary rows
settings_sha256: {spac: …}   # the settings that a method's rows hold for
sources:
  ours: {kind: measured, commit: …, lock_sha256: …, hardware: …, date: …, seeds: [1, 2, 3, …], command: …, harness: …}
  paper: {kind: published, citation: …}
  table: {kind: not transcribed, citation: …}
rows:
- {source: ours, method: spac, iteration: 3, task: gold, metric: reward, primary: true, value: 0.79, seeds: 10, sd: 0.01}
- {source: paper, method: start, iteration: 0, task: gsm8k, metric: exact_match, value: 0.27,
   tolerance: {value: 0.02, argument: …}}
- {source: table, method: spac, iteration: 1, task: gsm8k, metric: exact_match}
```
"""

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

from spac_repro.documents import yaml_subset
from spac_repro.documents.suggestions import did_you_mean
from spac_repro.documents.validation import validate
from spac_repro.errors import UserError
from spac_repro.runs.verdict import ScoreKey

START = "start"  # the method of scores at iteration 0: the start is the same whatever is trained from it
MIN_SEEDS = 3


Fresh = Mapping[ScoreKey, Sequence[float]]  # one value a run


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _proper_seeds(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(seeds)) < max(len(seeds), MIN_SEEDS) or min(seeds) < 1:
        raise ValueError(f"at least {MIN_SEEDS} different seeds are needed, none of them 0, which is kept for fresh runs")
    return seeds


class Measured(Strict):
    """Our own runs. Seed 0, the one that everybody runs first, is never among them."""

    kind: Literal["measured"]
    commit: str
    lock_sha256: str
    hardware: str
    date: date
    seeds: Annotated[tuple[int, ...], AfterValidator(_proper_seeds)]
    command: str
    harness: str = ""


class Published(Strict):
    kind: Literal["published"]
    citation: str


class NotTranscribed(Strict):
    kind: Literal["not transcribed"]
    citation: str


Source = Annotated[Measured | Published | NotTranscribed, Field(discriminator="kind")]


class Borrowed(Strict):
    """A spread taken from other runs, and why it may be."""

    sd: NonNegativeFloat
    degrees_of_freedom: PositiveInt
    argument: Annotated[str, Field(min_length=1)]


class Argued(Strict):
    """A size in the metric's unit, and why it is this one."""

    value: NonNegativeFloat
    argument: Annotated[str, Field(min_length=1)]


class Row(Strict):
    """One expected number. Which of the optional fields it must have depends on the kind of its source.

    measured: value, seeds (K), sd. published: value, and borrowed or tolerance; harness_shift is added to either.
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
    borrowed: Borrowed | None = None
    tolerance: Argued | None = None
    harness_shift: Argued | None = None
    effect: PositiveFloat | None = None  # the deviation that the row is there to find; default: the distance from the start
    rounding: NonNegativeFloat | None = None  # absolute; smaller differences are none
    stderr: NonNegativeFloat | None = None  # the harness's, for information
    n: PositiveInt | None = None  # items behind the value
    version: str | None = None  # of the task
    note: str = ""

    @property
    def key(self) -> ScoreKey:
        return ScoreKey(self.method, self.task, self.metric, self.iteration)


NEEDED = {"measured": ("value", "seeds", "sd"), "published": ("value",), "not transcribed": ()}
ALLOWED = {
    "measured": ("value", "seeds", "sd", "rounding"),
    "published": ("value", "borrowed", "tolerance", "harness_shift", "rounding"),
    "not transcribed": (),
}


class Expected(Strict):
    """An expected_results file.

    `settings_sha256` names, for each method, the settings that its rows hold for; a run with others has no row here. A method
    that is left out has rows for any settings.
    """

    recipe: str
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.01
    settings_sha256: dict[str, str] = {}
    sources: dict[str, Source]
    rows: tuple[Row, ...]

    def kind(self, row: Row) -> str:
        return self.sources[row.source].kind

    def as_yaml(self) -> str:
        return yaml_subset.dump(self.model_dump(mode="json", exclude_defaults=True))


def measured_rows(
    fresh: Fresh, source: str, *, primary: Callable[[ScoreKey], bool] = lambda key: False, **information: Any
) -> tuple[Row, ...]:
    """Rows from what K runs measured: mean, K and standard deviation (with K - 1) of each key's values.

    `information` goes into every row: effect, rounding, n, version. Raises UserError for fewer than 3 values or one that is not
    finite: no tolerance could be computed from them.
    """
    rows = []
    for key, values in fresh.items():
        if len(values) < MIN_SEEDS or not all(map(math.isfinite, values)):
            raise UserError(f"{key}: {len(values)} values; a row is made of at least {MIN_SEEDS}, all of them finite")
        mean = math.fsum(values) / len(values)
        sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
        known = {**key._asdict(), "source": source, "primary": primary(key), "value": mean, "seeds": len(values), "sd": sd}
        rows.append(Row.model_validate({**known, **information}))
    return tuple(rows)


def expected_path(recipe: str) -> Path:
    """Where the package keeps the expected results of a recipe, whether there are any or not."""
    return Path(str(files("spac_repro"))) / "expected_results" / f"{recipe}.yaml"


def load_expected(path: Path | str) -> Expected:
    """Read and check an expected_results file. Raises UserError naming the file, the line and the key."""
    document = yaml_subset.read(Path(path), missing_file_remedy="name an expected_results file")
    expected = validate(Expected, document.value, document)
    seen: set[ScoreKey] = set()
    for index, row in enumerate(expected.rows):
        if fault := _row_problem(expected, row, seen):
            raise document.error(("rows", index), f"({row.key}) {fault}")
        seen.add(row.key)
    return expected


def _row_problem(expected: Expected, row: Row, seen: set[ScoreKey]) -> str | None:
    """What is wrong with a row beyond its fields' types, or None."""
    if row.key in seen:
        return "occurs twice; remove one"
    if row.source not in expected.sources:
        near = did_you_mean(row.source, expected.sources) or f"; there are {', '.join(expected.sources)}"
        return f"unknown source {row.source!r}{near}"
    source, kind = expected.sources[row.source], expected.kind(row)
    for field in NEEDED[kind]:
        if getattr(row, field) is None:
            return f"lacks {field}, which a {kind} row must have"
    statistics = {field for fields in ALLOWED.values() for field in fields}
    for field in sorted(statistics - set(ALLOWED[kind])):
        if getattr(row, field) is not None:
            return f"has {field}, which a {kind} row cannot have"
    if isinstance(source, Measured) and row.seeds != len(source.seeds):
        return f"seeds is {row.seeds}, and its source {row.source!r} lists {len(source.seeds)}"
    if kind == "published" and (row.borrowed is None) == (row.tolerance is None):
        return "a published row must have either borrowed or tolerance"
    return None
