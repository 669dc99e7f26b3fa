"""A small random model of every architecture that packs.

Random weights are drawn wide, windows are shorter than most rows, and bounds of logits are low, so that each of them matters.
"""

from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

VOCABULARY = 41
SHAPE = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.3,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
PARTICULARS = {
    "llama": {"attention_bias": True},
    "mistral": {"sliding_window": 4},
    "qwen2": {"use_sliding_window": True, "sliding_window": 4, "layer_types": MIXED, "tie_word_embeddings": True},
    "qwen3": {"use_sliding_window": True, "sliding_window": 4, "layer_types": MIXED, "head_dim": 8},
    "gemma2": {
        "sliding_window": 4, "layer_types": MIXED, "head_dim": 8, "query_pre_attn_scalar": 8,
        "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0,
    },
    "gemma3_text": {
        "sliding_window": 4, "layer_types": MIXED, "head_dim": 8, "query_pre_attn_scalar": 8, "final_logit_softcapping": 3.0,
    },
    "phi3": {"sliding_window": 4, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    "olmo2": {},
    "gpt_neox": {"use_parallel_residual": True, "rotary_pct": 0.25, "attention_dropout": 0.1, "hidden_dropout": 0.1},
}  # fmt: skip


def stock_model(name: str) -> Any:
    """The model of an architecture, with transformers' own eager attention."""
    config = CONFIG_MAPPING[name](**SHAPE, **PARTICULARS[name])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
