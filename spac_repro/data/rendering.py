"""Rendering: rows of text as token ids. Only here does text become tokens of a row.

The prompt's tokens are those that generation sees. A response's tokens are those that it has behind them (`boundary`), with its
end. docs/text.md lists what holds for which tokenizer.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import add
from typing import Any

from spac_repro.data import chat_template, memory_map, tokenizers
from spac_repro.data.boundary import Boundary, Continuation
from spac_repro.data.frames import INSTRUCTION, ChatFrame, Conversation, Frame, TextFrame, holds
from spac_repro.data.preferences import FIELDS, Preference
from spac_repro.data.rendering_summary import RenderingSummary
from spac_repro.data.stop_tokens import stop_tokens
from spac_repro.data.text_encoder import TextEncoder, holds_mark
from spac_repro.data.truncation import Truncation
from spac_repro.errors import UserError
from spac_repro.recipe import DataSettings


@dataclass(frozen=True)
class TokenizedPreferences:
    """Preference pairs as token ids: one row per pair in every column, and what rendering did to them."""

    prompt: Sequence[list[int]]
    chosen: Sequence[list[int]]
    rejected: Sequence[list[int]]
    summary: RenderingSummary = field(default_factory=RenderingSummary)


@dataclass(frozen=True)
class _Prompt:
    """A rendered prompt: its messages (cut, if it was overlong), marked text, the part that is the prompt's, and its tokens."""

    messages: Conversation
    text: str
    own: str
    ids: list[int]  # without what the tokenizer puts before every text
    tokens: int  # before it was cut, all told


