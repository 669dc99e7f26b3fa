"""What batches would change without a word is computed otherwise, or refused before anything is computed."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BambaConfig,
    FalconH1Config,
    JambaConfig,
    Lfm2Config,
    LlamaConfig,
    LlamaForCausalLM,
    Mamba2Config,
    MambaConfig,
    MistralConfig,
    Qwen2Config,
    RecurrentGemmaConfig,
)

from spac_repro.data.example import TokenizedExample
from spac_repro.errors import UserError
from spac_repro.model import architectures, policy
from spac_repro.model.packing import pack
from spac_repro.model.policy import Policy

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 60,
}
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}
LONG = {
    "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 16,
    "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "factor": 4.0,
}  # fmt: skip


def model_of(config):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()


@pytest.mark.parametrize("rope", [DYNAMIC, LONG])
def test_such_rows_do_change_one_another(rope):
    """Or else the refusal would be superstition."""
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, max_position_embeddings=16, rope_parameters=rope)).double().eval()
    short, long = list(range(3, 9)), list(range(1, 50))
    rows = torch.tensor([long, short + [0] * (len(long) - len(short))])
    with torch.no_grad():
        alone = model(torch.tensor([short])).logits[0]
        beside = model(rows).logits[1, : len(short)]
    assert (alone - beside).abs().max() > 1e-6  # rounding is below 1e-12 in double precision


@pytest.mark.parametrize("kind", [LlamaConfig, MistralConfig, Qwen2Config])
@pytest.mark.parametrize("rope", [DYNAMIC, LONG])
def test_they_are_not_packed(kind, rope):
    model = policy.use_packed_attention(model_of(kind(**SHAPE, max_position_embeddings=16, rope_parameters=rope)), "sdpa")
    assert not policy.supports_packing(model)
    assert not architectures.batches_exactly(model)
    examples = [TokenizedExample(list(range(1, n)), [[5, 6, 7]]) for n in (4, 40)]
    with torch.no_grad():
        together = Policy(model)(pack(examples))
        alone = torch.cat([Policy(model)(pack([example])) for example in examples])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("rope", ["default", "linear", "llama3", "yarn"])
def test_fixed_frequencies_are_packed(rope):
    parameters = {
        "rope_type": rope, "rope_theta": 1e4, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    }  # fmt: skip
    config = LlamaConfig(**SHAPE, max_position_embeddings=64, rope_parameters=parameters)
    model = policy.use_packed_attention(model_of(config), "sdpa")
    assert policy.supports_packing(model)
    examples = [TokenizedExample(list(range(1, n)), [[5, 6, 7]]) for n in (4, 40)]
    with torch.no_grad():
        together = Policy(model)(pack(examples))
        alone = torch.cat([Policy(model)(pack([example])) for example in examples])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_such_a_model_is_trained_within_its_original_length():
    model = model_of(LlamaConfig(**SHAPE, max_position_embeddings=64, rope_parameters=LONG))
    architectures.check_trainable(model, max_tokens=16)
    with pytest.raises(UserError, match="depends on the longest row of a batch beyond 16 tokens"):
        architectures.check_trainable(model, max_tokens=17)


STATEFUL = [MambaConfig, Mamba2Config, RecurrentGemmaConfig, JambaConfig, BambaConfig, FalconH1Config]


@pytest.mark.parametrize("kind", STATEFUL, ids=lambda kind: kind.model_type)
def test_a_model_with_a_state_is_refused(kind):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(kind())
    assert_refused(model)


def test_convolutions_have_a_state_too():
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(Lfm2Config(full_attn_idxs=[2, 5]))
    assert "conv" in model.config.layer_types
    assert_refused(model)


def assert_refused(model) -> None:
    with pytest.raises(UserError, match="layers with a state") as refused:
        architectures.check_trainable(model, max_tokens=10)
    assert len(str(refused.value)) <= 300


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "gemma3_text", "phi3", "olmo2", "gpt_neox", "gpt2"])
def test_a_model_of_attention_alone_is_not(name):
    from transformers import CONFIG_MAPPING

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[name]())
    assert not architectures.has_state(model)
