"""The recipes that ship: complete, every setting with where it comes from, and plans that agree with sums done by hand."""

import hashlib
import json
from importlib import resources

import pytest
import yaml

from spac_repro import methods, recipes
from spac_repro.cost import estimate, table_rows
from spac_repro.errors import UserError
from spac_repro.recipe import MARKS
from spac_repro.recipes import writing

NAMES = ("smollm2-135m", "tiny", "zephyr-7b", "zephyr-7b-lora")


def test_all_of_them_ship():
    assert set(NAMES) <= set(recipes.names())


@pytest.mark.parametrize("method", methods.names())
@pytest.mark.parametrize("name", NAMES)
def test_each_loads_under_its_name_for_every_method(name, method):
    run = recipes.load(name, method=method)
    assert run.recipe.name == name
    assert run.recipe.summary


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_says_where_it_comes_from(name):
    run = recipes.load(name)
    values = run.recipe.model_dump(mode="json")
    for key in recipes.leaf_keys(values):
        value = values
        for part in key.split("."):
            value = value[part]
        if key in ("name", "summary") or value is None:
            continue
        assert run.provenance[key].mark in MARKS, key


@pytest.mark.parametrize("name", NAMES)
def test_no_reason_was_lost_to_yaml(name):
    """An unquoted comma or `#` would end a reason early, and what remains would look whole."""
    text = (resources.files("spac_repro") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    for line in text.splitlines():
        if "why: " in line:
            written = line.split("why: ", 1)[1].removesuffix("}").strip()
            (node,) = yaml.safe_load(line).values()
            assert node["why"] == written.strip('"'), line


@pytest.mark.parametrize(
    ("name", "tuned"), [("smollm2-135m", {"spac", "dpo", "ipo"}), ("zephyr-7b", set()), ("zephyr-7b-lora", set())]
)
def test_untuned_methods_are_compared_on_equal_terms(name, tuned):
    """One method's learning rate would be its own advantage; IPO takes the one that was tuned for DPO."""
    blocks = recipes.load(name).recipe.methods
    assert len({getattr(blocks, method).learning_rate for method in set(methods.names()) - tuned}) == 1


def test_the_7b_run_is_pinned_and_set_as_its_peer():
    settings = recipes.load("zephyr-7b").recipe
    assert settings.policy.revision == "ac6e600eefcce74f5e8bae1035d4f66019e93190"
    assert len(settings.data.revision) == 40
    training, data = settings.training, settings.data
    assert training.global_batch_size == 64 == 8 * training.processes
    assert data.max_prompt_tokens + data.max_response_tokens == 1024
    assert settings.methods.spin.last_iteration_learning_rate == 1e-7
    assert settings.methods.spin.last_iteration_beta == 5.0
    assert settings.methods.spac.last_iteration_beta is None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "changes", [(), ("policy.architecture=null", "policy.source=package", "policy.revision=1")], ids=["", "changed"]
)
def test_a_recipe_file_of_its_own_means_the_same(name, changes, tmp_path):
    """`recipes show --yaml`: every value, source and reason, whatever characters they have."""
    file = tmp_path / "mine.yaml"
    runs = [recipes.load(name, method=method, overrides=changes) for method in methods.names()]
    file.write_text(writing.as_yaml(runs[0]))
    for run in runs:
        again = recipes.load(str(file), method=run.method)
        assert again.recipe == run.recipe
        assert (again.settings_sha256, again.start_settings()) == (run.settings_sha256, run.start_settings())
        for key, source in again.provenance.items():
            before = run.provenance[key]
            assert source.mark == (before.mark if before.mark in MARKS else "assumed")
            assert source.why == (before.why if before.mark != "default" else writing.DEFAULT.why)
    values = runs[0].recipe.model_dump(mode="json")
    assert {*recipes.leaf_keys(yaml.safe_load(file.read_text()))} >= {*recipes.leaf_keys(values)} - {*again.provenance}


def test_a_reason_that_is_lost_is_seen(monkeypatch, tmp_path):
    monkeypatch.setattr(writing, "_json", lambda value: str(value))
    file = tmp_path / "mine.yaml"
    file.write_text(writing.as_yaml(recipes.load("tiny")))
    with pytest.raises(UserError):
        recipes.load(str(file))


# Identity

