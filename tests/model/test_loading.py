"""A model folder that is not whole is refused: transformers would draw what is missing at random."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from spac_repro.data import tokenizers
from spac_repro.errors import UserError
from spac_repro.model import policy
from spac_repro.model.loading import check_finite

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 60,
    "tie_word_embeddings": False,
}  # fmt: skip


def save(folder, model=None):
    torch.manual_seed(0)
    (model or LlamaForCausalLM(LlamaConfig(**SHAPE))).save_pretrained(folder)
    tokenizers.world_tokenizer().save_pretrained(folder)
    return folder


def change(folder, how) -> None:
    """Change the tensors of a folder by name."""
    file = folder / "model.safetensors"
    save_file(how(load_file(file)), file, metadata={"format": "pt"})


def without(name):
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


def renamed(prefix):
    return lambda tensors: {f"{prefix}{key}": value for key, value in tensors.items()}


def with_value(name, value):
    def how(tensors):
        tensors[name].view(-1)[3] = value
        return tensors

    return how


LAYER = "model.layers.1.mlp.up_proj.weight"
DAMAGES = {
    "no output layer": (without("lm_head.weight"), "tensor lm_head.weight is missing, and would be drawn at random"),
    "a layer's tensor": (without(LAYER), f"tensor {LAYER} is missing"),
    "torch.compile's names": (renamed("_orig_mod."), "is missing"),
    "a wrapper's names": (renamed("module."), "is missing"),
    "one tensor more": (lambda tensors: {**tensors, "score.weight": torch.zeros(1, 16)}, "tensor score.weight does not belong"),
    "another shape": (lambda tensors: {**tensors, LAYER: torch.zeros(8, 16)}, f"tensor {LAYER} has another shape"),
    "not a number": (with_value(LAYER, float("nan")), f"tensor {LAYER} holds values that are not finite"),
    "infinite": (with_value("lm_head.weight", float("inf")), "tensor lm_head.weight holds values that are not finite"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_not_whole_is_refused_with_the_tensors_name(tmp_path, damage):
    how, words = DAMAGES[damage]
    change(save(tmp_path), how)
    with pytest.raises(UserError, match=words.replace(".", r"\.")) as refused:
        policy.load(tmp_path)
    assert len(str(refused.value)) <= 300


def test_an_index_without_a_tensor_is_refused(tmp_path):
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SHAPE)).save_pretrained(tmp_path, max_shard_size="10KB")
    tokenizers.world_tokenizer().save_pretrained(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    lost = content["weight_map"].pop(LAYER)
    index.write_text(json.dumps(content))
    file = tmp_path / lost
    kept = without(LAYER)(load_file(file))
    if kept:
        save_file(kept, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=LAYER):
        policy.load(tmp_path)


def test_a_reward_model_is_no_language_model(tmp_path):
    save(tmp_path, LlamaForSequenceClassification(LlamaConfig(**SHAPE, num_labels=1, pad_token_id=0)))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(UserError, match=r"lm_head\.weight is missing"):
        policy.load(tmp_path)


@pytest.mark.parametrize("tied", [False, True])
def test_a_whole_model_is_loaded(tmp_path, tied):
    save(tmp_path, LlamaForCausalLM(LlamaConfig(**{**SHAPE, "tie_word_embeddings": tied})))
    assert policy.load(tmp_path)[0].config.tie_word_embeddings == tied


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_refused(value):
    assert check_finite(torch.zeros(3), "logits").shape == (3,)
    with pytest.raises(UserError, match="logits are not finite"):
        check_finite(torch.tensor([0.0, value]), "logits")
