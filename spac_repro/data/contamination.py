"""How far preference prompts and evaluation items are the same text: exactly, or in a run of 13 words.

Texts are compared after normalisation: compatibility forms unified, case folded, and everything but letters and digits turned
into one space between words. Two texts overlap *exactly* when these forms are equal (a text without any word equals none), and
by *13-gram* when they share 13 consecutive words. An item of fewer than 13 words can therefore only overlap exactly, even where
a longer prompt contains it: runs so short are shared by chance.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

NGRAM = 13
WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class TaskContamination:
    """One task's items that also stand among the prompts.

    `exact` and `ngram` count items; an item can count in both. `item_indexes` and `row_indexes` are the positions of the items
    and of the preference rows that overlap in either way, ascending.
    """

    items: int
    exact: int
    ngram: int
    item_indexes: tuple[int, ...]
    row_indexes: tuple[int, ...]

    @property
    def note(self) -> str:
        """The mark that a table of scores carries; empty where nothing overlaps."""
        return f"overlap: {len(self.item_indexes)} of {self.items} items" if self.item_indexes else ""


@dataclass(frozen=True)
class Contamination:
    """The overlap of `prompts` preference prompts with the items of every task."""

    prompts: int
    tasks: dict[str, TaskContamination] = field(default_factory=dict)

    @property
    def row_indexes(self) -> tuple[int, ...]:
        """The preference rows that overlap with an item of any task, ascending."""
        return tuple(sorted({index for task in self.tasks.values() for index in task.row_indexes}))

    def as_json(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers, with the rule that was used."""
        tasks = {name: {key: _plain(value) for key, value in asdict(task).items()} for name, task in self.tasks.items()}
        return {"prompts": self.prompts, "ngram_words": NGRAM, "tasks": tasks}


def normalise(text: str) -> str:
    """The words of `text`, case folded, one space between them."""
    return " ".join(WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def measure(prompts: Iterable[str], items: Mapping[str, Sequence[str]]) -> Contamination:
    """Find, for every task, the items that overlap with a prompt and the prompts that overlap with an item.

    Time and memory are linear: the items' texts and runs are put in a table once, each prompt's are looked up in it, and each
    item then asks whether one of its own was found.
    """
    tasks_of: dict[str, int] = {}  # a run or a whole text -> the tasks it occurs in, one bit a task
    for bit, texts in enumerate(items.values()):
        for text in texts:
            for key in _keys(text):
                tasks_of[key] = tasks_of.get(key, 0) | 1 << bit

    found: set[str] = set()
    rows: list[list[int]] = [[] for _ in items]
    number = 0
    for index, prompt in enumerate(prompts):
        number = index + 1
        tasks = 0
        for key in _keys(prompt):
            if key in tasks_of:
                found.add(key)
                tasks |= tasks_of[key]
        for bit, overlapping in enumerate(rows):
            if tasks >> bit & 1:
                overlapping.append(index)

    return Contamination(
        prompts=number,
        tasks={task: _task_contamination(texts, found, rows[bit]) for bit, (task, texts) in enumerate(items.items())},
    )


def _task_contamination(texts: Sequence[str], found: set[str], rows: list[int]) -> TaskContamination:
    exact, ngram, indexes = 0, 0, []
    for index, text in enumerate(texts):
        whole, *runs = _keys(text) or [""]
        is_exact, is_ngram = whole in found, any(run in found for run in runs)
        exact += is_exact
        ngram += is_ngram
        if is_exact or is_ngram:
            indexes.append(index)
    return TaskContamination(len(texts), exact, ngram, tuple(indexes), tuple(rows))


def _keys(text: str) -> list[str]:
    """The whole normalised text, marked as such, and its runs of 13 words; nothing for a text without words."""
    whole = normalise(text)
    if not whole:
        return []
    words = whole.split(" ")
    return ["=" + whole, *(" ".join(words[start : start + NGRAM]) for start in range(len(words) - NGRAM + 1))]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
