"""Truncation of overlong prompts: the oldest text goes, in whole characters; the frame and the generation prompt stay.

The oldest turns go first, with the answers to them; the system message stays as long as the last question fits behind it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from spac_repro.data.frames import Conversation
from spac_repro.data.text_encoder import TextEncoder
from spac_repro.errors import UserError


@dataclass(frozen=True)
class Truncation:
    """Cuts conversations to a number of tokens.

    Attributes:
        encoder: encodes a message.
        count: returns the tokens of a conversation in its frame.
        limit: the most tokens.
    """

    encoder: TextEncoder
    count: Callable[[Conversation], int]
    limit: int

    def shorten(self, messages: Conversation, place: str) -> Conversation:
        """Return the conversation without as much of its beginning as is too long.

        Args:
            messages: an overlong conversation.
            place: where it is, for error messages.

        Raises:
            UserError: the frame alone is too long.
        """
        system = 1 if messages[0]["role"] == "system" else 0
        questions = [i for i in range(system, len(messages)) if messages[i]["role"] != "assistant"]
        for begin in questions:
            kept = [*messages[:system], *messages[begin:]]
            if self.count(_with(kept, system, "")) <= self.limit:
                return self._cut(kept, system)
        if system:  # it does not leave the last question enough room
            for index, shorter in ((0, kept), (1, _with(kept, 0, ""))):
                if self.count(_with(shorter, index, "")) <= self.limit:
                    return self._cut(shorter, index)
        raise UserError(
            f"{place}the prompt's frame alone has {self.count(_with(kept, system, ''))} tokens, and the limit is {self.limit}; "
            "raise data.max_prompt_tokens"
        )

    def _cut(self, messages: Sequence[dict[str, str]], index: int) -> Conversation:
        """Cut the beginning of one message."""
        text = messages[index]["content"]
        ends = [end for _, end in self.encoder.encode(text).offsets]
        dropped = 0
        while (excess := self.count(messages) - self.limit) > 0:
            dropped += excess
            begin = ends[dropped - 1] if dropped <= len(ends) else len(text)
            messages = _with(messages, index, text[begin:])
        return messages


def _with(messages: Conversation, index: int, content: str) -> list[dict[str, str]]:
    return [{**message, "content": content} if i == index else message for i, message in enumerate(messages)]
