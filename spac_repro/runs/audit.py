"""audit.json of an iteration: how well the data's responses and the self-play responses can be told apart.

`data/audit.py` measures it, and says how and why.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from spac_repro.documents.location import NamedSource
from spac_repro.documents.validation import validate
from spac_repro.runs import files

SCHEMA = 1
LEVEL = 0.01  # probability of a false alarm in one iteration, over all its tests together
QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)  # of lengths

Share = Annotated[float, Field(ge=0, le=1)]


class Side(BaseModel):
    """The responses of one column: of the data's `chosen` or `rejected`, or of `selfplay`."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    cut: Share  # without a stop token at the end
    mean_length: float  # in tokens, stop token included
    length_quantiles: Annotated[tuple[int, ...], Field(min_length=len(QUANTILES), max_length=len(QUANTILES))]  # at QUANTILES
    first_tokens: tuple[tuple[str, Share], ...]  # the most frequent ones, as the tokenizer writes them

    @property
    def length_quantile(self) -> dict[float, int]:
        """The quantiles of the lengths, in tokens, by their level."""
        return dict(zip(QUANTILES, self.length_quantiles, strict=True))


class Classifier(BaseModel):
    """How well one trait of a response tells self-play from data.

    Attributes:
        total_variation: Distance of the trait's two distributions, 0 to 1; of lengths in ten bins.
        total_variation_by_chance: The distance to expect where both sides have the same distribution.
        accuracy: Balanced accuracy on held-out prompts, chance 0.5. None with fewer than two prompts.
        stderr: Its standard error, by prompt.
        rendering: Rendering's own share of the accuracy, −0.5 to 0.5.
        non_canonical: The share that non-canonical sampling has in the accuracy.
        p: Of the permutation test of `rendering`.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    total_variation: Share
    total_variation_by_chance: Share
    accuracy: Share | None = None
    stderr: float | None = None
    rendering: float | None = None
    non_canonical: float | None = None
    p: Share | None = None

    @model_validator(mode="after")
    def _has_what_p_is_about(self) -> "Classifier":
        if self.p is not None and None in (self.accuracy, self.rendering, self.non_canonical):
            raise ValueError("p needs an accuracy and its shares")
        return self


class Comparison(BaseModel):
    """One column of the data against self-play."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    first_token: Classifier
    end: Classifier
    length: Classifier

    @property
    def classifiers(self) -> dict[str, Classifier]:
        """The classifiers by what they look at, as a reader calls it."""
        return {"first token": self.first_token, "end": self.end, "length": self.length}


class Audit(BaseModel):
    """The audit of one iteration.

    Attributes:
        rows: Rows that were looked at.
        rows_in_all: Rows of the iteration.
        held_out_rows: Rows of the held-out prompts.
        sides: The responses that the method uses, by column.
        non_canonical: Share of self-play responses that encoding anew gives other tokens, and the same text.
        rewritten: Share of self-play responses that encoding anew gives another text.
        comparisons: By column of the data; empty where the method samples no self-play responses.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    schema_version: int = Field(default=SCHEMA, alias="schema")
    rows: int
    rows_in_all: int
    held_out_rows: int
    level: Share = LEVEL
    sides: dict[str, Side]
    non_canonical: Share | None = None
    rewritten: Share | None = None
    comparisons: dict[str, Comparison]

    def as_json(self) -> dict[str, Any]:
        """Return the content of audit.json."""
        return self.model_dump(mode="json", by_alias=True)

    def warnings(self) -> list[str]:
        """Return a sentence for each classifier that rendering alone helps; Bonferroni's correction keeps the level over all."""
        tested = [
            (data, name, classifier)
            for data, comparison in self.comparisons.items()
            for name, classifier in comparison.classifiers.items()
            if classifier.p is not None
        ]
        return [
            f"rendering alone tells self-play from {data}: of the {name} classifier's accuracy {classifier.accuracy:.3f}, "
            f"{classifier.rendering:+.3f} is rendering's own (p = {classifier.p:.1g}); see docs/text.md"
            for data, name, classifier in tested
            if classifier.p is not None and classifier.p * len(tested) < self.level
        ]


def read(path: Path) -> Audit:
    """Read the audit of an iteration.

    Raises:
        UserError: The file cannot be read, is not valid, or needs a newer version.
    """
    content = files.read_json(path)
    if isinstance(content, dict):
        files.check_schema(path, content, SCHEMA)
    return validate(Audit, content, NamedSource(str(path)), remedy=f"remove {path} and repeat the run's `train` command")
