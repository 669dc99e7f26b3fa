"""Chat templates: the text of a conversation, which depends on nothing but the conversation.

A template can insert today's date (`strftime_now`; Llama 3.2's and SmolLM3's do). Each day would then change every prompt, and a
run over midnight would use two dates. So the date is a setting of the recipe; without it, a template that inserts a date is
refused.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime, time
from typing import Any

from spac_repro.documents.errors import one_line
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


def render(
    tokenizer: Any,
    conversations: Sequence[Sequence[Any]],
    chat_template_date: date | None,
    *,
    add_generation_prompt: bool,
    where: Sequence[str] | None = None,
) -> list[str]:
    """Render conversations with the chat template.

    Args:
        tokenizer: a Hugging Face tokenizer with a chat template.
        conversations: each a sequence of dicts with `role` and `content`.
        chat_template_date: the date that the template inserts.
        add_generation_prompt: whether to end with what begins the assistant's next turn.
        where: the place of each conversation, for error messages.

    Raises:
        UserError: the template refuses a conversation; or it inserts a date, and none is given.
    """
    if not conversations:
        return []
    with fixed_date(chat_template_date):
        try:
            given = [list(messages) for messages in conversations]
            return list(tokenizer.apply_chat_template(given, tokenize=False, add_generation_prompt=add_generation_prompt))
        except UserError:
            raise
        except Exception as error:  # whatever the template's own code raises
            refused = error
    if len(conversations) == 1:
        place, roles = (where or [""])[0], ", ".join(one_line(message["role"], 20) for message in conversations[0][:8])
        raise UserError(
            f"{place}the chat template refuses a conversation of {roles} ({one_line(refused, 80)}); change the row, or choose "
            "--set data.prompt_template=instruction (or plain)"
        )
    places = where or [""] * len(conversations)
    return [
        text
        for one, place in zip(conversations, places, strict=True)
        for text in render(tokenizer, [one], chat_template_date, add_generation_prompt=add_generation_prompt, where=[place])
    ]


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
