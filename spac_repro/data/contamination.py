"""Contamination: which preference prompts and evaluation items are the same text, exactly or in 13 consecutive words.

Texts are compared after normalisation: Unicode compatibility forms are unified (NFKC), case is folded, and everything except
letters and digits becomes one space between words. Two texts match *exactly* if their normalised forms are equal; a text without
words matches nothing. They match by *13-gram* if they share 13 consecutive words (the longest n-gram in GPT-3's analysis: Brown et
al. 2020, arXiv 2005.14165, appendix C). An item of fewer than 13 words can only match exactly, even if a longer prompt contains it:
shorter sequences are shared by chance.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

NGRAM_WORDS = 13
WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class TaskContamination:
    """The contaminated items of one task.

    `exact` and `ngram` count items; an item can count in both. `item_indexes` and `row_indexes` are the positions of the items and
    of the preference rows that match in either way, ascending.
    """

    items: int
    exact: int
    ngram: int
    item_indexes: tuple[int, ...]
    row_indexes: tuple[int, ...]

    @property
    def note(self) -> str:
        """The note beside the task's scores; empty if no item is contaminated."""
        return note(len(self.item_indexes), self.items)


def note(contaminated: int, items: int) -> str:
    """Return the note beside a task's scores; empty if no item is contaminated."""
    return f"contaminated: {contaminated} of {items} items" if contaminated else ""


@dataclass(frozen=True)
class Contamination:
    """The contamination of every task by `prompts` preference prompts."""

    prompts: int
    tasks: dict[str, TaskContamination] = field(default_factory=dict)

    @property
    def row_indexes(self) -> tuple[int, ...]:
        """The preference rows that match an item of any task, ascending."""
        return tuple(sorted({index for task in self.tasks.values() for index in task.row_indexes}))

    def as_json(self) -> dict[str, Any]:
        """Return plain dicts, lists and numbers, with the n-gram length."""
        tasks = {name: {key: _plain(value) for key, value in asdict(task).items()} for name, task in self.tasks.items()}
        return {"prompts": self.prompts, "ngram_words": NGRAM_WORDS, "tasks": tasks}


def normalise(text: str) -> str:
    """Return the words of a text, case-folded, separated by single spaces."""
    return " ".join(WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def measure(prompts: Iterable[str], items: Mapping[str, Sequence[str]]) -> Contamination:
    """Find, for every task, the items that match a prompt and the prompts that match an item.

    Time and memory are linear: the items' keys (whole texts and n-grams) are put in a table once, each prompt's keys are looked up
    in it, and each item then checks whether one of its own keys was matched.

    Args:
        prompts: the preference prompts, in the order of their rows.
        items: the texts of every task's items.
    """
    tasks_of: dict[str, int] = {}  # key -> bit mask of the tasks that it occurs in
    for bit, texts in enumerate(items.values()):
        for text in texts:
            for key in _keys(text):
                tasks_of[key] = tasks_of.get(key, 0) | 1 << bit

    matched: set[str] = set()
    rows: list[list[int]] = [[] for _ in items]
    num_prompts = 0
    for index, prompt in enumerate(prompts):
        num_prompts = index + 1
        tasks = 0
        for key in _keys(prompt):
            if key in tasks_of:
                matched.add(key)
                tasks |= tasks_of[key]
        for bit, task_rows in enumerate(rows):
            if tasks >> bit & 1:
                task_rows.append(index)

    return Contamination(
        prompts=num_prompts,
        tasks={task: _task_contamination(texts, matched, rows[bit]) for bit, (task, texts) in enumerate(items.items())},
    )


def _task_contamination(texts: Sequence[str], matched: set[str], rows: list[int]) -> TaskContamination:
    exact, ngram, indexes = 0, 0, []
    for index, text in enumerate(texts):
        whole, *ngrams = _keys(text) or [""]
        is_exact, is_ngram = whole in matched, any(key in matched for key in ngrams)
        exact += is_exact
        ngram += is_ngram
        if is_exact or is_ngram:
            indexes.append(index)
    return TaskContamination(len(texts), exact, ngram, tuple(indexes), tuple(rows))


def _keys(text: str) -> list[str]:
    """The whole normalised text, marked with "=", and its n-grams; empty for a text without words."""
    whole = normalise(text)
    if not whole:
        return []
    words = whole.split(" ")
    ngrams = (" ".join(words[start : start + NGRAM_WORDS]) for start in range(len(words) - NGRAM_WORDS + 1))
    return ["=" + whole, *ngrams]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
