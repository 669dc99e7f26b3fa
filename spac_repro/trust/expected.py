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
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)

from spac_repro.errors import UserError

START = "start"  # the method of scores at iteration 0: the start is the same whatever is trained from it
MIN_SEEDS = 3


class Key(NamedTuple):
    """What a number is about. `iteration` is None where there is no such thing."""

    method: str
    task: str
    metric: str
    iteration: int | None = None

    def __str__(self) -> str:
        iteration = "" if self.iteration is None else f" iteration {self.iteration}"
        return f"{self.method}{iteration} {self.task} {self.metric}"


Fresh = Mapping[Key, Sequence[float]]  # one value a run


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, coerce_numbers_to_str=True)


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
    def key(self) -> Key:
        return Key(self.method, self.task, self.metric, self.iteration)


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
        content = self.model_dump(mode="json", exclude_defaults=True)
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)


def measured_rows(
    fresh: Fresh, source: str, *, primary: Callable[[Key], bool] = lambda key: False, **information: Any
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
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; name an expected_results file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        at = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{at}: not YAML ({one_line(getattr(error, 'problem', None) or error)})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold the keys {', '.join(Expected.model_fields)}")
    try:
        expected = Expected.model_validate(content)
    except ValidationError as error:
        place, problem = _first_problem(error)
        raise UserError(f"{path}{_line(node, place)}: {_dotted(place)}: {problem}") from error
    seen: set[Key] = set()
    for index, row in enumerate(expected.rows):
        if fault := _row_problem(expected, row, seen):
            raise UserError(f"{path}{_line(node, ('rows', index))}: rows.{index} ({row.key}): {fault}")
        seen.add(row.key)
    return expected


def _row_problem(expected: Expected, row: Row, seen: set[Key]) -> str | None:
    """What is wrong with a row beyond its fields' types, or None."""
    if row.key in seen:
        return "stands there twice; remove one"
    if row.source not in expected.sources:
        return f"unknown source {row.source!r}" + nearest(row.source, expected.sources)
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


def _first_problem(error: ValidationError) -> tuple[tuple[str | int, ...], str]:
    """Where the first problem is and what it is; a misspelt key comes before the key that it leaves missing."""
    problems = error.errors()
    first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    place = first["loc"]
    kind = place[2] if place[0] == "sources" and len(place) > 3 else None
    if kind is not None:  # the path leads through the kind of source that was chosen, a level that the file does not have
        place = (*place[:2], *place[3:])
    if first["type"] == "extra_forbidden":
        return place, "unknown key" + nearest(str(place[-1]), _keys_at(place, kind))
    if first["type"] == "missing":
        return place, "missing"
    return place, one_line(first["msg"]).removeprefix("Value error, ")


def _keys_at(place: tuple[str | int, ...], kind: str | int | None) -> Iterable[str]:
    """The keys that may stand beside the last part of `place`."""
    if place[0] == "sources":
        return (Measured if kind == "measured" else Published).model_fields
    if len(place) == 1:
        return Expected.model_fields
    return (Borrowed if place[-2] == "borrowed" else Row if isinstance(place[-2], int) else Argued).model_fields


def _line(node: Any, place: Iterable[str | int]) -> str:
    """The line on which the deepest part of `place` that the file has begins."""
    for part in place:
        if isinstance(node, yaml.MappingNode):
            below = next((value for key, value in node.value if key.value == str(part)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            below = node.value[part] if part < len(node.value) else None
        else:
            below = None
        if below is None:
            break
        node = below
    return f", line {node.start_mark.line + 1}"


def _dotted(place: Iterable[str | int]) -> str:
    return ".".join(str(part) for part in place)


def nearest(name: str, names: Iterable[str]) -> str:
    """The end of an error about an unknown name: the name that was probably meant, or all that there are."""
    names = list(names)
    near = get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(names)}"


def one_line(text: object) -> str:
    return " ".join(str(text).split())
