"""Parts of expected results: what a row states beside its value, each with its argument where it is not measured."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveInt


class StrictModel(BaseModel):
    """A part of an expected_results file: unknown keys and numbers that are not finite are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LostCommit(StrictModel):
    """Why the commit of a source is not in the git history, and the commit whose code took its place."""

    replaced_by: str
    argument: Annotated[str, Field(min_length=1)]


class BorrowedSpread(StrictModel):
    """A spread that was estimated from other runs, and the argument for using it."""

    sd: NonNegativeFloat
    degrees_of_freedom: PositiveInt
    argument: Annotated[str, Field(min_length=1)]


class ArguedValue(StrictModel):
    """A size in the metric's unit, and the argument for it."""

    value: NonNegativeFloat
    argument: Annotated[str, Field(min_length=1)]


class Gain(StrictModel):
    """How much more a score is than that of the run's own start: mean and standard deviation over the row's seeds."""

    value: float
    sd: NonNegativeFloat


class Hump(StrictModel):
    """A value that a score lies around, known from other runs than the row's."""

    value: float
    runs: PositiveInt


class Humps(StrictModel):
    """Values that a score lies around beside the row's, with its spread, and the argument for them."""

    others: Annotated[tuple[Hump, ...], Field(min_length=1)]
    argument: Annotated[str, Field(min_length=1)]
