"""A prompt with its responses, in tokens: what is packed into a row."""

from collections.abc import Sequence
from typing import NamedTuple


class Group(NamedTuple):
    """One prompt with its responses, in tokens. A prompt has at least one token, or nothing predicts a response."""

    prompt: Sequence[int]
    responses: Sequence[Sequence[int]]
    counted: Sequence[Sequence[bool]] | None = None  # which tokens of each response belong to its log-probability; None: all

    @property
    def size(self) -> int:
        """Tokens in a row."""
        return len(self.prompt) + sum(map(len, self.responses))
