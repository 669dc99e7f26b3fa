"""Responses of the policies to the first prompts, beside the data's chosen and rejected responses."""

from collections.abc import Iterator, Sequence
from typing import Any

from spac_repro.publish.groups import Group, RunView
from spac_repro.runs.parquet import Columns

MAX_PROMPTS = 12
MAX_CHARACTERS = 1200  # of a text; the rest is cut off


def response_cards(groups: Sequence[Group]) -> Iterator[dict[str, Any]]:
    """Yield a card for each of the first prompts: the prompt, and named responses of the data and of every iterate.

    The iterates are those of each group's first run. A group whose preferences have another prompt in that row is left out.
    """
    datasets = [_read_datasets(group.first) for group in groups]
    data = next((table[1] for table in datasets if 1 in table), None)
    if data is None:
        return
    samples = [_samples(group.first, table) for group, table in zip(groups, datasets, strict=True)]
    for row in range(min(MAX_PROMPTS, len(data["prompt"]))):
        prompt = data["prompt"][row]
        named = [("chosen", data["chosen"][row]), ("rejected", data["rejected"][row])]
        for group, table, by_iteration in zip(groups, datasets, samples, strict=True):
            if 1 in table and table[1]["prompt"][row : row + 1] == [prompt]:
                prefix = f"{group.label}, " if len(groups) > 1 else ""
                named += [
                    (prefix + ("start" if t == 0 else f"iterate {t}"), texts[row])
                    for t, texts in by_iteration.items()
                    if row < len(texts)
                ]
        yield {"prompt": _truncate(prompt), "responses": [(name, _truncate(text)) for name, text in dict.fromkeys(named)]}


def _read_datasets(view: RunView) -> dict[int, Columns]:
    """Return the preferences with their self-play responses, by iteration."""
    return {iteration.number: iteration.read_dataset() for iteration in view.folder.iterations() if iteration.has_dataset}


def _samples(view: RunView, datasets: dict[int, Columns]) -> dict[int, list[str]]:
    """Return each iterate's responses to the first prompts: the samples that the run kept, else its self-play responses."""
    samples: dict[int, list[str]] = {t - 1: columns["selfplay"] for t, columns in datasets.items() if "selfplay" in columns}
    samples |= {iteration.number: texts for iteration in view.folder.iterations() if (texts := iteration.samples())}
    return dict(sorted(samples.items()))


def _truncate(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]} …"
