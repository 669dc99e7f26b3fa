"""The sizes of docs/size.md, from a model of the true size that has no memory: on the meta device."""

import sys
from pathlib import Path

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from transformers import AttentionInterface, AutoModelForCausalLM, MistralConfig

from spac_repro import cost, recipes, stage_memory
from spac_repro.model import block_mask
from spac_repro.model.logprobs import MAX_LOGITS

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "experiments"))

import size

PAGE = Path(__file__).resolve().parents[2] / "docs/size.md"
SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 1}


class KeepsInputs(torch.autograd.Function):
    """Keeps for its backward pass what FlexAttention keeps: queries, keys, values, output, and a float32 sum per query."""

    @staticmethod
    def forward(ctx, query, key, value):
        output = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, output, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return output


@pytest.fixture(scope="module", autouse=True)
def attention():
    AttentionInterface.register(
        "keeps_inputs", lambda module, q, k, v, mask, **_: (KeepsInputs.apply(q, k, v).transpose(1, 2), None)
    )


def on_meta(shape):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(shape, dtype=torch.bfloat16, attn_implementation="keeps_inputs")


def kept_bytes(model, tokens):
    """Bytes that the first layer keeps for its backward pass, weights aside."""
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return tensor

    width, head = model.config.hidden_size, model.config.hidden_size // model.config.num_attention_heads
    values = torch.empty(1, tokens, width, dtype=torch.bfloat16, device="meta", requires_grad=True)
    rotary = tuple(torch.empty(1, tokens, head, dtype=torch.bfloat16, device="meta") for _ in range(2))
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        model.model.layers[0](values, position_embeddings=rotary, attention_mask=None)
    return sum(storage.nbytes() for storage in kept.values())


@pytest.fixture(scope="module")
def model():
    return on_meta(MistralConfig())


def test_the_recipe_has_the_parameters_of_the_true_model(model):
    found = cost.estimate(recipes.load("zephyr-7b"), None)
    assert sum(parameter.numel() for parameter in model.parameters()) == found.parameters
    assert sum(parameter.nbytes for parameter in model.parameters()) == size.generation_memory(recipes.load("zephyr-7b"))[0].value


@pytest.mark.parametrize("shape", [{}, SMALL, {**SMALL, "intermediate_size": 160}, {**SMALL, "num_key_value_heads": 4}])
def test_a_layer_keeps_what_the_arithmetic_says(shape):
    config = MistralConfig(**shape, **({} if not shape else {"head_dim": 16}))
    if not shape:
        config.num_hidden_layers = 1
    tokens = 1000
    assert kept_bytes(on_meta(config), tokens) == 2 * tokens * stage_memory.activation_elements(config)


def test_the_shape_is_the_models(model):
    assert stage_memory.MISTRAL_7B.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert all(getattr(model.config, name) == value for name, value in vars(stage_memory.MISTRAL_7B).items())
    assert stage_memory.MAX_LOGITS == MAX_LOGITS
    assert stage_memory.MASK_STRIP == block_mask.STRIP


def test_the_memory_of_a_stage_is_that_of_the_run():
    large, small = (dict(stage_memory.table_rows(recipes.load(name))) for name in ("zephyr-7b", "tiny"))
    assert large["training"] == pytest.approx(size.peak(size.training_memory(recipes.load("zephyr-7b"))))
    assert small["training"] < large["training"] / 100
    assert stage_memory.table_rows(recipes.load("smollm2-135m")) == []  # its shape is in the package's file
    whole = recipes.load("zephyr-7b", overrides=["training.gradient_checkpointing=false"])
    assert dict(stage_memory.table_rows(whole))["training"] > 2 * large["training"]


def test_the_cache_of_a_token(model):
    attention = model.model.layers[0].self_attn
    width = attention.k_proj.out_features + attention.v_proj.out_features
    assert size.key_values_per_token() == len(model.model.layers) * width * 2


def test_deepspeeds_limits_are_its_defaults():
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    defaults = DeepSpeedZeroConfig(stage=3)
    assert defaults.max_live_parameters == stage_memory.MAX_LIVE_PARAMETERS
    assert defaults.reduce_bucket_size == stage_memory.REDUCE_BUCKET
    # The optimizer steps through groups of so many parameters: one process's part fits in one.
    assert defaults.sub_group_size > cost.estimate(recipes.load("zephyr-7b"), None).parameters / 8


def test_every_stage_fits():
    run = recipes.load("zephyr-7b")
    for lines in (size.generation_memory(run), size.reference_memory(run), size.training_memory(run)):
        assert size.peak(lines) < 0.6 * size.A100.memory
    whole = cost.estimate(recipes.load("zephyr-7b", overrides=["training.engine=accelerate"]), None)
    assert whole.memory_per_process > size.A100.memory


def test_more_and_faster_gpus_take_fewer_hours():
    one, two = (recipes.load("zephyr-7b", overrides=[f"training.processes={n}"]) for n in (8, 16))
    eight, sixteen, faster = (
        {line.what: line.value for line in size.hours(*each)} for each in ((one, size.A100), (two, size.A100), (one, size.H100))
    )
    assert eight["self-play"] == pytest.approx(2 * sixteen["self-play"])
    assert 1.5 < eight["training"] / sixteen["training"] < 2  # fewer examples for each: more waiting
    assert all(faster[stage] < taken for stage, taken in eight.items())


def test_the_page_has_the_tables():
    page = PAGE.read_text()
    missing = [line for line in size.tables() if line not in page]
    assert missing == [], "the tables are out of date: python experiments/size.py"
