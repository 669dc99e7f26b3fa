"""A sweep: a recipe, and the matrix of methods, settings and seeds. Each cell of the matrix is one run."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Annotated, Any

from pydantic import Field, JsonValue, model_validator

from spac_repro import recipes
from spac_repro.data.row_sources import local_path
from spac_repro.documents.errors import user_error
from spac_repro.documents.packaged import PackagedDocument
from spac_repro.errors import UserError
from spac_repro.recipe import Run

Value = JsonValue
NotNegative = Annotated[int, Field(ge=0)]


class Sweep(PackagedDocument):
    """A sweep file. It has one run for each combination of the values in `vary`, a method and a seed.

    Attributes:
        name: name of the sweep, and of its folder in runs/.
        summary: one line about what it compares.
        recipe: name of a recipe, or a YAML file.
        seeds: random seeds.
        methods: training methods.
        settings: settings that are changed in every run, by dotted key.
        vary: settings that differ between runs: by dotted key, the list of values. All combinations are run.
        preferences: preference pairs, as `train --preferences` takes them.
        questions: folder of leaderboard questions, as `train --questions` takes it.
    """

    kind = "sweep"
    folder = "launchers/sweeps"

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    summary: str
    recipe: str
    seeds: Annotated[list[NotNegative], Field(min_length=1)]
    methods: Annotated[list[str], Field(min_length=1)]
    settings: dict[str, Value] = Field(default_factory=dict)
    vary: dict[str, Annotated[list[Value], Field(min_length=1)]] = Field(default_factory=dict)
    preferences: str | None = None
    questions: str | None = None

    @model_validator(mode="after")
    def _no_duplicates(self) -> "Sweep":
        lists: dict[str, list[Any]] = {"seeds": self.seeds, "methods": self.methods, **self.vary}
        for key, values in lists.items():
            if len({json.dumps(value) for value in values}) < len(values):
                raise ValueError(f"{key} contains a value twice: {values}")
        if both := sorted({*self.settings} & {*self.vary}):
            raise ValueError(f"{both[0]} is in `settings` and in `vary`; remove it from one of them")
        return self


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep.

    Attributes:
        name: path of the run folder below the sweep's folder, e.g. "spac/seed-1" or "preference_weight=3/spac/seed-1".
        recipe: name of the recipe, or a file.
        method: training method.
        seed: random seed.
        settings: changed settings, as KEY=VALUE for `train --set`.
        varied: the settings of `vary`, by dotted key.
        preferences: for `train --preferences`.
        questions: for `train --questions`.
        settings_sha256: digest of all settings of the run, as in its manifest.
        start_sha256: digest of what determines iteration 0. Runs with an equal one share their start policy.
        processes: number of training processes.
    """

    name: str
    recipe: str
    method: str
    seed: int
    settings: tuple[str, ...]
    varied: Mapping[str, Value]
    preferences: str | None
    questions: str | None
    settings_sha256: str
    start_sha256: str
    processes: int

    def arguments(self) -> list[str]:
        """The arguments of `spac-repro train` for this run, without the run folder."""
        options = ["--recipe", self.recipe, "--method", self.method, "--seed", str(self.seed)]
        for setting in self.settings:
            options += ["--set", setting]
        for option, value in (("--preferences", self.preferences), ("--questions", self.questions)):
            options += [option, value] if value else []
        return options

    def as_json(self) -> dict[str, Any]:
        """Return the run as sweep.json stores it."""
        return asdict(self)


def runs(sweep: Sweep, overrides: Sequence[str] = ()) -> list[SweepRun]:
    """List the runs of a sweep: by combination of `vary`, then by method, then by seed, each in the order of the file.

    Args:
        sweep: the sweep file.
        overrides: KEY=VALUE, changed in every run.

    Raises:
        UserError: a recipe, method or setting does not exist, a value is out of range, or two runs would have the same name.
    """
    result = list(_runs(sweep, overrides))
    names: set[str] = set()
    for run in result:
        if run.name in names:
            raise UserError(f"sweep {sweep.name}: two runs would be called {run.name}; vary other keys or values")
        names.add(run.name)
    return result


def _runs(sweep: Sweep, overrides: Sequence[str]) -> Iterator[SweepRun]:
    source = ["data.source=file", "data.name=null", "data.revision=null"] if _exists(sweep.preferences) else []
    common = [*source, *(_as_override(key, value) for key, value in sweep.settings.items()), *overrides]
    for values in product(*sweep.vary.values()):
        varied = dict(zip(sweep.vary, values, strict=True))
        folder = "".join(f"{_folder_name(key, value)}/" for key, value in varied.items())
        for method in sweep.methods:
            settings = (*common, *(_as_override(key, value) for key, value in varied.items()))
            resolved = _resolve(sweep, method, settings)
            settings_sha256, start_settings = resolved.settings_sha256, resolved.start_settings()
            for seed in sweep.seeds:
                yield SweepRun(
                    name=f"{folder}{method}/seed-{seed}",
                    recipe=_absolute(sweep.recipe),
                    method=method,
                    seed=seed,
                    settings=settings,
                    varied=varied,
                    preferences=_absolute(sweep.preferences),
                    questions=_absolute(sweep.questions),
                    settings_sha256=settings_sha256,
                    start_sha256=hashlib.sha256(json.dumps([seed, start_settings], sort_keys=True).encode()).hexdigest(),
                    processes=resolved.recipe.training.processes,
                )


def _resolve(sweep: Sweep, method: str, settings: Sequence[str]) -> Run:
    """Load the recipe with these settings."""
    try:
        return replace(recipes.load(sweep.recipe, method=method, overrides=settings), seed=sweep.seeds[0])
    except UserError as error:
        raise user_error(f"sweep {sweep.name}, method {method}", str(error)) from None


def _as_override(key: str, value: Value) -> str:
    return f"{key}={json.dumps(value)}"


def _folder_name(key: str, value: Value) -> str:
    """The name of a folder for one value of a varied setting, e.g. "preference_weight=3.0"."""
    return f"{key.rsplit('.', 1)[-1]}={re.sub(r'[^A-Za-z0-9_.+-]', '_', 'null' if value is None else str(value))}"


def _exists(path: str | None) -> bool:
    return path is not None and local_path(path)[0].exists()


def _absolute(source: Any) -> Any:
    """Make a path absolute, because jobs run in another folder. Return the name of a recipe or of a hub data set as it is."""
    if not source:
        return source
    path, split = local_path(str(source))
    return f"{path.resolve()}:{split}" if split else str(path.resolve()) if path.exists() else source
