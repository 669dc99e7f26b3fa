"""What a person wants to see of preferences before a run is trained on them: lengths, and rows as text and as tokens."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import median_low
from typing import TYPE_CHECKING, Any

from spac_repro.data import memory_map
from spac_repro.data.preferences import FIELDS, Preference

if TYPE_CHECKING:
    from spac_repro.data.rendering import Renderer, TokenizedPreferences

EXAMPLES = 3  # rows that are shown


@dataclass(frozen=True)
class Lengths:
    """The lengths of the texts of a column: the median, the one that 90 % do not exceed, and the longest."""

    median: int
    percentile_90: int
    longest: int

    @classmethod
    def of(cls, values: Iterable[int]) -> "Lengths":
        """Summarise at least one length."""
        ordered = sorted(values)
        return cls(median_low(ordered), ordered[(9 * len(ordered) - 1) // 10], ordered[-1])


@dataclass(frozen=True)
class Tokens:
    """The tokens of a row: of its prompt, and of both responses, each without the token that ends it.

    `chosen_end` and `rejected_end` hold that token; they are empty where a response was cut at its limit.
    """

    prompt: list[str]
    chosen: list[str]
    chosen_end: list[str]
    rejected: list[str]
    rejected_end: list[str]

    def as_json(self) -> dict[str, list[str]]:
        """Return plain lists."""
        return asdict(self)


def characters(rows: Sequence[Preference]) -> dict[str, Lengths]:
    """Return the lengths of prompts (all messages together), chosen and rejected responses, in characters."""
    lengths: tuple[list[int], ...] = ([], [], [])
    for row in rows:
        values = (sum(len(message["content"]) for message in row.prompt), len(row.chosen), len(row.rejected))
        for column, value in zip(lengths, values, strict=True):
            column.append(value)
    return {name: Lengths.of(column) for name, column in zip(FIELDS, lengths, strict=True)}


def tokens(rows: "TokenizedPreferences") -> dict[str, Lengths]:
    """Return the lengths of prompts, chosen and rejected responses, in tokens as they are trained on."""
    return {name: Lengths.of(memory_map.lengths(getattr(rows, name))) for name in FIELDS}


def example(renderer: "Renderer", rows: "TokenizedPreferences", number: int) -> Tokens:
    """Return the tokens of a row, counted from 0, in the tokenizer's own spelling."""
    end = renderer.end_token_id

    def spelled(ids: Sequence[int]) -> list[str]:
        return [str(token) for token in renderer.tokenizer.convert_ids_to_tokens(list(ids))]

    def split(ids: list[int]) -> tuple[list[str], list[str]]:
        stop = len(ids) - (ids[-1:] == [end])
        return spelled(ids[:stop]), spelled(ids[stop:])

    return Tokens(spelled(rows.prompt[number]), *split(rows.chosen[number]), *split(rows.rejected[number]))


def text_as_json(row: Preference) -> dict[str, Any]:
    """Return a row as plain dicts, lists and texts."""
    return {"prompt": list(row.prompt), "chosen": row.chosen, "rejected": row.rejected}
