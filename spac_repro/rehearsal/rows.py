"""The rows of a rehearsal: preference pairs with the lengths of the data, or with drawn lengths where no data is at hand."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import fmean
from typing import Any

import numpy as np

from spac_repro.data.preferences import Preference
from spac_repro.data.rendering import Renderer, TokenizedPreferences

CANDIDATES = 512  # rows whose lengths are looked at
# Means of log-normal lengths in tokens, before they are cut at the recipe's limits, and their spread [assumed].
PROMPT, RESPONSE, SIGMA = 180, 300, 0.8
LETTERS = "aeiou"


@dataclass(frozen=True)
class Lengths:
    """Mean lengths of the candidates, in tokens, after they are cut at the limits."""

    prompt: float
    response: float

    def example(self, responses: int) -> float:
        """Mean tokens of a prompt with so many responses."""
        return self.prompt + responses * self.response


def drawn(prompt_limit: int, response_limit: int, *, bytewise: bool) -> list[Preference]:
    """Make preference pairs of drawn lengths: letters between spaces, which mean nothing.

    Args:
        prompt_limit: longest prompt, in tokens.
        response_limit: longest response, in tokens.
        bytewise: a letter and its space are two tokens, and not one as in byte pair encodings.
    """
    draw = np.random.default_rng(0)
    share = 2 if bytewise else 1

    def lengths(mean: float, limit: int) -> Any:
        return np.clip(draw.lognormal(math.log(mean) - SIGMA**2 / 2, SIGMA, CANDIDATES).round(), 2, limit).astype(int)

    columns = (lengths(PROMPT, prompt_limit), lengths(RESPONSE, response_limit), lengths(RESPONSE, response_limit))
    return [
        Preference(({"role": "user", "content": _text(p // share, i)},), _text(c // share, i + 1), _text(r // share, i + 2))
        for i, (p, c, r) in enumerate(zip(*columns, strict=True))
    ]


def _text(letters: int, seed: int) -> str:
    return " ".join(LETTERS[(seed + i * i) % len(LETTERS)] for i in range(max(1, letters)))


def candidates(preferences: Sequence[Preference]) -> list[Preference]:
    """The first rows of the data."""
    return list(islice(preferences, CANDIDATES))


def mean_lengths(tokenized: TokenizedPreferences) -> Lengths:
    """Mean lengths of tokenized rows; those of the two responses of the data together."""
    responses = [len(row) for column in (tokenized.chosen, tokenized.rejected) for row in column]
    return Lengths(fmean(map(len, tokenized.prompt)), fmean(responses))


def spread(rows: Sequence[Preference], renderer: Renderer, number: int) -> list[Preference]:
    """Choose rows at equal distances in the order of their lengths, so that few rows have about the mean length of all.

    Args:
        rows: the candidates.
        renderer: counts their tokens.
        number: how many to choose; rows are repeated where there are not so many.
    """
    tokenized = renderer.tokenize(rows)
    totals = [sum(map(len, row)) for row in zip(tokenized.prompt, tokenized.chosen, tokenized.rejected, strict=True)]
    order = sorted(range(len(rows)), key=lambda i: (totals[i], i))
    return [rows[order[int((i + 0.5) * len(rows) / number)]] for i in range(number)]
