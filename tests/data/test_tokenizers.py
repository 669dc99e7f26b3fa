"""Tokenizers: special tokens and their defaults, token ids without special tokens, identity."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from spac_repro.data import tokenizers, world
from spac_repro.errors import UserError


def make_tokenizer(**special: str) -> PreTrainedTokenizerFast:
    backend = Tokenizer(
        models.WordLevel({token: i for i, token in enumerate(("?", "<s>", "</s>", "<pad>", "a", "b"))}, unk_token="?")
    )
    backend.pre_tokenizer = pre_tokenizers.Split("", behavior="isolated")
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def test_special_tokens():
    full = make_tokenizer(bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    assert (tokenizers.bos_token_id(full), tokenizers.eos_token_id(full), tokenizers.pad_token_id(full)) == (1, 2, 3)
    assert tokenizers.special_token_ids(full) == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}


def test_eos_is_the_padding_token_if_there_is_none():
    assert tokenizers.pad_token_id(make_tokenizer(eos_token="</s>")) == 2
    assert tokenizers.special_token_ids(make_tokenizer(eos_token="</s>")) == {
        "bos_token_id": None,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }


def test_missing_special_tokens_are_reported():
    with pytest.raises(UserError, match=r"no token that ends a response \(eos_token\); choose a policy that has one"):
        tokenizers.eos_token_id(make_tokenizer(bos_token="<s>"))
    with pytest.raises(UserError, match=r"no token that begins a text \(bos_token\), which a supervised start needs"):
        tokenizers.bos_token_id(make_tokenizer(eos_token="</s>"))


def test_token_ids_without_special_tokens():
    tokenizer = tokenizers.world_tokenizer()
    assert tokenizer("ab").input_ids == [tokenizers.bos_token_id(tokenizer), *tokenizers.token_ids(tokenizer, "ab")]
    assert len(tokenizers.token_ids(tokenizer, "sort:badge=")) == 1 + len(":badge=")
    assert len(tokenizer) == len(tokenizers.WORLD_VOCABULARY) == 3 + len(world.TASKS) + len(world.CHARACTERS)


def test_identity_depends_only_on_tokenizer_and_chat_template():
    tokenizer = make_tokenizer(eos_token="</s>", pad_token="<pad>")
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


def test_what_stands_for_text_that_cannot_be_encoded() -> None:
    world = tokenizers.world_tokenizer()
    assert tokenizers.unknown_token_id(world) == 0
    assert 0 in world("Ω", add_special_tokens=False).input_ids
    every_byte = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    assert tokenizers.unknown_token_id(every_byte) is None
