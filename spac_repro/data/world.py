"""The built-in world: small text tasks with a known reward, to measure what alignment does to a policy without any download.

A prompt states one of five tasks; tokens are characters:

    copy:bhad=       bhad          sort:bhad=    abdh          choose:bhad=    B   (see _alphabet_quarter)
    reverse:bhad=    dahb          add:12+7=     19   (never with a carry)

The behaviour policy μ, which generates the data, gives correct, nearly correct, truncated or random responses, in proportions that
the recipe sets. Preferences are Bradley–Terry labels of pairs of its responses, with the gold reward. Everything is a function of
the settings. A hash of its text assigns each prompt to a split, so no two splits share a prompt.
"""

import hashlib
import math
import random
import string
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from spac_repro.data.preferences import Preference

Split = Literal["train", "heldout", "leaderboard"]
# docs/decisions/04-world.md: the variants of tasks, letters and lengths that were tried.
TASKS = ("copy", "reverse", "sort", "add", "choose")
LETTERS = string.ascii_lowercase[:10]
CHOICES = "ABCD"
WORD_LENGTH = 4  # letters in a word: with a fixed length a small policy learns the positions within minutes
CHARACTERS = LETTERS + string.digits + CHOICES + ":+=\n"

_SPLITS: tuple[tuple[Split, int], ...] = (("train", 80), ("heldout", 90), ("leaderboard", 100))  # upper bounds, percent


@dataclass(frozen=True)
class Behaviour:
    """The behaviour policy μ: the share of each kind of response; shares sum to 1.

    `garbage` covers responses thinly: each is seen once, if at all. The optimal policy always responds correctly, so its
    concentrability max π*/μ is 1 / right.
    """

    right: float
    near_miss: float
    cut_off: float
    garbage: float


class World:
    """The built-in world, fixed by its three arguments."""

    def __init__(self, *, seed: int, behaviour: Behaviour, preference_scale: float) -> None:
        """Create a world.

        Args:
            seed: of all its random draws.
            behaviour: the behaviour policy μ.
            preference_scale: factor of reward differences in the Bradley–Terry model.
        """
        self.seed = seed
        self.behaviour = behaviour
        self.preference_scale = preference_scale

    # The task

    def correct_response(self, prompt: str) -> str:
        """Return the only correct response."""
        return _SOLVERS[task_of(prompt)](prompt[prompt.index(":") + 1 : -1])

    def reward(self, prompt: str, response: str) -> float:
        """Compute the gold reward, in [0, 1]: 1 if correct, else 0.7 × the share of correct characters at their position."""
        correct = self.correct_response(prompt)
        if response == correct:
            return 1.0
        hits = sum(a == b for a, b in zip(response, correct, strict=False))
        return 0.7 * hits / max(len(response), len(correct))

    # The data

    def prompts(self, split: Split, purpose: str) -> Iterator[str]:
        """Yield prompts of a split in random order, without end and with repetitions; each purpose has its own order."""
        rng = self._rng("prompts", split, purpose)
        while True:
            task = rng.choice(TASKS)
            prompt = f"{task}:{_QUESTIONS[task](rng)}="
            if split_of(prompt) == split:
                yield prompt

    def sample_response(self, prompt: str, rng: random.Random) -> str:
        """Sample one response from μ."""
        correct = self.correct_response(prompt)
        kinds = self.behaviour
        kind = rng.choices(
            ("right", "near_miss", "cut_off", "garbage"), (kinds.right, kinds.near_miss, kinds.cut_off, kinds.garbage)
        )[0]
        if kind == "right":
            return correct
        if kind == "garbage":
            return "".join(rng.choices(_alphabet(correct), k=rng.randint(1, WORD_LENGTH + 2)))
        if kind == "cut_off" and len(correct) > 1:
            return correct[: rng.randint(1, len(correct) - 1)]
        return near_miss(correct, rng)

    def demonstrations(self, n: int) -> list[tuple[str, str]]:
        """Sample n (prompt, response) pairs from μ, for supervised fine-tuning of the start policy."""
        rng = self._rng("demonstrations")
        prompts = self.prompts("train", "demonstrations")
        return [(prompt, self.sample_response(prompt, rng)) for prompt in islice(prompts, n)]

    def preferences(self, n: int, split: Split = "train") -> list[Preference]:
        """Sample n preference pairs: two different responses of μ, labelled with P(y⁺ ≻ y⁻) = σ(scale · (r(y⁺) − r(y⁻)))."""
        rng = self._rng("preferences", *([] if split == "train" else [split]))
        rows: list[Preference] = []
        for prompt in self.prompts(split, "preferences"):
            if len(rows) == n:
                break
            first, second = self.sample_response(prompt, rng), self.sample_response(prompt, rng)
            if first == second:
                continue
            margin = self.preference_scale * (self.reward(prompt, first) - self.reward(prompt, second))
            if rng.random() > 1 / (1 + math.exp(-margin)):
                first, second = second, first
            rows.append(Preference(prompt=({"role": "user", "content": prompt},), chosen=first, rejected=second))
        return rows

    def heldout_prompts(self, n: int) -> list[str]:
        """Return n different prompts that no training example has."""
        return list(islice(_unique(self.prompts("heldout", "gold")), n))

    def _rng(self, *names: str) -> random.Random:
        return random.Random(":".join((str(self.seed), *names)))


