"""Preferences that are held out from training: all pairs of some prompts, chosen by a hash, whatever the order of the rows."""

import hashlib
import json
from array import array
from collections.abc import Sequence
from typing import overload

from spac_repro.data.preferences import Preference
from spac_repro.errors import UserError


class Rows(Sequence[Preference]):
    """Some rows of a sequence, in its order; they are read where they lie.

    Args:
        rows: the sequence.
        numbers: of the rows that are taken.
    """

    def __init__(self, rows: Sequence[Preference], numbers: Sequence[int]) -> None:
        self._rows = rows
        self._numbers = array("q", numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, row: int) -> Preference: ...
    @overload
    def __getitem__(self, row: slice) -> list[Preference]: ...
    def __getitem__(self, row: int | slice) -> Preference | list[Preference]:
        if isinstance(row, slice):
            return [self._rows[number] for number in self._numbers[row]]
        return self._rows[self._numbers[row]]

    def first(self, limit: int | None) -> "Rows":
        """Return the first `limit` rows; None: all."""
        return Rows(self._rows, self._numbers[:limit])


def prompt_sha256(preference: Preference) -> bytes:
    """SHA-256 of a prompt's roles and words. Prompts that differ in white space only are the same prompt."""
    words = [[message["role"], *message["content"].split()] for message in preference.prompt]
    return hashlib.sha256(json.dumps(words).encode()).digest()


def split(rows: Sequence[Preference], prompts: int, *, source: str) -> tuple[Rows, Rows]:
    """Divide preferences into those for training and those that are held out.

    The prompts with the smallest hashes are held out. So the choice depends on the set of prompts, and not on the order of the
    rows, the number of pairs of a prompt, or a seed.

    Args:
        rows: all preferences.
        prompts: number of prompts that are held out.
        source: where the rows come from, for errors.

    Returns:
        The rows for training, and the rows that are held out, each in their order.

    Raises:
        UserError: no prompt would be left for training.
    """
    hashes = [prompt_sha256(row) for row in rows]
    distinct = sorted(set(hashes))
    if len(distinct) <= prompts:
        raise UserError(
            f"{source}: of {len(distinct)} different prompts {prompts} are to be held out, and none is left for training; "
            "lower it with --set data.heldout_prompts=N (null: none)"
        )
    held_out = set(distinct[:prompts])
    numbers: tuple[list[int], list[int]] = ([], [])
    for number, prompt in enumerate(hashes):
        numbers[prompt in held_out].append(number)
    return Rows(rows, numbers[0]), Rows(rows, numbers[1])
