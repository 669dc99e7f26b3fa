"""One tokenized prompt with its responses: what packing takes in."""

from collections.abc import Sequence
from typing import NamedTuple


class TokenizedExample(NamedTuple):
    """One prompt with its responses, as token ids.

    The prompt has at least one token: its last token predicts the first token of every response.
    """

    prompt: Sequence[int]
    responses: Sequence[Sequence[int]]
    loss_mask: Sequence[Sequence[bool]] | None = None  # which tokens of each response count in its log-probability; None: all

    @property
    def num_tokens(self) -> int:
        """Tokens in a packed sequence."""
        return len(self.prompt) + sum(map(len, self.responses))
