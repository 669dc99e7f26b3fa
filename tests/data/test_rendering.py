"""Rendering: templates, truncation, and log-probabilities of truncated prompts."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from spac_repro.data import tokenizers, world
from spac_repro.data.example import TokenizedExample
from spac_repro.data.preferences import Preference
from spac_repro.data.rendering import Renderer, TokenizedPreferences
from spac_repro.errors import UserError
from spac_repro.model.packing import pack
from spac_repro.model.policy import Policy
from spac_repro.recipe import DataSettings

CHARACTERS = "abcdefghijklmnopqrstuvwxyz \n#:{}IR?"
SPECIAL = ["</s>", "<user>"]
VOCABULARY = [*SPECIAL, *CHARACTERS]  # no more of them than the tiny models have
CHAT = "{% for m in messages %}<user>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}R:{% endif %}"
EOS = 0


def make_tokenizer(chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """One token a character, so that every length can be counted by hand."""
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(VOCABULARY)}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", additional_special_tokens=["<user>"], clean_up_tokenization_spaces=False
    )
    fast.chat_template = chat_template
    return fast


TOKENIZER = make_tokenizer()


def renderer(tokenizer=TOKENIZER, **changes) -> Renderer:
    given = {
        "source": "file",
        "name": None,
        "revision": None,
        "max_pairs": None,
        "prompt_template": "plain",
        "max_prompt_tokens": 40,
        "max_response_tokens": 20,
        "overlong_prompts": "truncate",
        "world": None,
    }
    return Renderer(tokenizer, DataSettings(**{**given, **changes}))


def preference(*prompt: str, chosen: str = "yes", rejected: str = "no") -> Preference:
    roles = ["user", "assistant"] * len(prompt)
    return Preference(tuple({"role": r, "content": c} for r, c in zip(roles, prompt, strict=False)), chosen, rejected)


def spell(tokens: list[int]) -> str:
    return "".join(VOCABULARY[token] for token in tokens)


def only_row(examples: TokenizedPreferences) -> SimpleNamespace:
    (row,) = zip(examples.prompt, examples.chosen, examples.rejected, strict=True)
    return SimpleNamespace(**dict(zip(("prompt", "chosen", "rejected"), row, strict=True)))


def test_a_preference_in_tokens():
    example = only_row(renderer().tokenize([preference("ask me", chosen="good", rejected="")]))
    assert spell(example.prompt) == "ask me"
    assert spell(example.chosen) == "good</s>"
    assert spell(example.rejected) == "</s>"  # an empty response still ends


def test_templates():
    row = preference("first", "answer", "last")
    assert spell(renderer(prompt_template="plain").prompt_ids(row)) == "first\n\nanswer\n\nlast"
    framed = spell(renderer(prompt_template="instruction", max_prompt_tokens=99).prompt_ids(preference("who {is} it?")))
    assert framed == "### Instruction: who {is} it?\n\n### Response: "
    chat = renderer(make_tokenizer(CHAT), prompt_template="chat")
    assert spell(chat.prompt_ids(row)) == "<user>first<user>answer<user>lastR:"


def test_missing_chat_template_is_reported_with_the_remedy():
    with pytest.raises(UserError, match=r"no chat template; choose --set data\.prompt_template=instruction"):
        renderer(prompt_template="chat")


@given(st.text("abc", min_size=1, max_size=30), st.text("xyz", max_size=30), st.integers(1, 25), st.integers(1, 25))
def test_truncation_keeps_a_prompts_end_and_a_responses_beginning(prompt, response, max_prompt_tokens, max_response_tokens):
    limits = {"max_prompt_tokens": max_prompt_tokens, "max_response_tokens": max_response_tokens}
    example = only_row(renderer(**limits).tokenize([preference(prompt, chosen=response, rejected=response + "a")]))
    assert spell(example.prompt) == prompt[-max_prompt_tokens:]
    if len(response) < max_response_tokens:
        assert spell(example.chosen) == response + "</s>"
    else:  # end-of-sequence is one of the tokens that the limit counts: what did not fit did not end
        assert spell(example.chosen) == response[:max_response_tokens]
    assert renderer(**limits).prompt_ids(preference(prompt)) == example.prompt


def test_an_overlong_prompt_is_refused_where_the_recipe_says_so():
    rows = [preference("x" * 5), preference("x" * 9), preference("x" * 6), preference("x" * 7)]
    assert len(renderer(max_prompt_tokens=9, overlong_prompts="refuse").tokenize(rows).prompt) == 4  # 9 is within 9
    with pytest.raises(UserError, match=r"row 2: the prompt has 9 tokens and the limit is 6 \(2 such rows\); raise") as refused:
        renderer(max_prompt_tokens=6, overlong_prompts="refuse").tokenize(rows)
    assert "overlong_prompts=truncate" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_prompt_and_response_never_merge():
    """A tokenizer that would join the prompt's last letter with the response's first must not get the chance."""
    tokens = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2, "</s>": 3}, [("a", "b")]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token="</s>")
    assert tokenizer("ab").input_ids == [2]
    example = only_row(renderer(tokenizer).tokenize([preference("a", chosen="b", rejected="a")]))
    assert (example.prompt, example.chosen) == ([0], [1, 3])


@given(st.text("abcdefghij :\n", max_size=18))
def test_decode_inverts_response_ids(text):
    assert renderer().decode(renderer().response_ids(preference("q"), text)) == text


def test_logprobs_of_an_overlong_prompt_are_those_of_its_end(tiny_models, slow_logprob):
    assert len(VOCABULARY) == tiny_models["mistral"].config.vocab_size
    long = preference("a very long prompt that goes on and on", chosen="good answer", rejected="bad")
    example = only_row(renderer(max_prompt_tokens=9, max_response_tokens=6).tokenize([long]))
    assert (spell(example.prompt), spell(example.chosen)) == ("on and on", "good a")
    model = tiny_models["mistral"]
    found = Policy(model)(pack([TokenizedExample(example.prompt, [example.chosen, example.rejected])]))
    with torch.no_grad():
        expected = torch.stack(
            [
                slow_logprob(model, [VOCABULARY.index(c) for c in "on and on"], tokens)
                for tokens in ([VOCABULARY.index(c) for c in "good a"], [*map(VOCABULARY.index, "bad"), EOS])
            ]
        )
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=2e-5)


def test_a_special_token_within_a_response_is_part_of_what_was_said():
    """The gold reward compares this text: a response with tokens that nobody sees is not the correct one."""
    tokenizer = tokenizers.world_tokenizer()
    pad, bos, eos = tokenizer.convert_tokens_to_ids(["<pad>", "<s>", "</s>"])
    b, h, a, d = tokenizer.convert_tokens_to_ids(list("bhad"))
    make = renderer(tokenizer)
    assert make.decode_verbatim([b, h, a, d, eos]) == "bhad"
    assert make.decode_verbatim([b, h, a, d]) == "bhad"
    assert make.decode_verbatim([eos]) == make.decode_verbatim([]) == ""
    said = make.decode_verbatim([pad, b, h, bos, a, d, eos])
    assert said == "\ufffdbh\ufffdad"
    built_in = world.World(seed=1, behaviour=world.Behaviour(0.55, 0.25, 0.12, 0.08), preference_scale=5.0)
    assert built_in.reward("copy:bhad=", "bhad") == 1
    assert built_in.reward("copy:bhad=", said) < 1
