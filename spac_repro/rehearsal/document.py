"""rehearsal.json: what a rehearsal measured, and how often the whole run does it. What follows from it is computed anew."""

from collections.abc import Mapping
from itertools import pairwise, product
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from spac_repro.documents import strict_json
from spac_repro.documents.base_model import Settings
from spac_repro.documents.errors import one_line
from spac_repro.errors import UserError
from spac_repro.runs import files
from spac_repro.runs.manifest import leaf_differences

FILE = "rehearsal.json"
SCHEMA: Literal[1] = 1
SIZES = (0.5, 1.0)  # of the rows of a visit, as a share of the largest

# Numbers that a machine may measure: products of a few of them stay finite.
Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
Positive = Annotated[int, Field(gt=0, le=2**63 - 1)]
Amount = Annotated[float, Field(ge=0, le=1e18, allow_inf_nan=False)]
Rate = Annotated[float, Field(ge=1, le=1e24, allow_inf_nan=False)]


class Work(Settings):
    """How often the whole run does a stage, and how much of it at a time.

    Attributes:
        count: times.
        times: tokens of one time, as a multiple of those of a visit of size 1.
        most: what is in memory at once, as a multiple of a visit of size 1.
        most_tokens: the same, of stages whose memory depends on the tokens of a forward pass.
        by_rows: the time depends on the rows and not on the tokens.
    """

    count: Amount
    times: Amount = 1.0
    most: Amount = 1.0
    most_tokens: Amount | None = None
    by_rows: bool = False


class Measured(Settings):
    """A stage of a visit: the median of the times that it occurred, and the largest peaks.

    Attributes:
        seconds: without the spans inside it.
        layer_seconds: of these, in the policy's layers; 0 where they are not known.
        update_seconds: of these, in the optimizer's update, which takes all parameters.
        tokens: that passed the policy.
        most_tokens: of a forward pass.
        host: peak bytes of a process.
        device: peak bytes on a device; None without a GPU.
    """

    seconds: Amount
    layer_seconds: Amount = 0.0
    update_seconds: Amount = 0.0
    tokens: Amount
    most_tokens: Count
    host: Count
    device: Count | None


class Visit(Settings):
    """One pass through all stages."""

    round: Count
    layers: Positive
    size: float
    stages: dict[str, Measured]


class Machine(Settings):
    """The machine that rehearsed.

    Attributes:
        name: processor or GPU.
        processes_here: processes of the rehearsal on this machine.
        host: bytes of memory.
        device: bytes of a GPU's memory; None without one.
        disk: free bytes where the rehearsal lay.
        flops: measured rate of a matrix product, per process.
    """

    name: str
    processes_here: Positive
    host: Positive
    device: Positive | None
    disk: Count
    flops: Rate


class Rehearsal(Settings):
    """A rehearsal.

    Attributes:
        recipe: its name.
        settings_sha256: of the run as it was asked for.
        pairs: preference pairs of the run.
        processes: that the run asks for.
        rehearsed_processes: that rehearsed.
        asks_for_gpus: whether the recipe refuses a machine without GPUs.
        environment: as a run's manifest describes it.
        rows: where the rows come from.
        shape: where the shape comes from.
        tokens: most tokens of a batch; None: the recipe's batches.
        layers: of the whole model.
        depths: that were rehearsed.
        parameters: by number of layers, those of the whole model included.
        untouched: parameters that take part in no product.
        passes: forward passes that an optimizer step costs, by its operations.
        notes: what the user must know.
        proved: what was seen to work.
    """

    schema_: Literal[1] = Field(SCHEMA, alias="schema")
    recipe: str
    method: str
    settings_sha256: str
    pairs: Positive
    processes: Positive
    rehearsed_processes: Positive
    asks_for_gpus: bool
    environment: dict[str, Any]
    rows: str
    shape: str
    tokens: Positive | None
    layers: Positive
    depths: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=2)]
    parameters: dict[Positive, Positive]
    untouched: Count
    passes: Positive
    machine: Machine
    work: dict[str, Work]
    visits: Annotated[tuple[Visit, ...], Field(min_length=1)]
    notes: tuple[str, ...]
    proved: tuple[str, ...]

    @model_validator(mode="after")
    def _check_depths_and_visits(self) -> Self:
        """Check what `extrapolation` takes for granted: rising depths, each at two sizes in each round, and the same stages.

        Raises:
            ValueError: one of these is not so; pydantic makes a ValidationError of it.
        """
        if any(below >= above for below, above in pairwise((*self.depths, self.layers + 1))):
            raise ValueError(f"depths {self.depths} do not rise to at most {self.layers} layers")
        if missing := {*self.depths, self.layers} - {*self.parameters}:
            raise ValueError(f"parameters of {min(missing)} layers are missing")
        if self.untouched >= min(self.parameters.values()):
            raise ValueError(f"{self.untouched} untouched parameters are more than there are")
        rounds, rest = divmod(len(self.visits), len(self.depths) * len(SIZES))
        expected = sorted(product(range(rounds), self.depths, SIZES))
        if rest or sorted((visit.round, visit.layers, visit.size) for visit in self.visits) != expected:
            raise ValueError("the visits are not one of each size and depth in each round")
        stages = {*self.visits[0].stages}
        if not stages or any({*visit.stages} != stages for visit in self.visits):
            raise ValueError("the visits have no stages, or not the same ones")
        return self

    @property
    def rounds(self) -> int:
        """How often every visit was repeated."""
        return 1 + max(visit.round for visit in self.visits)


def write(path: Path, rehearsal: Rehearsal) -> None:
    """Write the document."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(path, rehearsal.model_dump(mode="json", by_alias=True))


def read(path: Path) -> Rehearsal:
    """Read the document.

    Raises:
        UserError: it is missing or damaged, or not of this version.
    """
    content = strict_json.read(path, dict)
    try:
        return Rehearsal.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the document"
        raise UserError(f"{path}: {where}: {one_line(first['msg'].removeprefix('Value error, '), 120)}; rehearse again") from None


def differences(rehearsal: Rehearsal, environment: Mapping[str, Any]) -> list[str]:
    """What differs between the environment of a rehearsal and another one, by dotted name.

    `deterministic` is left out: every run switches it on, and a dry run has not.
    """
    return [key for key, _, _ in leaf_differences(rehearsal.environment, dict(environment)) if key != "deterministic"]