# Settings digest, and SHA-256 of the settings of iteration 0. Old runs and expected results are met by the first, so it changes
# only with a value: a new setting has its neutral value for a default (tests/test_identity.py). The second is in no run: a sweep
# groups its cells by it, and `--start-from` compares the settings themselves. That of `tiny` changed when `micro_batch_tokens` was
# added, by which held-out log-probabilities are batched; its first digests when every method was tuned anew. Those of `zephyr-7b`
# changed with its frame, when no run of it was known; those of `smollm2-135m` when it got held-out prompts and tuned learning
# rates, before it had expected results.
DIGESTS = {
    "smollm2-135m/spac": (
        "630209e92e3e683b8ac0dc5c96945dc80a968ae10f6ed3ba9bb096fe9fec7adc",
        "8b35c6133c24f72ca7298a0765c306d7f9933d42e5e9c1cb8bc6fe91fd12a80e",
    ),
    "smollm2-135m/dpo": (
        "bdf3b5821dfc66a10bfae13b6d38c7060ac600337c5dd1832d58bde0db8cd355",
        "8b35c6133c24f72ca7298a0765c306d7f9933d42e5e9c1cb8bc6fe91fd12a80e",
    ),
    "smollm2-135m/ipo": (
        "f9be94717e21b18f76df73b2f8feeee9468fd9f588b2b2fc7de6be46b75dcff2",
        "8b35c6133c24f72ca7298a0765c306d7f9933d42e5e9c1cb8bc6fe91fd12a80e",
    ),
    "smollm2-135m/spin": (
        "54097e54eb68cb192569c4335fbb22307bca819308afeec6293ab5f7f2ec9a53",
        "8b35c6133c24f72ca7298a0765c306d7f9933d42e5e9c1cb8bc6fe91fd12a80e",
    ),
    "smollm2-135m/sft": (
        "68390b76906890fa8c723f11b5c41b0c3372a424103ebbfe7ecd7361a6e88a5a",
        "8b35c6133c24f72ca7298a0765c306d7f9933d42e5e9c1cb8bc6fe91fd12a80e",
    ),
    "smollm2-135m/chipo": (
        "df9ebc6f262c3f98f7d010a2f5d1f93844bd3c8a10b9468c29167d8f7b83dc2e",
        "8b35c6133c24f72ca7298a0765c306d7f9933d42e5e9c1cb8bc6fe91fd12a80e",
    ),
    "smollm2-135m/rpo": (
        "9cb233fa422318fe175a381107f27f97a8a820db99c75f837bc337d27d440945",
        "8b35c6133c24f72ca7298a0765c306d7f9933d42e5e9c1cb8bc6fe91fd12a80e",
    ),
    "smollm2-135m/dpop": (
        "f4fc35ab7758f26c18408bd6f5c70bfa6e5460ad8b242b3de8822c3044f5a774",
        "8b35c6133c24f72ca7298a0765c306d7f9933d42e5e9c1cb8bc6fe91fd12a80e",
    ),
    "smollm2-135m/sppo": (
        "ce09ff9f3d0abbd770a2acb495d4cd3c1e7f239c8bf9d4b022519ad1fa2f441d",
        "8b35c6133c24f72ca7298a0765c306d7f9933d42e5e9c1cb8bc6fe91fd12a80e",
    ),
    "smollm2-135m/simpo": (
        "7354465276d10adf79b4f16589f0dc9c7828d76fb0d39cc9a27e9493f85781df",
        "8b35c6133c24f72ca7298a0765c306d7f9933d42e5e9c1cb8bc6fe91fd12a80e",
    ),
    "tiny/spac": (
        "9a0ed27af8fe1172e61dbbb995f21b9ce782f599abe524ebc9c46c0ec64c0701",
        "b175b594eccc1553e51ddcea6cde3fd126b7d6180d2789ded982f8cc32af045d",
    ),
    "tiny/dpo": (
        "6d1f0fc67557eb0e952cce4a9d382f2b012ffee874635387870ab4be41682166",
        "b175b594eccc1553e51ddcea6cde3fd126b7d6180d2789ded982f8cc32af045d",
    ),
    "tiny/ipo": (
        "ac993331ea48133101a7abc0599f947ee2a5e15a2019e8a0e7db2e7895ddab51",
        "b175b594eccc1553e51ddcea6cde3fd126b7d6180d2789ded982f8cc32af045d",
    ),
    "tiny/spin": (
        "becda7f9309af7f082017e642b067ac59a8f5bdc6dd53c0d83e10678752b5df9",
        "b175b594eccc1553e51ddcea6cde3fd126b7d6180d2789ded982f8cc32af045d",
    ),
    "tiny/sft": (
        "a1bdd11ee510c762f7e8029cd9424eb95be5eba8f0bc5255ec81e8e9d6c72d92",
        "b175b594eccc1553e51ddcea6cde3fd126b7d6180d2789ded982f8cc32af045d",
    ),
    "tiny/chipo": (
        "68e5c6faeb818f1119075a60c3fac9a947349d006ec9ecf3284527c2c7da0f44",
        "b175b594eccc1553e51ddcea6cde3fd126b7d6180d2789ded982f8cc32af045d",
    ),
    "tiny/rpo": (
        "eb7850cc47783696b1b0fb4113dbeb5687a03c40acbdcc948d11d85fd055563e",
        "b175b594eccc1553e51ddcea6cde3fd126b7d6180d2789ded982f8cc32af045d",
    ),
    "tiny/dpop": (
        "02de855263209319f817d25d11177542e47cec0b4260b9e0bad53b2cf9a64955",
        "b175b594eccc1553e51ddcea6cde3fd126b7d6180d2789ded982f8cc32af045d",
    ),
    "tiny/sppo": (
        "b738b297858d9a990171db5047cc9ff600bdbbd038694de72e0b88c473b6dc3f",
        "b175b594eccc1553e51ddcea6cde3fd126b7d6180d2789ded982f8cc32af045d",
    ),
    "tiny/simpo": (
        "526d71708a6e0cd9182f8a0afc0b0e95bc836d398e00bb5ea074e9b004760b25",
        "b175b594eccc1553e51ddcea6cde3fd126b7d6180d2789ded982f8cc32af045d",
    ),
    "zephyr-7b/spac": (
        "9ab5ccd6cd79e2d6ad21665cb76f4ab0c076a56db687e8a9607020b413acca5a",
        "5651895d58b687f7cdfd6c6a8cde212db5446aa19d7054001a708e1f7033ced8",
    ),
    "zephyr-7b/dpo": (
        "b1cfd718a3ef3780505bf93a8c8799a090164f812809235df2759a03a315f698",
        "5651895d58b687f7cdfd6c6a8cde212db5446aa19d7054001a708e1f7033ced8",
    ),
    "zephyr-7b/ipo": (
        "3b680f1fab4eff1227cb09560bc3b8e374d6989e07fe597f9a5b71cca6b0a45a",
        "5651895d58b687f7cdfd6c6a8cde212db5446aa19d7054001a708e1f7033ced8",
    ),
    "zephyr-7b/spin": (
        "7f2f4fd659c3626886cb20d9ed94f4ba75d4ba99714500a2c85703dedbb1ada3",
        "5651895d58b687f7cdfd6c6a8cde212db5446aa19d7054001a708e1f7033ced8",
    ),
    "zephyr-7b/sft": (
        "23b75b10cd149d311ae37b9c8cdd6ffe0f282c15432cc3feb475ef47b7f8fd21",
        "5651895d58b687f7cdfd6c6a8cde212db5446aa19d7054001a708e1f7033ced8",
    ),
    "zephyr-7b/chipo": (
        "56d3bdad2243b2dd6e276b2a987c1874fba6962e2d35f496cb95481c663a1d2f",
        "5651895d58b687f7cdfd6c6a8cde212db5446aa19d7054001a708e1f7033ced8",
    ),
    "zephyr-7b/rpo": (
        "333f900ad90ce527beba08de6804e204411850291eb7c80aa051a63506b991a9",
        "5651895d58b687f7cdfd6c6a8cde212db5446aa19d7054001a708e1f7033ced8",
    ),
    "zephyr-7b/dpop": (
        "5a93db3c4edb4e6710a5e20ccc116fd9d5918020a968abe32354b39413b7644d",
        "5651895d58b687f7cdfd6c6a8cde212db5446aa19d7054001a708e1f7033ced8",
    ),
    "zephyr-7b/sppo": (
        "a7a545527b93bc3718f9abc2399979a387060c4c05b421a128a636c2452be9ca",
        "5651895d58b687f7cdfd6c6a8cde212db5446aa19d7054001a708e1f7033ced8",
    ),
    "zephyr-7b/simpo": (
        "6bb91066c0f67cb1661a23a9d962d5ae31094370152a70dd68f887cf4aff4b1d",
        "5651895d58b687f7cdfd6c6a8cde212db5446aa19d7054001a708e1f7033ced8",
    ),
    "zephyr-7b-lora/spac": (
        "365fbf6d2a048f745e00885b13a34d13038050e1bdcf464712bf05e2b4fcffd3",
        "98146887eca8048d868406d171eb3c7e6004f18eadd0717beb7c963e949859e4",
    ),
    "zephyr-7b-lora/dpo": (
        "8fa1526d73b7d4a940dc3bba56c5cdcd3b1ffaa7215fbb904e1b03fb7af49884",
        "98146887eca8048d868406d171eb3c7e6004f18eadd0717beb7c963e949859e4",
    ),
    "zephyr-7b-lora/ipo": (
        "d403ed7f8b6763b0b28557e6d44f9e05c245a5e4b101a0d71b9559f6a6a74819",
        "98146887eca8048d868406d171eb3c7e6004f18eadd0717beb7c963e949859e4",
    ),
    "zephyr-7b-lora/spin": (
        "00f656f909fafd4e614cde24f3947ab391a12eeb88d8ea00f2ed2c2c5fa25394",
        "98146887eca8048d868406d171eb3c7e6004f18eadd0717beb7c963e949859e4",
    ),
    "zephyr-7b-lora/sft": (
        "6ceb2bc3ba316035350242e53be4ecfef76b579882fcb62207c1a99081a839cc",
        "98146887eca8048d868406d171eb3c7e6004f18eadd0717beb7c963e949859e4",
    ),
    "zephyr-7b-lora/chipo": (
        "d8363e8843f291f69c38adb4565c1329ae18de02006aacdb48324ddb260fe7ab",
        "98146887eca8048d868406d171eb3c7e6004f18eadd0717beb7c963e949859e4",
    ),
    "zephyr-7b-lora/rpo": (
        "92c77cb038b0603edf0e511219f447ca3de77cd134b562c1f34814c11d3dcc41",
        "98146887eca8048d868406d171eb3c7e6004f18eadd0717beb7c963e949859e4",
    ),
    "zephyr-7b-lora/dpop": (
        "03a1a14a955a54fd3de74930a779737cd34b67fd3ff6c29a711f38b38c3a56a1",
        "98146887eca8048d868406d171eb3c7e6004f18eadd0717beb7c963e949859e4",
    ),
    "zephyr-7b-lora/sppo": (
        "50831c1e63f3cf8024e8fe2f47555003d3f6ba42d6cb255aafb7043f6f829fb6",
        "98146887eca8048d868406d171eb3c7e6004f18eadd0717beb7c963e949859e4",
    ),
    "zephyr-7b-lora/simpo": (
        "3504d698f1a3013413adc7aff8b3127bbc1b6a63bb251ba7edab921ce0c8cb03",
        "98146887eca8048d868406d171eb3c7e6004f18eadd0717beb7c963e949859e4",
    ),
}


