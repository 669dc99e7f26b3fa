"""From text to tokens: the prompt as the policy sees it, and a response up to and including end-of-sequence.

Prompt and response are encoded apart, so that where one ends and the other begins never depends on how they would merge.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from spac_repro.data import memory_map, tokenizers
from spac_repro.data.preferences import FIELDS, Preference
from spac_repro.errors import UserError
from spac_repro.recipe import DataSettings

INSTRUCTION_TEMPLATE = "### Instruction: {prompt}\n\n### Response: "  # the frame of the published SPIN configuration [SPIN]


@dataclass(frozen=True)
class TokenizedPreferences:
    """Preferences in tokens: one row each in every column."""

    prompt: Sequence[list[int]]
    chosen: Sequence[list[int]]
    rejected: Sequence[list[int]]


class Renderer:
    """Text to tokens, with the recipe's template and limits."""

    def __init__(self, tokenizer: Any, settings: DataSettings) -> None:
        self.tokenizer = tokenizer
        self.settings = settings
        self.eos_token_id = tokenizers.eos_token_id(tokenizer)  # the token that ends a response
        self.pad_token_id = tokenizers.pad_token_id(tokenizer)  # the token that fills up rows
        if settings.prompt_template == "chat" and not tokenizers.has_chat_template(tokenizer):
            raise UserError(
                "data.prompt_template is `chat`, and the policy's tokenizer has no chat template; "
                "choose --set data.prompt_template=instruction (or plain), or a policy with one"
            )

    def tokenize(self, rows: Iterable[Preference]) -> TokenizedPreferences:
        """Preferences in tokens, in order, mapped from a file.

        Raises:
            UserError: a prompt longer than the limit, where the recipe refuses those (counted, and the first row named).
        """
        limit = self.settings.max_prompt_tokens
        overlong: list[tuple[int, int]] = []  # which row, how many tokens

        def rendered() -> Iterator[Sequence[list[int]]]:
            for number, row in enumerate(rows, start=1):
                prompt = self.untruncated_prompt_ids(row)
                if len(prompt) > limit:
                    overlong.append((number, len(prompt)))
                yield prompt[-limit:], self.response_ids(row.chosen), self.response_ids(row.rejected)

        examples = TokenizedPreferences(**memory_map.token_columns(rendered(), FIELDS))
        if overlong and self.settings.overlong_prompts == "refuse":
            row, tokens = overlong[0]
            raise UserError(
                f"row {row}: the prompt has {tokens} tokens and the limit is {limit} "
                f"({len(overlong)} such rows); raise data.max_prompt_tokens, or --set data.overlong_prompts=truncate"
            )
        return examples

    def prompt_ids(self, row: Preference) -> list[int]:
        """The prompt's tokens; of one that is too long the end, where the question is."""
        return self.untruncated_prompt_ids(row)[-self.settings.max_prompt_tokens :]

    def untruncated_prompt_ids(self, row: Preference) -> list[int]:
        """All of the prompt's tokens."""
        if self.settings.prompt_template == "chat":
            return list(
                self.tokenizer.apply_chat_template(list(row.prompt), add_generation_prompt=True, tokenize=True, return_dict=False)
            )
        if self.settings.prompt_template == "plain":
            text = "\n\n".join(message["content"] for message in row.prompt)
        else:
            text = INSTRUCTION_TEMPLATE.format(prompt="\n\n".join(message["content"] for message in row.prompt))
        return list(self.tokenizer(text).input_ids)

    def response_ids(self, text: str) -> list[int]:
        """A response's tokens with end-of-sequence; of one that is too long the beginning."""
        tokens = [*tokenizers.token_ids(self.tokenizer, text), self.eos_token_id]
        return tokens[: self.settings.max_response_tokens]

    def decode(self, response: Sequence[int]) -> str:
        """A response's text, without special tokens."""
        return self.tokenizer.decode(response, skip_special_tokens=True)
