"""Adapters: what PEFT reads and merges, what is hashed, what is refused; packed rows stay exact."""

import copy
import json
import shutil

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import load_file, save_file
from test_policy import draw, logprobs, settings
from transformers import AutoModelForCausalLM

from spac_repro.data.example import TokenizedExample
from spac_repro.errors import UnfitEnvironmentError, UserError
from spac_repro.model import adapter_folder, adapters, policy, quantized
from spac_repro.model.packing import pack
from spac_repro.optim import checkpoints
from spac_repro.policy_settings import AdapterSettings

LORA = AdapterSettings(rank=3, alpha=6.0, targets=("q_proj", "v_proj", "down_proj"))
# Of PeftModel, which the package does not use, with this version of transformers:
of_peft = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
ROW = [([1, 5, 9, 7], draw(12, 1)), ([1, 8], draw(20, 2))]


def base(seed: int = 0, **changes):
    return policy.create_initial(settings(**changes), seed=seed)


def trained(model, seed: int = 7):
    """A model whose adapter is no longer without effect."""
    adapters.add(model, LORA, base_sha256=policy.weights_sha256(model), seed=1)
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in adapters.tensors(model).items():
        if "lora_B" in name:
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.2)
    return model


@pytest.fixture
def folders(tmp_path):
    """The folders of a base and of an adapter on it, and the model with both."""
    model, tokenizer = base()
    policy.save(model, tokenizer, tmp_path / "base")
    trained(model)
    (tmp_path / "adapter").mkdir()
    policy.save(model, tokenizer, tmp_path / "adapter", base=("../base", None))
    return tmp_path / "base", tmp_path / "adapter", model


def test_a_new_adapter_is_a_function_of_its_seed_and_changes_nothing_yet():
    model, _ = base()
    before, sha256 = logprobs(model, ROW), policy.weights_sha256(model)
    others = [adapters.add(copy.deepcopy(model), LORA, base_sha256=sha256, seed=seed) for seed in (1, 1, 2)]
    hashes = [policy.weights_sha256(each) for each in others]
    assert hashes[0] == hashes[1] != hashes[2]
    torch.testing.assert_close(logprobs(others[0], ROW), before, rtol=0, atol=0)
    torch.manual_seed(5)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    adapters.add(copy.deepcopy(model), LORA, base_sha256=sha256, seed=3)
    assert torch.equal(drawn, torch.rand(3))


def test_only_the_adapter_is_trained_and_kept_in_checkpoints():
    model = trained(base()[0])
    learns = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(learns) == 2 * 3 * model.config.num_hidden_layers
    assert all("lora_" in name for name in learns)
    kept = checkpoints.model_tensors(model)
    assert kept.keys() == {f"model.{name}" for name in learns}
    other = trained(base()[0], seed=8)
    assert policy.weights_sha256(other) != policy.weights_sha256(model)
    checkpoints.load_model(other, kept)
    assert policy.weights_sha256(other) == policy.weights_sha256(model)


def test_the_adapter_of_a_bfloat16_base_is_in_float32():
    model = trained(base(dtype="bfloat16")[0])
    assert model.lm_head.weight.dtype == torch.bfloat16
    assert {tensor.dtype for tensor in adapters.tensors(model).values()} == {torch.float32}
    assert logprobs(model, ROW).isfinite().all()


def test_packed_rows_are_exact_with_an_adapter():
    """Each response in a row with others, against one sequence after another through the whole model."""
    model = trained(base()[0])
    assert policy.supports_packing(model)
    examples = [TokenizedExample([1, 5, 9, 7], [draw(12, 1), draw(9, 3), draw(4, 4)]), TokenizedExample([1, 8], [draw(20, 2)])]
    packed = policy.Policy(model)(pack(examples))
    alone = []
    for example in examples:
        for response in example.responses:
            tokens = torch.tensor([[*example.prompt, *response]])
            scores = model(input_ids=tokens, use_cache=False).logits[0, len(example.prompt) - 1 : -1].double().log_softmax(-1)
            alone.append(scores.gather(1, torch.tensor(response)[:, None]).sum())
    torch.testing.assert_close(packed.double(), torch.stack(alone), rtol=1e-5, atol=1e-5)
    with adapters.as_base(model):
        assert (policy.Policy(model)(pack(examples)) - packed).abs().min() > 1e-2  # the adapter matters in every response