class Renderer:
    """Turns preferences into token ids, with the recipe's prompt template and length limits.

    Attributes:
        stop_token_ids: every token at which generation stops, sorted: the tokenizer's end-of-sequence, the chat template's end of
            a turn where the template is used, and the model's own.
        end_token_id: one of them, which the data's responses end with (`stop_tokens`).
        pad_token_id: fills up rows.
    """

    def __init__(self, tokenizer: Any, settings: DataSettings, model_stop_token_ids: Sequence[int] = ()) -> None:
        """Set up a renderer.

        Args:
            tokenizer: the policy's Hugging Face tokenizer.
            settings: the recipe's block `data`.
            model_stop_token_ids: the end-of-sequence tokens in the model's generation_config.

        Raises:
            UserError: the tokenizer has no end-of-sequence token, or gives no offsets; or it lacks the chat template that the
                recipe asks for, or the template cannot be used.
        """
        self.tokenizer = tokenizer
        self.settings = settings
        self.pad_token_id = tokenizers.pad_token_id(tokenizer)
        chat = settings.prompt_template == "chat"
        if chat and not tokenizers.has_chat_template(tokenizer):
            raise UserError(
                "data.prompt_template is `chat`, but the policy's tokenizer has no chat template; "
                "choose --set data.prompt_template=instruction (or plain), or a policy that has one"
            )
        if chat:
            chat_template.check_deterministic(tokenizer)
        stops = stop_tokens(tokenizer, chat=chat, chat_template_date=settings.chat_template_date, of_model=model_stop_token_ids)
        self.stop_token_ids, self.end_token_id = stops.ids, stops.end
        self._encoder = TextEncoder(tokenizer, stops.ids)
        self._boundary = Boundary(self._encoder)
        self._frame: Frame = TextFrame(INSTRUCTION if settings.prompt_template == "instruction" else "{prompt}")
        if chat:
            self._frame = ChatFrame(tokenizer, self._encoder, stops.end, settings.chat_template_date)
        self._stop_names = tuple(name for name, token in self._encoder.special.items() if token in stops.ids)
        self._prefix = [] if chat else self._encoder.prefix  # a chat template writes its own beginning
        self._decodes_behind: list[int] = []
        self._space_in_front = ""
        self._learn_decoding()

    def tokenize(self, rows: Iterable[Preference]) -> TokenizedPreferences:
        """Tokenize preference pairs, in order; the result is memory-mapped.

        Raises:
            UserError: a prompt is longer than `data.max_prompt_tokens` and `data.overlong_prompts` is `refuse`; or a row cannot be
                rendered, which the message says, with its number.
        """
        summary = RenderingSummary(notes=self._frame.notes)
        overlong: list[tuple[int, int]] = []  # row number, tokens

        def rendered() -> Iterator[Sequence[list[int]]]:
            for batch in memory_map.batched(rows):
                begin, summary.rows = summary.rows, summary.rows + len(batch)
                prompts = self._prompts([row.prompt for row in batch], begin)
                overlong.extend(
                    (begin + i, prompt.tokens)
                    for i, prompt in enumerate(prompts, start=1)
                    if prompt.tokens > self.settings.max_prompt_tokens
                )
                chosen = self._responses(prompts, [row.chosen for row in batch], begin)
                rejected = self._responses(prompts, [row.rejected for row in batch], begin)
                limit = self.settings.max_response_tokens
                for number, parts in enumerate(zip(batch, prompts, chosen, rejected, strict=True), start=begin + 1):
                    summary.add(number, self._findings(*parts))
                    row, prompt, *answers = parts
                    for name, text, answer in zip(FIELDS[1:], (row.chosen, row.rejected), answers, strict=True):
                        if text.strip() and self._says_nothing(text, answer):
                            raise UserError(f"row {number}: the {name} response is empty once it is rendered; remove the row")
                    yield self._prefix + prompt.ids, *(answer.cut(limit) for answer in answers)

        tokenized = TokenizedPreferences(**memory_map.token_columns(rendered(), FIELDS), summary=summary)
        if overlong and self.settings.overlong_prompts == "refuse":
            row, tokens = overlong[0]
            raise UserError(
                f"row {row}: the prompt has {tokens} tokens and the limit is {self.settings.max_prompt_tokens} "
                f"({len(overlong)} such rows); raise data.max_prompt_tokens, or --set data.overlong_prompts=truncate"
            )
        return tokenized

    def prompt_ids(self, row: Preference) -> list[int]:
        """Return the tokens that generation sees; an overlong prompt loses the beginning of its text, and keeps its frame.

        Raises:
            UserError: the prompt cannot be rendered.
        """
        return self._prefix + self._prompts([row.prompt], None)[0].ids

    def response_ids(self, row: Preference, text: str) -> list[int]:
        """Return the tokens that a response to the row's prompt has behind it.

        They end with `end_token_id`, unless they are cut at `data.max_response_tokens`: then a part of the text is missing.

        Raises:
            UserError: prompt or response cannot be rendered.
        """
        (response,) = self._responses(self._prompts([row.prompt], None), [text], None)
        return response.cut(self.settings.max_response_tokens)

    def re_encode(self, row: Preference, response: Sequence[int]) -> list[int]:
        """Return the tokens that a sampled response would have as data: decoded behind the row's prompt, and encoded there.

        They are the same tokens, if the policy wrote what the tokenizer would. A response without a stop token gets none; one with
        any stop token gets `end_token_id`.

        Args:
            row: the row whose prompt was answered.
            response: the sampled tokens.
        """
        (prompt,) = self._prompts([row.prompt], None)
        tokens, head = self._without_stop_token(response), self._prefix + prompt.ids
        ended = len(tokens) < len(response)
        text = self._decode(head, tokens)
        for cut in range(1, 0 if ended else 4):  # the limit may have cut within a character
            if text.endswith("\ufffd"):
                text = self._decode(head, tokens[:-cut])
        (found,) = self._behind([prompt], [text], end=ended)
        return found.cut(self.settings.max_response_tokens)

    def decode_verbatim(self, response: Sequence[int]) -> str:
        """Return a response's text up to its stop token; a special token within it is one replacement character."""
        tokens = self._without_stop_token(response)
        special = set(self.tokenizer.all_special_ids)
        parts = []
        for is_special, run in groupby(tokens, key=special.__contains__):
            ids = list(run)
            parts.append("\ufffd" * len(ids) if is_special else str(self.tokenizer.decode(ids)))
        return "".join(parts)

    def decode(self, response: Sequence[int]) -> str:
        """Return a response's text without its stop token, without special tokens, and without the white space of the frame."""
        special = set(self.tokenizer.all_special_ids)
        tokens = [token for token in self._without_stop_token(response) if token not in special]
        return self._decode(self._decodes_behind, tokens).removeprefix(self._space_in_front)

    def _without_stop_token(self, response: Sequence[int]) -> Sequence[int]:
        return response[:-1] if len(response) and response[-1] in self.stop_token_ids else response

    def _without_end(self, text: str) -> str:
        """A text without the names of stop tokens at its end, and the white space behind them; in linear time."""
        kept = end = len(text)
        while True:
            while end and text[end - 1].isspace():
                end -= 1
            name = next((name for name in self._stop_names if text.endswith(name, 0, end)), None)
            if name is None:
                return text[:kept]
            kept = end = end - len(name)

    def _says_nothing(self, text: str, answer: Continuation) -> bool:
        """Whether nothing is left of a response: it was the name of a stop token, or characters that the tokenizer removes."""
        few = len(answer.ids) <= 3  # an end, and the white space of the frame
        return not self._without_end(text).strip() or (few and not self.tokenizer.decode(answer.ids[:-1]).strip())

    def _decode(self, head: Sequence[int], tokens: Sequence[int]) -> str:
        """The text of tokens behind others: alone, a decoder may drop their first space."""
        before = self.tokenizer.decode([*head], clean_up_tokenization_spaces=False)
        text = self.tokenizer.decode([*head, *tokens], clean_up_tokenization_spaces=False)
        return str(
            text[len(before) :] if text.startswith(before) else self.tokenizer.decode([*tokens], clean_up_tokenization_spaces=False)
        )

    def _prompts(self, conversations: Sequence[Conversation], begin: int | None) -> list[_Prompt]:
        """Render prompts; `begin` is the number of rows before them, None if they are not numbered."""
        places = _places(len(conversations), begin)
        for messages, place in zip(conversations, places, strict=True):
            _check_marks([message["content"] for message in messages], place)
        texts = self._frame.prompts(conversations, places)
        own = [text[: self._boundary.prompt_length(text)] for text in texts]
        found = []
        for messages, text, its_own, encoding, place in zip(
            conversations, texts, own, self._encoder.encode_batch(own), places, strict=True
        ):
            prompt = _Prompt(messages, text, its_own, encoding.ids, len(self._prefix) + len(encoding.ids))
            found.append(self._checked(prompt, place))
        return found

    def _checked(self, prompt: _Prompt, place: str) -> _Prompt:
        """Cut the prompt if it is overlong; it must have a token."""
        limit = self.settings.max_prompt_tokens
        if prompt.tokens > limit:
            cut = Truncation(self._encoder, lambda messages: self._measure(messages, place).tokens, limit)
            shorter = self._measure(cut.shorten(self._frame.cuttable(prompt.messages), place), place)
            prompt = replace(shorter, tokens=prompt.tokens)
        if not self._prefix and not prompt.ids:
            raise UserError(
                f"{place}the prompt has no tokens and the tokenizer begins no text (bos_token), so nothing predicts a response; "
                "remove the row, or choose --set data.prompt_template=instruction (or chat)"
            )
        return prompt

    def _measure(self, messages: Conversation, place: str) -> _Prompt:
        """Render one prompt as it is."""
        (text,) = self._frame.prompts([messages], [place])
        own = text[: self._boundary.prompt_length(text)]
        ids = self._encoder.encode(own).ids
        return _Prompt(messages, text, own, ids, len(self._prefix) + len(ids))

    def _responses(self, prompts: Sequence[_Prompt], texts: Sequence[str], begin: int | None) -> list[Continuation]:
        """Encode data's responses behind their prompts, with their end."""
        places = _places(len(texts), begin)
        for text, place in zip(texts, places, strict=True):
            _check_marks([text], place)
        replies = self._frame.replies(
            [prompt.messages for prompt in prompts],
            [prompt.text for prompt in prompts],
            [self._without_end(text) for text in texts],
            places,
        )
        spaces = [prompt.text[len(prompt.own) :] for prompt in prompts]
        return self._behind(prompts, list(map(add, spaces, replies)))

    def _behind(self, prompts: Sequence[_Prompt], texts: Sequence[str], *, end: bool = True) -> list[Continuation]:
        mark = self._encoder.mark(self.end_token_id) if end else ""
        return self._boundary.continuations(
            [prompt.own for prompt in prompts], [prompt.ids for prompt in prompts], [text + mark for text in texts]
        )

    def _findings(self, row: Preference, prompt: _Prompt, chosen: Continuation, rejected: Continuation) -> dict[str, bool]:
        """What rendering did to a row (`rendering_summary.FINDINGS`)."""
        limit = self.settings.max_response_tokens
        responses, answers = (row.chosen, row.rejected), (chosen, rejected)
        contents = [message["content"] for message in row.prompt]
        overlong = prompt.tokens > self.settings.max_prompt_tokens
        return {
            "prompts_cut": overlong,
            "responses_cut": any(len(answer.ids) > limit for answer in answers),
            "straddled": any(answer.straddled for answer in answers),
            "special_text": any(
                map(self._encoder.names_special_token, (*contents, *(self._without_end(text) for text in responses)))
            ),
            "already_ended": any(self._without_end(text) != text for text in responses),
            "stops_within": not all(set(self.stop_token_ids).isdisjoint(answer.ids[:-1]) for answer in answers),
            "prompt_text_dropped": not overlong and not all(holds(prompt.text, content) for content in contents),
            "equal_responses": chosen.cut(limit) == rejected.cut(limit),
        }

    def _learn_decoding(self) -> None:
        """Find what to decode a response behind, and the white space that the frame then puts in front of it."""
        (prompt,) = self._prompts([({"role": "user", "content": "a"},)], None)
        (answer,) = self._responses([prompt], ["a"], None)
        head = self._prefix + prompt.ids
        space, answered, _ = self._decode(head, answer.ids[:-1]).partition("a")
        self._decodes_behind, self._space_in_front = head, space if answered and not space.strip() else ""


def _places(count: int, begin: int | None) -> list[str]:
    return [""] * count if begin is None else [f"row {begin + i}: " for i in range(1, count + 1)]


def _check_marks(texts: Iterable[str], place: str) -> None:
    if any(map(holds_mark, texts)):
        raise UserError(f"{place}the text holds U+FDD0, a number and U+FDD1, which stand for a special token here; change the row")
