"""What a sweep is: a recipe, and the matrix of methods, settings and seeds whose cells are runs."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, JsonValue, model_validator

from spac_repro import recipes
from spac_repro.documents.errors import user_error
from spac_repro.documents.packaged import PackagedDocument
from spac_repro.errors import UserError
from spac_repro.recipe import Run

Value = JsonValue
NotNegative = Annotated[int, Field(ge=0)]


class Sweep(PackagedDocument):
    """A sweep file. A cell is one (values of `vary`, method, seed)."""

    kind = "sweep"
    folder = "launchers/sweeps"

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    summary: str
    recipe: str  # a recipe's name or a YAML file
    seeds: Annotated[list[NotNegative], Field(min_length=1)]
    methods: Annotated[list[str], Field(min_length=1)]
    settings: dict[str, Value] = Field(default_factory=dict)  # the same in every cell
    vary: dict[str, Annotated[list[Value], Field(min_length=1)]] = Field(default_factory=dict)  # every combination of these
    preferences: str | None = None  # as `train --preferences`
    questions: str | None = None  # as `train --questions`

    @model_validator(mode="after")
    def _nothing_twice(self) -> "Sweep":
        lists: dict[str, list[Any]] = {"seeds": self.seeds, "methods": self.methods, **self.vary}
        for key, values in lists.items():
            if len({json.dumps(value) for value in values}) < len(values):
                raise ValueError(f"{key} names something twice: {values}")
        if both := sorted({*self.settings} & {*self.vary}):
            raise ValueError(f"{both[0]} is in `settings` and in `vary`; leave it in one of the two")
        return self


@dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    name: str  # its run folder below the sweep's: "spac/seed-1", "preference_weight=3/spac/seed-1"
    recipe: str
    method: str
    seed: int
    settings: tuple[str, ...]  # KEY=VALUE, as for --set
    varied: Mapping[str, Value]
    preferences: str | None
    questions: str | None
    digest: str  # of the run's settings
    start: str  # equal for cells that share iteration 0
    processes: int

    def arguments(self) -> list[str]:
        """What `train` is told, but for the folder."""
        options = ["--recipe", self.recipe, "--method", self.method, "--seed", str(self.seed)]
        for setting in self.settings:
            options += ["--set", setting]
        for option, value in (("--preferences", self.preferences), ("--questions", self.questions)):
            options += [option, value] if value else []
        return options

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(tree: Mapping[str, Any]) -> "Cell":
        return Cell(**{**tree, "settings": tuple(tree["settings"])})


def cells(sweep: Sweep, overrides: Sequence[str] = ()) -> list[Cell]:
    """The cells in the order of the file: by combination, then method, then seed. `overrides` are `--set`s for all of them.

    Raises:
        UserError: an unknown recipe, method or key, or a value out of range.
    """
    found = list(_cells(sweep, overrides))
    seen: set[str] = set()
    for cell in found:
        if cell.name in seen:
            raise UserError(f"sweep {sweep.name}: two cells would be called {cell.name}; vary other keys or values")
        seen.add(cell.name)
    return found


def _cells(sweep: Sweep, overrides: Sequence[str]) -> Iterator[Cell]:
    local = ["data.source=file", "data.name=null", "data.revision=null"] if _is_file(sweep.preferences) else []
    fixed = [*local, *(_setting(key, value) for key, value in sweep.settings.items()), *overrides]
    for values in product(*sweep.vary.values()):
        varied = dict(zip(sweep.vary, values, strict=True))
        folder = "".join(f"{_part(key, value)}/" for key, value in varied.items())
        for method in sweep.methods:
            settings = (*fixed, *(_setting(key, value) for key, value in varied.items()))
            run = _load(sweep, method, settings)
            digest, start = run.settings_sha256, run.start_settings()
            for seed in sweep.seeds:
                yield Cell(
                    name=f"{folder}{method}/seed-{seed}",
                    recipe=_absolute(sweep.recipe),
                    method=method,
                    seed=seed,
                    settings=settings,
                    varied=varied,
                    preferences=_absolute(sweep.preferences),
                    questions=_absolute(sweep.questions),
                    digest=digest,
                    start=hashlib.sha256(json.dumps([seed, start], sort_keys=True).encode()).hexdigest(),
                    processes=run.recipe.training.processes,
                )


def _load(sweep: Sweep, method: str, settings: Sequence[str]) -> Run:
    try:
        return replace(recipes.load(sweep.recipe, method=method, overrides=settings), seed=sweep.seeds[0])
    except UserError as error:
        raise user_error(f"sweep {sweep.name}, method {method}", str(error)) from None


def _setting(key: str, value: Value) -> str:
    return f"{key}={json.dumps(value)}"


def _part(key: str, value: Value) -> str:
    """A varied setting in a folder's name."""
    return f"{key.rsplit('.', 1)[-1]}={re.sub(r'[^A-Za-z0-9_.+-]', '_', 'null' if value is None else str(value))}"


def _is_file(source: str | None) -> bool:
    return source is not None and Path(source).exists()


def _absolute(source: Any) -> Any:
    """Jobs run elsewhere: a file is named by its whole path; the name of a recipe or of a hub data set stays."""
    return str(Path(source).resolve()) if source and Path(source).exists() else source
