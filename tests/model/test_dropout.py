"""Dropout is zero in every policy, so that training computes what scoring computes; what is random in another way is refused."""

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PhiConfig,
    PhiForCausalLM,
)

from spac_repro.data import tokenizers
from spac_repro.data.example import TokenizedExample
from spac_repro.errors import UserError
from spac_repro.model import dropout, policy
from spac_repro.model.packing import pack
from spac_repro.model.policy import Policy
from spac_repro.policy_settings import PolicySettings

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
GPT2 = {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64}
OPT = {**SMALL, "ffn_dim": 32, "word_embed_proj_dim": 16, "max_position_embeddings": 64}
MODELS = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**GPT2, resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)),
    "opt": lambda: OPTForCausalLM(OPTConfig(**OPT, dropout=0.5, attention_dropout=0.5, layerdrop=0.5)),
    "bloom": lambda: BloomForCausalLM(
        BloomConfig(vocab_size=40, hidden_size=16, n_layer=2, n_head=4, hidden_dropout=0.5, attention_dropout=0.5)
    ),
    "falcon": lambda: FalconForCausalLM(FalconConfig(**SMALL, hidden_dropout=0.5, attention_dropout=0.5)),
    "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SMALL, intermediate_size=32, hidden_dropout=0.5, attention_dropout=0.5)),
    "phi": lambda: PhiForCausalLM(PhiConfig(**SMALL, intermediate_size=32, resid_pdrop=0.5, embd_pdrop=0.5, attention_dropout=0.5)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, intermediate_size=32, num_key_value_heads=2, attention_dropout=0.5)),
}
ROWS = pack([TokenizedExample([3, 4, 5, 6], [[7, 8, 9], [10, 11]])])


def logprobs(model, *, training: bool, seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    with torch.no_grad():
        return Policy(model.train(training))(ROWS)


@pytest.mark.parametrize("name", MODELS)
def test_training_computes_what_scoring_computes(name):
    """So ρ is 0 at the first step of an iteration. The model is random in training before dropout is set to zero."""
    model = MODELS[name]()
    with pytest.raises(UserError, match="still draws random numbers"):
        dropout.check_deterministic(model)
    before = logprobs(model, training=False, seed=0)
    policy.prepare(model, "eager")
    assert torch.equal(logprobs(model, training=False, seed=0), before)
    assert torch.equal(logprobs(model, training=True, seed=0), before)
    assert torch.equal(logprobs(model, training=True, seed=1), before)
    dropout.check_deterministic(model)


def test_what_was_set_to_zero_is_known_by_its_name_in_the_configuration():
    model = policy.prepare(MODELS["opt"](), "eager")
    assert dropout.disabled(model) == {"dropout": 0.5, "attention_dropout": 0.5, "layerdrop": 0.5}
    assert dropout.disabled(policy.prepare(LlamaForCausalLM(LlamaConfig(**SMALL, intermediate_size=32)), "sdpa")) == {}


def test_a_dropout_that_the_configuration_does_not_name_is_set_to_zero_and_recorded():
    model = LlamaForCausalLM(LlamaConfig(**SMALL, intermediate_size=32))
    model.model.embed_tokens = torch.nn.Sequential(model.model.embed_tokens, torch.nn.Dropout(0.3))
    dropout.disable(model)
    assert dropout.disabled(model) == {"modules": 0.3}
    assert model.model.embed_tokens[1].p == 0.0


def test_a_model_with_dropout_is_packed_too():
    assert policy.supports_packing(policy.prepare(MODELS["llama"](), "sdpa"))


def test_a_saved_iterate_has_no_dropout(tmp_path):
    folder = tmp_path / "policy"
    policy.save(policy.prepare(MODELS["llama"](), "sdpa"), tokenizers.world_tokenizer(), folder)
    settings = PolicySettings(
        source="hub", name="m", revision="r", num_parameters=None, architecture=None, dtype="float32", attn_implementation="sdpa"
    )
    again, _ = policy.load(folder, settings)
    assert again.config.attention_dropout == 0.0
    assert dropout.disabled(again) == {}


def test_noise_in_a_router_is_refused():
    config = MixtralConfig(**SMALL, intermediate_size=32, num_key_value_heads=2, num_local_experts=2, router_jitter_noise=0.5)
    with pytest.raises(UserError, match=r"mixtral: .*still draws random numbers"):
        dropout.check_deterministic(policy.prepare(MixtralForCausalLM(config), "sdpa"))


def test_the_check_leaves_the_generator_and_the_mode_as_they_were():
    model = policy.prepare(MODELS["gpt2"](), "eager").eval()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    dropout.check_deterministic(model)
    assert torch.equal(torch.rand(2), expected)
    assert not model.training
