"""From text to tokens: the prompt as the policy sees it, and a response up to and including end-of-sequence.

Prompt and response are encoded apart, so that where one ends and the other begins never depends on how they would merge.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from spac_repro.errors import UserError
from spac_repro.preferences.reading import Preference
from spac_repro.recipe import Data

INSTRUCTION = "### Instruction: {prompt}\n\n### Response: "  # the frame of the published SPIN configuration [SPIN]


@dataclass(frozen=True)
class Example:
    """One preference in tokens."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


class Renderer:
    """Text to tokens, with the recipe's template and limits."""

    def __init__(self, tokenizer: Any, settings: Data) -> None:
        self.tokenizer = tokenizer
        self.settings = settings
        if settings.template == "chat" and not tokenizer.chat_template:
            raise UserError(
                "data.template is `chat`, and the policy's tokenizer has no chat template; "
                "choose --set data.template=instruction (or plain), or a policy with one"
            )

    def examples(self, rows: Sequence[Preference]) -> list[Example]:
        """Preferences in tokens, in order.

        Raises:
            UserError: a prompt longer than the limit, where the recipe refuses those (counted, and the first row named).
        """
        prompts = [self.prompt_tokens(row) for row in rows]
        limit = self.settings.longest_prompt
        overlong = [row for row, prompt in enumerate(prompts, start=1) if len(prompt) > limit]
        if overlong and self.settings.overlong_prompts == "refuse":
            raise UserError(
                f"row {overlong[0]}: the prompt has {len(prompts[overlong[0] - 1])} tokens and the limit is {limit} "
                f"({len(overlong)} such rows); raise data.longest_prompt, or --set data.overlong_prompts=truncate"
            )
        return [
            Example(prompt[-limit:], self.response(row.chosen), self.response(row.rejected))
            for prompt, row in zip(prompts, rows, strict=True)
        ]

    def prompt(self, row: Preference) -> list[int]:
        """The prompt's tokens; of one that is too long the end, where the question is."""
        return self.prompt_tokens(row)[-self.settings.longest_prompt :]

    def prompt_tokens(self, row: Preference) -> list[int]:
        """All of the prompt's tokens."""
        if self.settings.template == "chat":
            return list(
                self.tokenizer.apply_chat_template(list(row.prompt), add_generation_prompt=True, tokenize=True, return_dict=False)
            )
        if self.settings.template == "plain":
            text = "\n\n".join(message["content"] for message in row.prompt)
        else:
            text = INSTRUCTION.format(prompt="\n\n".join(message["content"] for message in row.prompt))
        return list(self.tokenizer(text).input_ids)

    def response(self, text: str) -> list[int]:
        """A response's tokens with end-of-sequence; of one that is too long the beginning."""
        tokens = [*self.tokenizer(text, add_special_tokens=False).input_ids, self.tokenizer.eos_token_id]
        return tokens[: self.settings.longest_response]

    def text(self, response: Sequence[int]) -> str:
        """A response's text, without special tokens."""
        return self.tokenizer.decode(response, skip_special_tokens=True)