@pytest.mark.parametrize("which", DIGESTS)
def test_digests_stay_as_they_are(which):
    name, method = which.split("/")
    run = recipes.load(name, method=method, seed=3)
    start = hashlib.sha256(json.dumps(run.start_settings(), sort_keys=True).encode()).hexdigest()
    assert (run.settings_sha256, start) == DIGESTS[which]


def test_every_recipe_and_method_has_its_digest_above():
    assert set(DIGESTS) == {f"{name}/{method}" for name in NAMES for method in methods.names()}


# Cost


def test_the_cost_of_the_7b_run():
    found = estimate(recipes.load("zephyr-7b"), 50_000)
    embedding = output = 32_000 * 4_096
    attention = 2 * 4_096 * 4_096 + 2 * 4_096 * 1_024
    layer = attention + 3 * 4_096 * 14_336 + 2 * 4_096
    assert found.parameters == embedding + output + 32 * layer + 4_096
    assert found.optimizer_steps == 4 * 3 * 782  # 782 batches of 64 hold 50,000
    assert found.training_tokens == 50_000 * 4 * 3 * 3 * 1_024
    assert found.generated_tokens == 50_000 * 4 * 512
    # bfloat16 weights and gradients, float32 weights and RMSProp's one average: 12 bytes, over eight processes.
    assert found.memory_per_process == 12 * found.parameters // 8
    assert found.checkpoint == (4 + 4) * found.parameters
    assert found.disk == 3 * found.checkpoint + 5 * 2 * found.parameters
    assert found.world_size == 8
    # Four passes a trained token (activations are recomputed), one pass a scored token: once an iteration, not once an epoch.
    assert found.training_flops == pytest.approx(2 * 7_241_732_096 * (4 * 1_843_200_000 + 614_400_000))
    assert found.gpu_hours == pytest.approx(257.5 + 92.8, abs=0.1)


