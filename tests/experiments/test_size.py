"""The tables of docs/size.md: their arithmetic, and the document."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "experiments"))

import size

from spac_repro import recipes
from spac_repro.cost import estimate

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/size.md"


@pytest.fixture(scope="module")
def run():
    return recipes.load("zephyr-7b")


def test_the_shape_is_that_of_the_recipes_parameters(run):
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    shape = {"hidden_size": size.WIDTH, "num_hidden_layers": size.LAYERS, "intermediate_size": size.MLP}
    heads = {"num_attention_heads": 32, "num_key_value_heads": size.KEY_VALUES // 128}
    with torch.device("meta"):
        model = MistralForCausalLM(MistralConfig(vocab_size=size.VOCABULARY, **shape, **heads))
    assert sum(each.numel() for each in model.parameters()) == run.recipe.policy.num_parameters


def test_the_state_is_that_of_the_estimate(run):
    (_, _, state), *others = size.device_memory(run)
    assert state == estimate(run, 50_000).memory_per_process
    assert state + sum(each for _, _, each in others) < 80e9


def test_more_and_faster_gpus_take_fewer_hours(run):
    eight, sixteen = (size.hours(size.with_processes(run, n), size.A100) for n in (8, 16))
    assert eight["self-play"] == 2 * sixteen["self-play"]
    assert 1.5 < eight["training"] / sixteen["training"] < 2  # fewer examples for each: more waiting
    assert all(each < eight[stage] for stage, each in size.hours(run, size.H100).items())


def test_the_document_has_what_the_command_prints(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["size.py"])
    size.main()
    document = DOCUMENT.read_text().splitlines()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(lines) > 15
    assert [line for line in lines if line not in document] == []
