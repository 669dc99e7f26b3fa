"""The border between prompt and response, in tokens.

A response's tokens are those that it has behind its prompt, because that is where a policy writes them: the two are encoded
together, and cut by the offsets of the tokens. A response that is encoded alone can begin with another token than a policy would
ever write there. A critic would learn that token, and tell data from self-play by it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from spac_repro.data.text_encoder import TextEncoder

# What a response may begin with. White space at the end of a prompt belongs to the response if it forms a token with one of these.
_BEGINNINGS = ("The", "a", "I'm", "1", "é", "世", "(", '"', "“", "-", "*", "<")
_ANCHORS = ("\n", ".", "a", "1", "(")  # texts to encode a response behind


@dataclass(frozen=True)
class Continuation:
    """A text behind a prompt, in tokens.

    Attributes:
        ids: its tokens.
        offsets: which characters each token stands for, begin and end.
        straddled: whether a token of the joint text holds characters of prompt and text. `ids` then have a border where the
            tokenizer has none.
    """

    ids: list[int]
    offsets: list[tuple[int, int]]
    straddled: bool = False

    def cut(self, limit: int) -> list[int]:
        """Return the first tokens, at most `limit`, in whole characters (one character at least)."""
        if len(self.ids) <= limit:
            return self.ids
        end = limit
        while end and self.offsets[end][0] < self.offsets[end - 1][1]:
            end -= 1
        return self.ids[: end or limit]


class Boundary:
    """Finds the border between prompt and response for one tokenizer."""

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder
        self._kept: dict[str, int] = {}

    def prompt_length(self, text: str) -> int:
        """Return how many characters of a marked prompt belong to it; the white space behind them belongs to the response.

        White space stays in the prompt if it is a token of its own, whatever follows. The line break behind `<|assistant|>` stays.
        The space of `### Response: ` does not, where tokens begin with a space.
        """
        stripped = text.rstrip()
        space = text[len(stripped) :]
        if not space or not stripped:
            return len(text)
        last = stripped[stripped.rfind("\ufdd0") :] if stripped.endswith("\ufdd1") else stripped[-1:]
        if last + space not in self._kept:
            self._kept[last + space] = self._kept_space(last, space)
        return len(stripped) + self._kept[last + space]

    def _kept_space(self, last: str, space: str) -> int:
        """How many characters of the white space behind `last` stay in the prompt."""
        for kept in range(len(space), 0, -1):
            head, rest = last + space[:kept], space[kept:]
            ids = self._encoder.encode(head).ids
            if all(_behind(self._encoder, head, ids, rest + beginning) for beginning in _BEGINNINGS):
                return kept
        return 0

    def continuations(self, prompts: Sequence[str], prompt_ids: Sequence[list[int]], texts: Sequence[str]) -> list[Continuation]:
        """Encode marked texts behind their prompts.

        Args:
            prompts: marked texts, cut to their `prompt_length`.
            prompt_ids: their tokens.
            texts: what follows each.
        """
        encodings = self._encoder.encode_batch([prompt + text for prompt, text in zip(prompts, texts, strict=True)])
        return [
            _part_behind(encoding, prompt, ids) or self._apart(text)
            for encoding, prompt, ids, text in zip(encodings, prompts, prompt_ids, texts, strict=True)
        ]

    def _apart(self, text: str) -> Continuation:
        """Encode a text behind something else than its prompt: a text at the very beginning may get a space in front."""
        for anchor in _ANCHORS:
            if found := _behind(self._encoder, anchor, self._encoder.encode(anchor).ids, text):
                break
        else:
            encoding = self._encoder.encode(text)
            found = Continuation(encoding.ids, encoding.offsets)
        return Continuation(found.ids, found.offsets, straddled=True)


def _behind(encoder: TextEncoder, head: str, head_ids: list[int], text: str) -> Continuation | None:
    return _part_behind(encoder.encode(head + text), head, head_ids)


def _part_behind(encoding: Any, head: str, head_ids: list[int]) -> Continuation | None:
    """The tokens behind `head`; None if they would be other tokens with the head encoded for itself."""
    ids: list[int] = encoding.ids
    offsets: list[tuple[int, int]] = encoding.offsets
    count, border = len(head_ids), len(head)
    if ids[:count] != head_ids:
        return None
    if (count and offsets[count - 1][1] > border) or (offsets[count:] and offsets[count][0] < border):
        return None
    return Continuation(ids[count:], [(begin - border, end - border) for begin, end in offsets[count:]])
