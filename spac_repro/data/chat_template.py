"""Chat templates: tokenization of a conversation that depends on nothing but the conversation.

A template can insert today's date (`strftime_now`; Llama 3.2's and SmolLM3's do). Each day would then change every prompt, and a
run over midnight would use two dates. So the date is a setting of the recipe; without it, a template that inserts a date is
refused.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime, time
from typing import Any

from spac_repro.errors import UserError

_RANDOM = re.compile(r"\|\s*random\b|\blipsum\s*\(")  # what draws random numbers in Jinja


def check_deterministic(tokenizer: Any) -> None:
    """Check that the chat template draws no random numbers.

    Raises:
        UserError: it uses Jinja's filter `random` or function `lipsum`; or there are several templates and no default.
    """
    try:
        template = tokenizer.get_chat_template()
    except ValueError as error:
        raise UserError(f"the policy's tokenizer: {str(error).splitlines()[0][:200]}; choose another prompt_template") from None
    if found := _RANDOM.search(template):
        raise UserError(
            f"the policy's chat template draws random numbers ({found[0].strip()!r}), so equal runs would differ; "
            "choose --set data.prompt_template=instruction (or plain), or another policy"
        )


def conversation_ids(tokenizer: Any, messages: Sequence[Any], chat_template_date: date | None) -> list[int]:
    """Tokenize a conversation, with the generation prompt of the assistant's next turn.

    Args:
        tokenizer: a Hugging Face tokenizer with a chat template.
        messages: dicts with `role` and `content`.
        chat_template_date: the date that the template inserts.

    Raises:
        UserError: the template inserts a date, but none is given.
    """
    with fixed_date(chat_template_date):
        return list(tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=True, return_dict=False))


@contextmanager
def fixed_date(day: date | None) -> Iterator[None]:
    """Make `strftime_now` in transformers' templates return this day; it reads the clock through its module's `datetime`."""
    from transformers.utils import chat_template_utils

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            if day is None:
                raise UserError(
                    "the policy's chat template inserts today's date, so tomorrow's run would have other prompts; "
                    f"fix the date, for example --set data.chat_template_date={datetime.now(tz).date()}"
                )
            return datetime.combine(day, time(), tz)

    module: Any = chat_template_utils
    original, module.datetime = module.datetime, Clock
    try:
        yield
    finally:
        module.datetime = original