def _unique(prompts: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for prompt in prompts:
        if prompt not in seen:
            seen.add(prompt)
            yield prompt


def task_of(prompt: str) -> str:
    """Return the task that a prompt states: the word before the colon."""
    return prompt[: prompt.index(":")]


def split_of(prompt: str) -> Split:
    """Return the split that a prompt belongs to, by its text alone."""
    percentile = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4], "big") % 100
    return next(split for split, bound in _SPLITS if percentile < bound)


def near_miss(correct: str, rng: random.Random) -> str:
    """Change the correct response by one slip: a wrong, lost or doubled character, or two swapped characters."""
    while True:
        at = rng.randrange(len(correct))
        slip = rng.choice(("wrong", "lost", "doubled", "swapped")) if len(correct) > 1 else "wrong"
        if slip == "wrong":
            response = correct[:at] + rng.choice(_alphabet(correct)) + correct[at + 1 :]
        elif slip == "lost":
            response = correct[:at] + correct[at + 1 :]
        elif slip == "doubled":
            response = correct[:at] + correct[at] + correct[at:]
        else:
            at = min(at, len(correct) - 2)
            response = correct[:at] + correct[at + 1] + correct[at] + correct[at + 2 :]
        if response != correct:
            return response


def _alphabet(correct: str) -> str:
    """The characters that this response is made of."""
    return next(alphabet for alphabet in (LETTERS, string.digits, CHOICES) if correct[0] in alphabet)


def _word(rng: random.Random) -> str:
    return "".join(rng.choices(LETTERS, k=WORD_LENGTH))


def _sum(rng: random.Random) -> str:
    units = rng.randrange(9)
    return f"{rng.randrange(1, 10)}{units}+{rng.randrange(10 - units)}"


def _alphabet_quarter(word: str) -> str:
    """The quarter of the alphabet that the midpoint between the first and the last letter lies in, as A to D."""
    twice_midpoint = LETTERS.index(word[0]) + LETTERS.index(word[-1])
    return CHOICES[twice_midpoint * len(CHOICES) // (2 * len(LETTERS) - 1)]


_QUESTIONS: dict[str, Callable[[random.Random], str]] = {
    "copy": _word, "reverse": _word, "sort": _word, "add": _sum, "choose": _word,
}  # fmt: skip
_SOLVERS: dict[str, Callable[[str], str]] = {
    "copy": str,
    "reverse": lambda word: word[::-1],
    "sort": lambda word: "".join(sorted(word)),
    "add": lambda question: str(sum(int(term) for term in question.split("+"))),
    "choose": _alphabet_quarter,
}
