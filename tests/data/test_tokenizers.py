"""What is asked of a tokenizer: special tokens with what serves in their place, a text's own tokens, its identity."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from spac_repro.data import tokenizers, world
from spac_repro.errors import UserError


def made(**special: str) -> PreTrainedTokenizerFast:
    backend = Tokenizer(
        models.WordLevel({token: i for i, token in enumerate(("?", "<s>", "</s>", "<pad>", "a", "b"))}, unk_token="?")
    )
    backend.pre_tokenizer = pre_tokenizers.Split("", behavior="isolated")
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def test_special_tokens():
    full = made(bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    assert (tokenizers.bos_token_id(full), tokenizers.eos_token_id(full), tokenizers.pad_token_id(full)) == (1, 2, 3)
    assert tokenizers.special_token_ids(full) == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}


def test_the_token_that_ends_a_response_fills_up_where_there_is_no_other():
    assert tokenizers.pad_token_id(made(eos_token="</s>")) == 2
    assert tokenizers.special_token_ids(made(eos_token="</s>")) == {"bos_token_id": None, "eos_token_id": 2, "pad_token_id": 2}


def test_a_token_that_is_not_there_is_named():
    with pytest.raises(UserError, match=r"no token that ends a response \(eos_token\); choose a policy that has one"):
        tokenizers.eos_token_id(made(bos_token="<s>"))
    with pytest.raises(UserError, match=r"no token that begins a text \(bos_token\), which a supervised start needs"):
        tokenizers.bos_token_id(made(eos_token="</s>"))


def test_a_text_s_own_tokens():
    tokenizer = tokenizers.world_tokenizer()
    assert tokenizer("ab").input_ids == [tokenizers.bos_token_id(tokenizer), *tokenizers.token_ids(tokenizer, "ab")]
    assert len(tokenizers.token_ids(tokenizer, "sort:badge=")) == 1 + len(":badge=")
    assert len(tokenizer) == len(tokenizers.WORLD_VOCABULARY) == 3 + len(world.TASKS) + len(world.CHARACTERS)


def test_the_identity_is_of_the_tokenizer_and_its_template_and_not_of_how_it_was_called():
    tokenizer = made(eos_token="</s>", pad_token="<pad>")
    before = tokenizers.identity(tokenizer)
    assert before["chat_template_sha256"] is None
    assert not tokenizers.has_chat_template(tokenizer)
    tokenizer(["a", "bb"], padding=True, truncation=True, max_length=1)
    assert tokenizers.identity(tokenizer) == before
    tokenizer.chat_template = "{{ messages }}"
    assert tokenizers.has_chat_template(tokenizer)
    assert tokenizers.identity(tokenizer)["chat_template_sha256"] is not None
    assert tokenizers.identity(tokenizer)["tokenizer_sha256"] == before["tokenizer_sha256"]
    tokenizer.add_tokens(["c"])
    assert tokenizers.identity(tokenizer)["tokenizer_sha256"] != before["tokenizer_sha256"]
