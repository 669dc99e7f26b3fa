"""Frames: the text around a prompt and its response, by the recipe's `data.prompt_template`.

`plain` is the prompt alone. `instruction` is the frame in which SPIN generates responses. `chat` is the tokenizer's chat template.
"""

from collections.abc import Sequence
from datetime import date
from typing import Any, Protocol

from spac_repro.data import chat_template
from spac_repro.data.dialogue import Message
from spac_repro.data.text_encoder import TextEncoder
from spac_repro.documents.errors import one_line
from spac_repro.errors import UserError

Conversation = Sequence[Message]

INSTRUCTION = "### Instruction: {prompt}\n\n### Response: "  # SPIN generates in this frame; it trains in the chat template [SPIN]

_QUESTION, _ANSWER = "sentinelquestion", "sentinelanswer"  # letters only: templates trim white space
_HERE = "\ufdd3"  # where a response goes on
_IGNORES = "the chat template ignores add_generation_prompt: prompts end with the beginning that it gives an assistant's turn"
_OTHER_TURN = "the chat template asks for another turn than it writes: responses stand directly behind the generation prompt"
_ADDS = "the chat template writes {} into each response of the data; self-play has it only where the policy writes it"
_INSTEAD = "choose --set data.prompt_template=instruction (or plain), or another policy"


class Frame(Protocol):
    """Puts conversations and responses into text, in which special tokens are marked (`TextEncoder`)."""

    @property
    def notes(self) -> Sequence[str]:
        """What is unusual about the frame, for the user."""

    def prompts(self, conversations: Sequence[Conversation], where: Sequence[str]) -> list[str]:
        """Return the text that generation goes on from, for each conversation; `where` names its place in error messages."""

    def replies(
        self, conversations: Sequence[Conversation], prompts: Sequence[str], responses: Sequence[str], where: Sequence[str]
    ) -> list[str]:
        """Return the text that follows each prompt: the response as the frame writes it, without the token that ends it."""

    def cuttable(self, conversation: Conversation) -> Conversation:
        """Return the messages whose beginnings an overlong prompt loses."""


class TextFrame:
    """A frame of text: the contents of all messages, with something before and behind."""

    notes: Sequence[str] = ()

    def __init__(self, template: str = "{prompt}") -> None:
        self._before, self._behind = template.split("{prompt}")

    def prompts(self, conversations: Sequence[Conversation], where: Sequence[str]) -> list[str]:
        """Return the text that generation goes on from, for each conversation; a begun response stands where responses do."""
        parts = map(_question_and_beginning, conversations)
        return [f"{self._before}{_joined(question)}{self._behind}{_joined(begun)}" for question, begun in parts]

    def replies(
        self, conversations: Sequence[Conversation], prompts: Sequence[str], responses: Sequence[str], where: Sequence[str]
    ) -> list[str]:
        """Return the responses: nothing is put around them."""
        return list(responses)

    def cuttable(self, conversation: Conversation) -> Conversation:
        """Return the conversation as one message, with a begun response behind it: the frame does not tell messages apart."""
        question, begun = _question_and_beginning(conversation)
        return ({"role": "user", "content": _joined(question)}, *begun)


