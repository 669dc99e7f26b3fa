"""results.json: the scores of a run."""

import math
import statistics
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from spac_repro import protocols
from spac_repro.documents.location import NamedSource
from spac_repro.documents.validation import validate
from spac_repro.recipe import RecipeName
from spac_repro.runs import files

SCHEMA = 2  # 1 called the digest of the settings settings_digest


@dataclass(frozen=True)
class Score:
    """One measured number."""

    task: str  # "gold", "mini_arc", "arc_challenge", …
    metric: str  # "reward", "acc_norm", "mc2", …
    value: float
    stderr: float | None
    n: int  # items behind the value
    version: str = ""  # the task's version as the harness states it; empty for our own metrics
    higher_is_better: bool = True
    note: str = ""

    @property
    def of_leaderboard(self) -> bool:
        """Whether a task of a suite was asked for it, so that it depends on the evaluation protocol."""
        return bool(self.version) or self.task == "average"

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, for JSON."""
        return asdict(self)


def clustered_standard_error(values: Sequence[float], clusters: Sequence[Hashable]) -> float | None:
    """The standard error of the mean of values that depend on each other within clusters, and not between them.

    With G clusters and N values it is √(G/(G − 1) · Σ_g u_g²)/N, where u_g is the sum of the deviations from the mean in cluster g
    (Liang and Zeger 1986; Cameron and Miller 2015, section II). With one value a cluster it is `standard_error`.

    Args:
        values: [N].
        clusters: [N] the cluster of each value.

    Returns:
        The standard error; None with fewer than two clusters.
    """
    mean = statistics.fmean(values) if values else 0.0
    sums: dict[Hashable, float] = {}
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + value - mean
    if len(sums) < 2:
        return None
    return math.sqrt(len(sums) / (len(sums) - 1) * math.fsum(total**2 for total in sums.values())) / len(values)


def standard_error(values: Sequence[float]) -> float | None:
    """Return the standard error of the mean of independent values; None where there are fewer than two values."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


class IterateScores(BaseModel):
    """The scores of one iterate: of the start policy for iteration 0, of the policy after each later iteration."""

    model_config = ConfigDict(frozen=True)

    iteration: Annotated[int, Field(ge=0)]
    weights_sha256: str = ""
    scores: tuple[Score, ...]


class Results(BaseModel):
    """The scores of every iterate of a run."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = Field(default=SCHEMA, alias="schema")
    recipe: RecipeName
    method: str
    seed: int
    complete: bool
    settings_sha256: str = Field(validation_alias=AliasChoices("settings_sha256", "settings_digest"))
    weights_sha256: str  # of the last iterate
    harness: str | None = ""
    protocol: str = protocols.CURRENT  # of the leaderboard scores
    # Leaderboard questions that are also preference prompts; version 0.1 wrote it as "overlap".
    contamination: dict[str, Any] | None = Field(default=None, validation_alias=AliasChoices("contamination", "overlap"))
    iterations: tuple[IterateScores, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the content of results.json. It names the protocol where that is not the current one."""
        return self.model_dump(mode="json", by_alias=True, exclude={"protocol"} if self.protocol == protocols.CURRENT else None)


def read(path: Path) -> Results:
    """Read a run's results.

    Raises:
        UserError: The file cannot be read, is not valid, or needs a newer version.
    """
    content = files.read_json(path)
    if isinstance(content, dict):
        files.check_schema(path, content, SCHEMA)
    return validate(Results, content, NamedSource(str(path)), remedy="repeat the run's `train` command to repair it")