def test_a_layer_computes_what_the_paper_says():
    model = trained(base()[0])
    layer = model.model.layers[0].self_attn.q_proj
    x = torch.randn(5, layer.in_features, generator=torch.Generator().manual_seed(0))
    named = adapters.tensors(model)
    a, b = (named[f"base_model.model.model.layers.0.self_attn.q_proj.lora_{part}.weight"].double() for part in "AB")
    weight = layer.get_base_layer().weight.double()
    torch.testing.assert_close(layer(x).double(), x.double() @ (weight + (6.0 / 3) * b @ a).T, rtol=1e-5, atol=1e-5)


def test_without_its_adapter_a_model_is_its_base():
    model, _ = base()
    before = logprobs(model, ROW)
    trained(model)
    with adapters.as_base(model):
        assert torch.equal(logprobs(model, ROW), before)
    assert not torch.equal(logprobs(model, ROW), before)
    assert all(parameter.requires_grad == ("lora_" in name) for name, parameter in model.named_parameters())


@of_peft
def test_peft_reads_the_folder_and_computes_the_same(folders, monkeypatch):
    base_folder, folder, model = folders
    tokens = torch.tensor([[1, *draw(20, 5)]])
    mine = model(input_ids=tokens).logits
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_folder), folder)
    torch.testing.assert_close(theirs(input_ids=tokens).logits, mine, rtol=1e-5, atol=1e-5)
    monkeypatch.chdir(folder)  # PEFT takes the base's name as a path from here
    found = AutoPeftModelForCausalLM.from_pretrained(folder)
    torch.testing.assert_close(found(input_ids=tokens).logits, mine, rtol=1e-5, atol=1e-5)


@of_peft
def test_merged_and_unmerged_agree_to_rounding_and_with_pefts_own_merging(folders):
    base_folder, folder, model = folders
    apart = logprobs(model, ROW)
    merged = adapters.merge(model)
    assert adapters.of(merged) is None
    torch.testing.assert_close(logprobs(merged, ROW), apart, rtol=1e-5, atol=1e-5)
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_folder), folder).merge_and_unload()
    assert policy.weights_sha256(theirs) == policy.weights_sha256(merged)  # in float32 to the bit


def test_merging_in_bfloat16_rounds_once():
    model = trained(base(dtype="bfloat16")[0])
    layer = model.model.layers[0].self_attn.v_proj
    exact = layer.get_base_layer().weight.float() + layer.get_delta_weight("default")
    adapters.merge(model)
    assert torch.equal(model.model.layers[0].self_attn.v_proj.weight, exact.to(torch.bfloat16))


def test_a_folder_comes_back_bit_for_bit_and_equal_adapters_are_equal_bytes(folders, tmp_path):
    _, folder, model = folders
    back, tokenizer = adapter_folder.load(folder)
    assert policy.weights_sha256(back) == policy.weights_sha256(model)
    (tmp_path / "again").mkdir()
    policy.save(back, tokenizer, tmp_path / "again", base=("../base", None))
    for file in folder.glob("adapter_*"):
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name


def test_the_hash_is_of_base_alpha_and_tensors():
    model = trained(base()[0])
    found = {policy.weights_sha256(model)}
    for record in (
        adapters.Adapter(LORA, "0" * 64),
        adapters.Adapter(LORA.model_copy(update={"alpha": 7.0}), adapters.of(model).base_sha256),
        adapters.Adapter(LORA.model_copy(update={"base_bits": 4}), adapters.of(model).base_sha256),
    ):
        setattr(model, adapters._RECORD, record)
        found.add(policy.weights_sha256(model))
    tensor = adapters.tensors(model)["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"]
    tensor[0, 0] = torch.nextafter(tensor[0, 0], torch.tensor(9.0))
    found.add(policy.weights_sha256(model))
    assert len(found) == 5


