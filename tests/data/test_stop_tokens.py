"""Where a response stops: the chat templates of known families, each with a small tokenizer made here."""

from datetime import date

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from spac_repro.data.stop_tokens import StopTokens, stop_tokens, turn_end_token_id
from spac_repro.errors import UserError

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] | trim"
    " + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\\n'"
    " + m['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
PHI_3 = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"
)
LLAMA_2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
OPEN = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\\n\\n' }}{% endfor %}{{ 'assistant:' }}"
FAMILIES = {  # template, end-of-sequence, what a generation_config names, the end of a turn, the stop tokens
    "chatml, another end-of-sequence": (CHATML, "<|endoftext|>", ["<|endoftext|>", "<|im_end|>"], "<|im_end|>", 2),
    "llama 3, base tokenizer": (LLAMA_3, "<|end_of_text|>", ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"], "<|eot_id|>", 3),
    "gemma": (GEMMA, "<eos>", ["<eos>", "<end_of_turn>"], "<end_of_turn>", 2),
    "gemma, generation_config with one": (GEMMA, "<eos>", ["<eos>"], "<end_of_turn>", 2),
    "phi 3": (PHI_3, "<|endoftext|>", ["<|endoftext|>"], "<|end|>", 2),
    "llama 2, with a space before": (LLAMA_2, "</s>", ["</s>"], "</s>", 1),
    "no token ends a turn": (OPEN, "</s>", [], None, 1),
    "a prefix of another token": (CHATML.replace("<|im_end|>", "<|end|>more"), "</s>", [], "<|end|>more", 2),
}
SPECIAL = ["<s>", "<|im_start|>", "<|start_header_id|>", "<|end_header_id|>", "<start_of_turn>", "<|end|>more"]
SPECIAL += sorted({token for _, eos, named, end, _ in FAMILIES.values() for token in (eos, *named, end) if token} - {*SPECIAL})


def make_tokenizer(chat_template: str | None, eos: str) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["?", *SPECIAL])}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split("", behavior="isolated")
    extra = [token for token in SPECIAL if token not in ("<s>", eos)]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token=eos, additional_special_tokens=extra, unk_token="?"
    )
    tokenizer.chat_template = chat_template
    return tokenizer


@pytest.mark.parametrize(("template", "eos", "named", "end", "number"), FAMILIES.values(), ids=FAMILIES)
def test_stop_tokens_of_a_family(template, eos, named, end, number):
    tokenizer = make_tokenizer(template, eos)
    of_model = tokenizer.convert_tokens_to_ids(named)
    found = stop_tokens(tokenizer, chat=True, of_model=of_model)
    assert found.end == tokenizer.convert_tokens_to_ids(end or eos)
    assert found.ids == tuple(sorted({tokenizer.eos_token_id, found.end, *of_model}))
    assert len(found.ids) == number
    without_template = stop_tokens(tokenizer, chat=False, of_model=of_model)
    assert without_template == StopTokens(tuple(sorted({tokenizer.eos_token_id, *of_model})), tokenizer.eos_token_id)


@pytest.mark.parametrize(
    "template",
    ["{{ raise_exception('no roles') }}", "{% for m in messages %}{{ m.content }", "{{ messages[0]['content'] }}<|end|>"],
)
def test_a_template_that_renders_no_answer_ends_no_turn(template):
    assert turn_end_token_id(make_tokenizer(template, "</s>")) is None


def test_a_template_with_todays_date():
    tokenizer = make_tokenizer("{{ strftime_now('%d %b %Y') }}" + CHATML, "</s>")
    with pytest.raises(UserError, match="inserts today's date"):
        turn_end_token_id(tokenizer)
    assert turn_end_token_id(tokenizer, date(2024, 1, 1)) == tokenizer.convert_tokens_to_ids("<|im_end|>")