class ChatFrame:
    """The tokenizer's chat template.

    Attributes:
        notes: what is unusual about the template, for the user.
    """

    def __init__(self, tokenizer: Any, encoder: TextEncoder, end_token_id: int, chat_template_date: date | None) -> None:
        """Look how the template writes a question with its answer.

        Raises:
            UserError: the template refuses the question or the answer, drops one of them, or inserts a date that is not given.
        """
        self._tokenizer, self._encoder, self._date = tokenizer, encoder, chat_template_date
        question = [{"role": "user", "content": _QUESTION}]
        answered = [*question, {"role": "assistant", "content": _ANSWER}]
        place = ["the policy's tokenizer: "]
        (bare,), (asked,) = self._render([question], place), self._render([question], place, add_generation_prompt=True)
        (full,) = self._render([answered], place)
        head, found, tail = full.rpartition(_ANSWER)
        for text, role in ((asked.partition(_QUESTION)[1], "user"), (found, "assistant")):
            if not text:
                raise UserError(f"the policy's chat template drops the {role}'s text; {_INSTEAD}")
        # A template that ignores add_generation_prompt has the beginning of an assistant's turn all the same.
        ignores = asked == bare and head.startswith(bare)
        self._turn = head[len(bare) :] if ignores and head[len(bare) :].strip() else ""
        _, end, behind = tail.partition(encoder.mark(end_token_id))
        self._end, self._behind = end, f"{end}{behind}" if end else tail
        self.notes = [note for note, applies in ((_IGNORES, self._turn), (_OTHER_TURN, not head.startswith(asked))) if applies]
        before = head.removeprefix(asked + self._turn) if head.startswith(asked) else ""
        added = [text for text in (before, end and tail.partition(end)[0]) if text.strip()]
        self.notes += [_ADDS.format(repr(one_line(encoder.named(text), 60))) for text in added]

    def prompts(self, conversations: Sequence[Conversation], where: Sequence[str]) -> list[str]:
        """Return the rendered conversations with the generation prompt; a last assistant's turn is gone on with instead.

        Raises:
            UserError: the template refuses a conversation, or drops the beginning of the assistant's turn.
        """
        texts = [""] * len(conversations)
        begun = [i for i, messages in enumerate(conversations) if messages[-1]["role"] == "assistant"]
        asked = [i for i, messages in enumerate(conversations) if messages[-1]["role"] != "assistant"]
        for i, text in zip(
            asked,
            self._render([conversations[i] for i in asked], [where[i] for i in asked], add_generation_prompt=True),
            strict=True,
        ):
            texts[i] = text + self._turn
        for i, text in zip(
            begun, self._render([_reply(conversations[i], _HERE) for i in begun], [where[i] for i in begun]), strict=True
        ):
            texts[i], found, _ = text.rpartition(_HERE)
            if not found:
                raise _dropped(where[i])
        return texts

    def replies(
        self, conversations: Sequence[Conversation], prompts: Sequence[str], responses: Sequence[str], where: Sequence[str]
    ) -> list[str]:
        """Return what the template adds to each prompt for the assistant's turn, up to its end.

        Where the turn does not begin with the prompt, the response stands directly behind it.

        Raises:
            UserError: the template refuses a conversation, or drops a part of the response.
        """
        texts = self._render(list(map(_reply, conversations, responses)), where)
        found = []
        for text, prompt, response, place in zip(texts, prompts, responses, where, strict=True):
            turn = text[len(prompt) :] if text.startswith(prompt) else response + self._behind
            if turn.endswith(self._behind):
                turn = turn[: len(turn) - len(self._behind)]
            elif self._end and self._end in turn:
                turn = turn[: turn.rindex(self._end)]
            if not holds(turn, response):
                raise _dropped(place)
            found.append(turn)
        return found

    def cuttable(self, conversation: Conversation) -> Conversation:
        """Return the conversation itself."""
        return conversation

    def _render(
        self, conversations: Sequence[Conversation], where: Sequence[str], *, add_generation_prompt: bool = False
    ) -> list[str]:
        quote = self._encoder.quote
        quoted = [[{**message, "content": quote(message["content"])} for message in messages] for messages in conversations]
        texts = chat_template.render(self._tokenizer, quoted, self._date, add_generation_prompt=add_generation_prompt, where=where)
        return list(map(self._encoder.marked, texts))


def holds(text: str, part: str) -> bool:
    """Whether a text holds another, white space apart: templates may trim it."""
    return part.strip() in text or "".join(part.split()) in "".join(text.split())


def _joined(messages: Conversation) -> str:
    return "\n\n".join(message["content"] for message in messages)


def _question_and_beginning(messages: Conversation) -> tuple[Conversation, Conversation]:
    """The messages that are answered, and the assistant's message at their end, if it begins the response."""
    border = len(messages) - (len(messages) > 1 and messages[-1]["role"] == "assistant")
    return messages[:border], messages[border:]


def _reply(messages: Conversation, response: str) -> Conversation:
    """The conversation with the assistant's response; an assistant's turn at its end is gone on with."""
    if messages[-1]["role"] == "assistant":
        return [*messages[:-1], {**messages[-1], "content": messages[-1]["content"] + response}]
    return [*messages, {"role": "assistant", "content": response}]


def _dropped(place: str) -> UserError:
    return UserError(f"{place}the policy's chat template drops text of the assistant; change the row, or {_INSTEAD}")