def test_the_cost_of_the_7b_run_with_an_adapter():
    run = recipes.load("zephyr-7b-lora")
    found, whole = estimate(run, 50_000), estimate(recipes.load("zephyr-7b"), 50_000)
    widths = 2 * (4_096 + 4_096) + 2 * (4_096 + 1_024) + 3 * (4_096 + 14_336)
    assert found.trained == 16 * 32 * widths == 41_943_040
    assert whole.trained == whole.parameters == found.parameters
    # Frozen weights in bfloat16; the adapter, its gradients and RMSProp's one average in float32.
    assert found.memory_per_process == 2 * found.parameters + 12 * found.trained
    assert found.checkpoint == 8 * found.trained
    assert found.disk == 3 * found.checkpoint + 2 * found.parameters + 4 * 4 * found.trained
    # Three passes a trained token instead of four: no gradients of frozen weights.
    assert found.training_flops == pytest.approx(2 * 7_241_732_096 * (3 * 1_843_200_000 + 614_400_000))
    four_bits = estimate(recipes.load("zephyr-7b-lora", overrides=["policy.adapter.base_bits=4"]), 50_000)
    assert four_bits.memory_per_process == pytest.approx(4.127 / 8 * found.parameters + 12 * found.trained, rel=1e-3)
    assert {"parameters of the adapter"} == dict(table_rows(found)).keys() - dict(table_rows(whole)).keys()


