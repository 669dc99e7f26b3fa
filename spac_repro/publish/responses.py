"""What the policies said to the first prompts, beside the data's two responses."""

from collections.abc import Iterator, Sequence
from typing import Any

from spac_repro.publish.groups import Group, RunView
from spac_repro.runs.parquet import Columns

PROMPTS = 12
LONGEST = 1200  # characters of a response that are shown


def responses(groups: Sequence[Group]) -> Iterator[dict[str, Any]]:
    """A dozen prompts: chosen, rejected, and what the start and every iterate of each group's first run said."""
    tables = [_triples(group.first) for group in groups]
    first = next((table[1] for table in tables if 1 in table), None)
    if first is None:
        return
    spoken = [_spoken(group.first, table) for group, table in zip(groups, tables, strict=True)]
    for row in range(min(PROMPTS, len(first["prompt"]))):
        said = [("chosen", first["chosen"][row]), ("rejected", first["rejected"][row])]
        for group, table, its in zip(groups, tables, spoken, strict=True):
            if 1 in table and table[1]["prompt"][row : row + 1] == [first["prompt"][row]]:
                for t, texts in its.items():
                    name = "start" if t == 0 else f"iterate {t}"
                    said += [(f"{group.label}, {name}" if len(groups) > 1 else name, texts[row])] if row < len(texts) else []
        yield {"prompt": _cut(first["prompt"][row]), "said": [(name, _cut(text)) for name, text in dict.fromkeys(said)]}


def _triples(view: RunView) -> dict[int, Columns]:
    """The preferences with self-play responses, by iteration."""
    return {its.number: its.read_triples() for its in view.folder.iterations() if its.has_triples}


def _spoken(view: RunView, triples: dict[int, Columns]) -> dict[int, list[str]]:
    """What each iterate said to the first prompts: samples kept for this, or else its self-play responses."""
    spoken: dict[int, list[str]] = {t - 1: columns["selfplay"] for t, columns in triples.items() if "selfplay" in columns}
    spoken |= {its.number: said for its in view.folder.iterations() if (said := its.samples())}
    return dict(sorted(spoken.items()))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"