# What is refused


def refused(folder, **options) -> str:
    with pytest.raises(UserError) as refusal:
        adapter_folder.load(folder, **options)
    text = str(refusal.value)
    assert "\n" not in text
    assert len(text) <= 300
    return text


@pytest.mark.parametrize(("target", "words"), [("q_porj", "did you mean q_proj?"), ("lm_head", "it has down_proj, gate_proj")])
def test_a_target_that_the_model_lacks_is_named(target, words):
    model, _ = base()
    with pytest.raises(UserError, match=f"mistral has no linear layers '{target}'.*{words[:20]}"):
        adapters.check_targets(model, ["q_proj", target])


def test_an_adapter_on_another_base_is_refused(folders, tmp_path):
    _, folder, _ = folders
    policy.save(*base(seed=1), tmp_path / "other")
    assert "the adapter was trained on the base with the weights" in refused(folder, base=tmp_path / "other")
    assert "would replace the weights" in refused(folder, base=folder)


def test_a_base_that_cannot_be_found_is_named(folders, tmp_path):
    _, folder, _ = folders
    shutil.move(folder, tmp_path / "deeper" / "down" / "adapter")
    assert "its base '../base' is no folder here, and no commit is named; name the folder of the base with --base" in refused(
        tmp_path / "deeper" / "down" / "adapter"
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lora_dropout": 0.05}, "lora_dropout is 0.05"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; only LORA"),
        ({"use_dora": True}, "use_dora is True; only plain LoRA"),
        ({"use_rslora": True}, "use_rslora is True"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is"),
        ({"init_lora_weights": "pissa"}, "which changes the base"),
        ({"r": 0}, "rank: Input should be greater than 0"),
        ({"target_modules": ".*_proj"}, "targets: Input should be a valid tuple"),
        ({"target_modules": ["q_porj"]}, "did you mean q_proj?"),
        ({"target_modules": ["q_proj"]}, "belongs to no target in adapter_config.json"),
        ({"r": 4}, "is (3, "),
        ({"of_a_later_version": {"x": 1}}, "of_a_later_version is"),
        ({"revision": 3}, "revision must be a text"),
    ],
)
def test_an_adapter_that_is_not_plain_lora_is_refused(folders, change, words):
    _, folder, _ = folders
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    assert words in refused(folder)


def test_pickles_are_refused(folders):
    _, folder, _ = folders
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    assert "only pickle weights (adapter_model.bin)" in refused(folder)


def test_damaged_weights_are_refused(folders):
    _, folder, _ = folders
    file = folder / "adapter_model.safetensors"
    content, tensors = file.read_bytes(), load_file(file)
    file.write_bytes(content[:200])
    assert "cannot be read" in refused(folder)
    name = sorted(tensors)[0]
    save_file({**tensors, name: torch.full_like(tensors[name], float("nan"))}, file)
    assert f"{name} holds values that are not finite" in refused(folder)
    save_file({other: tensor for other, tensor in tensors.items() if other != name}, file)
    assert f"{name} is missing" in refused(folder)


@pytest.mark.parametrize("has_bitsandbytes", [False, True])
def test_four_bits_need_bitsandbytes_and_a_gpu(folders, monkeypatch, has_bitsandbytes):
    _, folder, model = folders
    setattr(model, adapters._RECORD, adapters.Adapter(LORA.model_copy(update={"base_bits": 4}), adapters.of(model).base_sha256))
    adapters.save(model, folder, base="../base", revision=None)
    monkeypatch.setattr(quantized, "installed_version", lambda name: "0.50.2" if has_bitsandbytes else None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UnfitEnvironmentError, match="no GPU is visible" if has_bitsandbytes else "bitsandbytes is not installed"):
        adapter_folder.load(folder)
