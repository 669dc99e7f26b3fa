"""A conversation through a tokenizer's chat template, as a function of the conversation alone.

Templates can ask for today's date (`strftime_now`; Llama 3.2's and SmolLM3's do). The day would then change every prompt, and a run
over midnight would have two dates in it. So the date is a setting of the recipe, and a template that asks for one is refused
without it.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime, time
from typing import Any

from spac_repro.errors import UserError

_RANDOM = re.compile(r"\|\s*random\b|\blipsum\s*\(")  # what jinja has that draws random numbers


def check_deterministic(tokenizer: Any) -> None:
    """Check that the chat template draws no random numbers.

    Raises:
        UserError: it has jinja's filter `random` or its function `lipsum`; or there are several templates and none is the default.
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


def tokens(tokenizer: Any, messages: Sequence[Any], template_date: date | None) -> list[int]:
    """The tokens of a conversation with the prompt for an answer.

    Args:
        tokenizer: one with a chat template.
        messages: dicts with `role` and `content`.
        template_date: what the template gets if it asks for today's date.

    Raises:
        UserError: the template asks for the date, and there is none.
    """
    with today_is(template_date):
        return list(tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=True, return_dict=False))


@contextmanager
def today_is(day: date | None) -> Iterator[None]:
    """Give `strftime_now` of transformers' templates this day at midnight; it reads the clock through its module's `datetime`."""
    from transformers.utils import chat_template_utils

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            if day is None:
                raise UserError(
                    "the policy's chat template asks for today's date, so tomorrow's run would have other prompts; "
                    f"fix the date, for example --set data.template_date={datetime.now(tz).date()}"
                )
            return datetime.combine(day, time(), tz)

    module: Any = chat_template_utils
    own, module.datetime = module.datetime, Clock
    try:
        yield
    finally:
        module.datetime = own
