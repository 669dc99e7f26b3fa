"""The tokens at which a response stops: the tokenizer's end-of-sequence, the end of an assistant's turn, the model's own.

A chat model ends its turn with a token that need not be the tokenizer's end-of-sequence: Gemma's <end_of_turn>, Llama 3's
<|eot_id|>, Phi-3's <|end|>. A policy that is not stopped there goes on with an invented dialogue.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from spac_repro.data import tokenizers
from spac_repro.data.chat_template import fixed_date
from spac_repro.errors import UserError

_QUESTION, _ANSWER = "sentinelquestion", "sentinelanswer"  # letters only: templates trim white space
_ANY_DAY = date(2024, 1, 1)  # where the template is not used, and so its date does not matter


@dataclass(frozen=True)
class StopTokens:
    """The stop tokens of a policy.

    Attributes:
        ids: every token at which generation stops, sorted.
        end: one of them, which the data's responses end with.
    """

    ids: tuple[int, ...]
    end: int


def stop_tokens(tokenizer: Any, *, chat: bool, chat_template_date: date | None = None, of_model: Sequence[int] = ()) -> StopTokens:
    """Find the stop tokens.

    Args:
        tokenizer: a Hugging Face tokenizer.
        chat: whether prompts are rendered with the chat template; the end of its turns is then one of the stop tokens.
        chat_template_date: the date that the template inserts.
        of_model: the end-of-sequence tokens in the model's generation_config.

    Raises:
        UserError: the tokenizer has no end-of-sequence token, or the template inserts a date and none is given.
    """
    eos = tokenizers.eos_token_id(tokenizer)
    turn_end = turn_end_token_id(tokenizer, chat_template_date if chat else _ANY_DAY)
    # A model that stops at the end of a turn also ends its answers so in another frame than its chat template.
    end = turn_end if turn_end is not None and (chat or turn_end in of_model) else eos
    return StopTokens(ids=tuple(sorted({eos, end, *of_model})), end=end)


def turn_end_token_id(tokenizer: Any, chat_template_date: date | None = None) -> int | None:
    """Return the token that the chat template puts behind an assistant's last turn; None where there is none.

    A dialogue with a known answer is rendered. The token is the added one with which the text behind that answer begins, apart from
    white space. Where that is text, as in `</answer><|im_end|>`, it is the first special token behind it.

    Raises:
        UserError: the template inserts a date, and none is given.
    """
    messages = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}]
    try:
        with fixed_date(chat_template_date):
            text = str(tokenizer.apply_chat_template(messages, tokenize=False))
    except UserError:
        raise
    except Exception:  # whatever the template's own code raises; rendering says so
        return None
    _, answer, rest = text.rpartition(_ANSWER)
    rest = rest.lstrip() if answer else ""
    added = {token.content: (int(number), token.special) for number, token in tokenizer.added_tokens_decoder.items()}
    places = {content: rest.find(content) for content in added if content}
    found = [content for content, place in places.items() if place == 0 or (place > 0 and added[content][1])]
    # Of several tokens at one place the tokenizer takes the longest.
    return added[min(found, key=lambda content: (places[content], -len(content)))][0] if found else None
