"""Where a response stops: the chat templates of known families, with small tokenizers."""

from datetime import date

import pytest
from chat_families import CHATML, FAMILIES, make_tokenizer

from spac_repro.data.stop_tokens import StopTokens, stop_tokens, turn_end_token_id
from spac_repro.errors import UserError


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_stop_tokens_of_a_family(family):
    tokenizer = make_tokenizer(family.template, family.eos)
    of_model = tokenizer.convert_tokens_to_ids(list(family.of_model))
    found = stop_tokens(tokenizer, chat=True, of_model=of_model)
    assert found.end == tokenizer.convert_tokens_to_ids(family.end)
    assert found.ids == tuple(sorted({tokenizer.eos_token_id, found.end, *of_model}))
    assert len(found.ids) == family.stops
    without_template = stop_tokens(tokenizer, chat=False, of_model=of_model)
    end = found.end if found.end in of_model else tokenizer.eos_token_id  # what the model is known to stop at
    assert without_template == StopTokens(tuple(sorted({tokenizer.eos_token_id, *of_model})), end)
    assert stop_tokens(make_tokenizer(None, family.eos), chat=False).end == tokenizer.eos_token_id


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('no roles') }}",
        "{% for m in messages %}{{ m.content }",
        "{{ 1 + messages[0]['content'] }}",
        "{{ messages[0]['content'] }}<|end|>",
    ],
)
def test_a_template_that_renders_no_answer_ends_no_turn(template):
    assert turn_end_token_id(make_tokenizer(template, "</s>")) is None


def test_a_template_with_todays_date():
    tokenizer = make_tokenizer("{{ strftime_now('%d %b %Y') }}" + CHATML, "</s>")
    with pytest.raises(UserError, match="inserts today's date"):
        turn_end_token_id(tokenizer)
    assert stop_tokens(tokenizer, chat=False).end == tokenizer.eos_token_id
    assert turn_end_token_id(tokenizer, date(2024, 1, 1)) == tokenizer.convert_tokens_to_ids("<|im_end|>")
