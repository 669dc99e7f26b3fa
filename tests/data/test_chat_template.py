"""The prompt of a chat template is a function of the conversation: no clock, no random numbers."""

from datetime import date

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from spac_repro.data import chat_template
from spac_repro.errors import UserError

MESSAGES = [{"role": "user", "content": "hi"}]
DAY = date(2024, 7, 26)
PLAIN = "{{ messages[0]['content'] }}"
DATED = "{{ strftime_now('%d %b %Y') }}" + PLAIN
# As Llama 3.2's: a date of the caller's own, else today's; and one within a macro.
LLAMA = "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}{{ date_string }}" + PLAIN
MACRO = "{% macro head() %}{{ strftime_now('%d %b %Y') }}{% endmacro %}{{ head() }}" + PLAIN


def tokenizer(template: str | dict[str, str]) -> PreTrainedTokenizerFast:
    """One token a character."""
    characters = sorted({chr(code) for code in range(32, 127)})
    inner = Tokenizer(models.WordLevel({character: i for i, character in enumerate(characters)}, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.Split("", behavior="isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="~", clean_up_tokenization_spaces=False)
    fast.chat_template = template
    return fast


def text(template: str, day: date | None) -> str:
    its = tokenizer(template)
    return chat_template.render(its, [MESSAGES], day, add_generation_prompt=True)[0]


@pytest.mark.parametrize("template", [DATED, LLAMA, MACRO])
def test_a_template_that_asks_for_the_date_gets_the_recipe_s(template):
    assert text(template, DAY) == "26 Jul 2024hi"


@pytest.mark.parametrize("template", [DATED, LLAMA, MACRO])
def test_a_template_that_asks_for_the_date_is_refused_without_one(template):
    with pytest.raises(UserError, match=r"inserts today's date.*--set data\.chat_template_date=20\d\d-\d\d-\d\d$") as refused:
        text(template, None)
    assert len(str(refused.value)) <= 300


def test_a_template_that_does_not_ask_needs_none():
    assert text(PLAIN, None) == text(PLAIN, DAY) == "hi"
    asks_perhaps = "{% if messages | length > 9 %}{{ strftime_now('%d') }}{% endif %}" + PLAIN
    assert text(asks_perhaps, None) == "hi"


def test_the_clock_of_others_is_left_alone():
    before = chat_template_utils.datetime
    text(DATED, DAY)
    with pytest.raises(UserError):
        text(DATED, None)
    assert chat_template_utils.datetime is before


def test_the_library_s_clock_is_the_one_that_is_replaced():
    """Had a new version of transformers another clock, the date would be today's, in silence."""
    its = tokenizer(DATED)
    own = its.apply_chat_template(MESSAGES, tokenize=False)
    assert own != "26 Jul 2024hi"
    with chat_template.fixed_date(DAY):
        assert its.apply_chat_template(MESSAGES, tokenize=False) == "26 Jul 2024hi"


@pytest.mark.parametrize("template", ["{{ ['a', 'b'] | random }}", "{{ ['a', 'b']|random() }}", "{{ lipsum(n=1) }}"])
def test_a_template_that_draws_random_numbers_is_refused(template):
    with pytest.raises(UserError, match="draws random numbers"):
        chat_template.check_deterministic(tokenizer(template))


def test_words_like_random_are_no_draw():
    chat_template.check_deterministic(tokenizer("{{ 'random or lipsum' }}{{ randomly | trim }}"))


def test_several_templates_without_a_default_are_one_line():
    with pytest.raises(UserError, match="choose another prompt_template"):
        chat_template.check_deterministic(tokenizer({"a": PLAIN, "b": PLAIN}))