def test_an_adapters_parameters_are_counted_from_the_architecture():
    from spac_repro.model import adapters, policy

    lora = ["policy.adapter.rank=3", "policy.adapter.alpha=6", "policy.adapter.targets=[q_proj, k_proj, o_proj, down_proj]"]
    run = recipes.load("tiny", overrides=lora)
    model, _ = policy.create_initial(run.recipe.policy, seed=0)
    adapters.add(model, run.recipe.policy.adapter, base_sha256="")
    assert estimate(run, 64).trained == sum(tensor.numel() for tensor in adapters.tensors(model).values())


def test_the_estimate_is_near_what_the_peer_took():
    """SPIN's first iteration: 4.32 hours of training and 1.45 of generation on eight GPUs; estimated tokens are upper bounds."""
    overrides = ["training.iterations=1", "data.max_response_tokens=256", "data.max_prompt_tokens=768"]
    found = estimate(recipes.load("zephyr-7b", method="spin", overrides=overrides), 50_000)
    assert found.gpu_hours == pytest.approx(8 * (4.32 + 1.45), rel=0.3)


def test_the_cost_of_the_real_small_run():
    found = estimate(recipes.load("smollm2-135m"), 40)
    assert found.optimizer_steps == 2 * 5
    assert found.training_tokens == 40 * 2 * 3 * (192 + 128)
    assert found.memory_per_process == 12 * 134_515_008  # float32 weights, gradients and one average
    assert found.checkpoint == 8 * 134_515_008


@pytest.mark.parametrize(
    ("overrides", "memory", "checkpoint"),
    [
        (["training.engine=deepspeed-zero2"], 2 + (2 + 8) / 8, 10),  # the weights stay whole
        (["training.optimizer=adamw"], 16 / 8, 12),  # about 87 GB
        (["training.engine=accelerate"], 2 + 6 + 8, 10),  # nothing is shared out
        (["policy.dtype=float32"], 12 / 8, 8),
    ],
)
def test_bytes_a_parameter(overrides, memory, checkpoint):
    found = estimate(recipes.load("zephyr-7b", overrides=overrides), None)
    assert found.memory_per_process == pytest.approx(memory * found.parameters)
    assert found.checkpoint == checkpoint * found.parameters


def test_a_method_pays_for_its_own_responses_only():
    spac, dpo, sft = (estimate(recipes.load("zephyr-7b", method=method), 64) for method in ("spac", "dpo", "sft"))
    assert spac.optimizer_steps == dpo.optimizer_steps == sft.optimizer_steps
    assert (dpo.generated_tokens, sft.generated_tokens) == (0, 0)
    assert spac.training_tokens == 3 * sft.training_tokens
    assert sft.training_flops == 2 * sft.parameters * 4 * sft.training_tokens  # no reference to score


def test_unknown_numbers_are_said_to_be_unknown():
    found = estimate(recipes.load("smollm2-135m", overrides=["data.max_pairs=null"]), None)
    assert found.gpu_hours is None
    assert dict(table_rows(found))["GPU hours, estimated"] == "unknown until the preference pairs are read"


def test_a_model_that_cannot_be_had_is_one_line_with_the_way_to_it(monkeypatch, capfd):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    from spac_repro.data import hub
    from spac_repro.errors import UnfitEnvironmentError

    def nothing(name: str, **_: object) -> str:
        raise LocalEntryNotFoundError("no network\nand no cache")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", nothing)
    settings = recipes.load("zephyr-7b").recipe.policy
    with pytest.raises(UnfitEnvironmentError) as refusal:
        hub.snapshot(settings.name, settings.revision)
    assert f"hf download {settings.name} --revision {settings.revision}" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert capfd.readouterr().err == ""
