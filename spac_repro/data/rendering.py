"""Rendering: prompts with their template, and responses with their end, as token ids.

Prompt and response are tokenized separately, so the boundary between them never depends on how the tokenizer would merge them.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from spac_repro.data import chat_template, memory_map, tokenizers
from spac_repro.data.preferences import FIELDS, Preference
from spac_repro.data.stop_tokens import stop_tokens
from spac_repro.errors import UserError
from spac_repro.recipe import DataSettings

INSTRUCTION_TEMPLATE = "### Instruction: {prompt}\n\n### Response: "  # of the published SPIN configuration [SPIN]


@dataclass(frozen=True)
class TokenizedPreferences:
    """Preference pairs as token ids: one row per pair in every column."""

    prompt: Sequence[list[int]]
    chosen: Sequence[list[int]]
    rejected: Sequence[list[int]]


class Renderer:
    """Turns preferences into token ids, with the recipe's prompt template and length limits.

    Attributes:
        stop_token_ids: every token at which generation stops, sorted: the tokenizer's end-of-sequence, the chat template's end of
            a turn where the template is used, and the model's own.
        end_token_id: one of them, which the data's responses end with: the template's end of a turn, or else end-of-sequence.
        pad_token_id: fills up rows.
    """

    def __init__(self, tokenizer: Any, settings: DataSettings, model_stop_token_ids: Sequence[int] = ()) -> None:
        """Set up a renderer.

        Args:
            tokenizer: the policy's Hugging Face tokenizer.
            settings: the recipe's block `data`.
            model_stop_token_ids: the end-of-sequence tokens in the model's generation_config.

        Raises:
            UserError: the tokenizer has no end-of-sequence token, or lacks the chat template that the recipe asks for.
        """
        self.tokenizer = tokenizer
        self.settings = settings
        self.pad_token_id = tokenizers.pad_token_id(tokenizer)
        if settings.prompt_template == "chat" and not tokenizers.has_chat_template(tokenizer):
            raise UserError(
                "data.prompt_template is `chat`, but the policy's tokenizer has no chat template; "
                "choose --set data.prompt_template=instruction (or plain), or a policy that has one"
            )
        if settings.prompt_template == "chat":
            chat_template.check_deterministic(tokenizer)
        stops = stop_tokens(
            tokenizer,
            chat=settings.prompt_template == "chat",
            chat_template_date=settings.chat_template_date,
            of_model=model_stop_token_ids,
        )
        self.stop_token_ids, self.end_token_id = stops.ids, stops.end

    def tokenize(self, rows: Iterable[Preference]) -> TokenizedPreferences:
        """Tokenize preference pairs, in order; the result is memory-mapped.

        Raises:
            UserError: a prompt is longer than `data.max_prompt_tokens` and `data.overlong_prompts` is `refuse`.
        """
        limit = self.settings.max_prompt_tokens
        overlong: list[tuple[int, int]] = []  # row number, tokens

        def rendered() -> Iterator[Sequence[list[int]]]:
            for number, row in enumerate(rows, start=1):
                prompt = self.untruncated_prompt_ids(row)
                if len(prompt) > limit:
                    overlong.append((number, len(prompt)))
                yield prompt[-limit:], self.response_ids(row.chosen), self.response_ids(row.rejected)

        tokenized = TokenizedPreferences(**memory_map.token_columns(rendered(), FIELDS))
        if overlong and self.settings.overlong_prompts == "refuse":
            row, tokens = overlong[0]
            raise UserError(
                f"row {row}: the prompt has {tokens} tokens and the limit is {limit} "
                f"({len(overlong)} such rows); raise data.max_prompt_tokens, or --set data.overlong_prompts=truncate"
            )
        return tokenized

    def prompt_ids(self, row: Preference) -> list[int]:
        """Return the prompt's token ids; an overlong prompt keeps its end, where the question is."""
        return self.untruncated_prompt_ids(row)[-self.settings.max_prompt_tokens :]

    def untruncated_prompt_ids(self, row: Preference) -> list[int]:
        """Return the prompt's token ids without any limit."""
        if self.settings.prompt_template == "chat":
            return chat_template.conversation_ids(self.tokenizer, row.prompt, self.settings.chat_template_date)
        if self.settings.prompt_template == "plain":
            text = "\n\n".join(message["content"] for message in row.prompt)
        else:
            text = INSTRUCTION_TEMPLATE.format(prompt="\n\n".join(message["content"] for message in row.prompt))
        return list(self.tokenizer(text).input_ids)

    def response_ids(self, text: str) -> list[int]:
        """Return a response's token ids, ended by `end_token_id`; an overlong response keeps its beginning."""
        tokens = [*tokenizers.token_ids(self.tokenizer, text), self.end_token_id]
        return tokens[: self.settings.max_response_tokens]

    def re_encode(self, row: Preference, response: Sequence[int]) -> list[int]:
        """Return the tokens that the data have for a response's text; one without a stop token stays without."""
        tokens = self.response_ids(self.decode_verbatim(response))
        is_cut = self._without_stop_token(response) is response
        return list(self._without_stop_token(tokens)) if is_cut else tokens

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
        """Return a response's text without its stop token and without special tokens."""
        return str(self.tokenizer.decode(self._without_stop_token(response), skip_special_tokens=True))

    def _without_stop_token(self, response: Sequence[int]) -> Sequence[int]:
        return response[:-1] if len(response) and response[-1] in self.stop_token_ids else response
