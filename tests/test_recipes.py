"""The recipes that ship: complete, every setting with where it comes from, and plans that agree with sums done by hand."""

import hashlib
import json
from importlib import resources

import pytest
import yaml

from spac_repro import methods, recipes
from spac_repro.plan import plan, rows
from spac_repro.recipe import MARKS

NAMES = ("smollm2-135m", "tiny", "zephyr-7b")


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


@pytest.mark.parametrize("name", ["smollm2-135m", "zephyr-7b"])
def test_untuned_methods_are_compared_on_equal_terms(name):
    """One method's learning rate would be its own advantage."""
    blocks = recipes.load(name).recipe.methods
    assert len({getattr(blocks, method).learning_rate for method in methods.names()}) == 1


def test_the_7b_run_is_pinned_and_set_as_its_peer():
    settings = recipes.load("zephyr-7b").recipe
    assert settings.policy.revision == "ac6e600eefcce74f5e8bae1035d4f66019e93190"
    assert len(settings.data.revision) == 40
    training, data = settings.training, settings.data
    assert training.batch_size == 64 == 8 * training.processes
    assert data.longest_prompt + data.longest_response == 1024
    assert settings.methods.spin.last_learning_rate == 1e-7
    assert settings.methods.spin.last_beta == 5.0
    assert settings.methods.spac.last_beta is None


# Identity

# Settings digest, and SHA-256 of the settings of iteration 0. Old runs and expected results are met by these, so they never
# change: a new setting has its neutral value for a default (tests/test_identity.py).
DIGESTS = {
    "smollm2-135m/spac": (
        "4ae8374a2819c30c6bd34846a4804c8875528fc322116772d8e8e55921c94026",
        "68642dbe93ce29bcfb30e3005fa0d122a87b0e8d91f2e67a26bdc66327e4e165",
    ),
    "smollm2-135m/dpo": (
        "46d86bc176474ff654da72d38a0e36728fdc10a5e683916a319e0e86ef2da94f",
        "68642dbe93ce29bcfb30e3005fa0d122a87b0e8d91f2e67a26bdc66327e4e165",
    ),
    "smollm2-135m/ipo": (
        "82941dcbf6e84e85b8140a1ef522ff80cf76c46f338a74272a206215b666897d",
        "68642dbe93ce29bcfb30e3005fa0d122a87b0e8d91f2e67a26bdc66327e4e165",
    ),
    "smollm2-135m/spin": (
        "d71d68e32b57d5e77239e9518df89a096f588cbf4f1ffc18c68ff44e33f68234",
        "68642dbe93ce29bcfb30e3005fa0d122a87b0e8d91f2e67a26bdc66327e4e165",
    ),
    "smollm2-135m/sft": (
        "69f5e121f74f323aa8921b3065d7a6704d348bc23d292e4803e2344a479b5245",
        "68642dbe93ce29bcfb30e3005fa0d122a87b0e8d91f2e67a26bdc66327e4e165",
    ),
    "tiny/spac": (
        "097f0783e2a55c01b6c31828f1ee7b3c11eba3f43e5f130893ac5fcc46b1227c",
        "def931cc2124c8dab46b3ef2eaf1066205a6afad54d84f71ed882e8dbf080870",
    ),
    "tiny/dpo": (
        "d4248a2032b4f95dfdf5d035de90d38d5c4e2330f1eaf98c830cd7b26d457b1a",
        "def931cc2124c8dab46b3ef2eaf1066205a6afad54d84f71ed882e8dbf080870",
    ),
    "tiny/ipo": (
        "45f34916e2c2d7b59a402538f213bcd25a4abeede77fd45e46c90e2dfad063d2",
        "def931cc2124c8dab46b3ef2eaf1066205a6afad54d84f71ed882e8dbf080870",
    ),
    "tiny/spin": (
        "b8b5d76063828b3df1d0fe86c89a5fddd53764d2eb03208278fd97e441b15c3e",
        "def931cc2124c8dab46b3ef2eaf1066205a6afad54d84f71ed882e8dbf080870",
    ),
    "tiny/sft": (
        "4a5ffc8a0af04e99a875befdfd6a9ca64740a1bfadcf602d9c59933e5dd8fead",
        "def931cc2124c8dab46b3ef2eaf1066205a6afad54d84f71ed882e8dbf080870",
    ),
    "zephyr-7b/spac": (
        "8fcf3aa6a69c61cef451da87c2352253f8525c9c91f15632e8e8110752fc0912",
        "08f45cf5ccde93e841be00ad228e9fe4026de5e6296b0f8c2a5507d01a2f53a2",
    ),
    "zephyr-7b/dpo": (
        "890607bec7d6a28d3ba61aa8c380ddb0b85d3bf63eebb3214d2d5475320faebb",
        "08f45cf5ccde93e841be00ad228e9fe4026de5e6296b0f8c2a5507d01a2f53a2",
    ),
    "zephyr-7b/ipo": (
        "1338c2852bce2836b84bc1414170cbec6957969b4c8b9a4327ab1cdaf2f54e97",
        "08f45cf5ccde93e841be00ad228e9fe4026de5e6296b0f8c2a5507d01a2f53a2",
    ),
    "zephyr-7b/spin": (
        "c972f9aa8c6ef2d4d221c3f1c2083383433223f4b66375a15152eb462e8d7ebc",
        "08f45cf5ccde93e841be00ad228e9fe4026de5e6296b0f8c2a5507d01a2f53a2",
    ),
    "zephyr-7b/sft": (
        "8fa2d4f31914204d1c935efcad2cc4813850c8771b5da19a5cbd82edb8b0fb05",
        "08f45cf5ccde93e841be00ad228e9fe4026de5e6296b0f8c2a5507d01a2f53a2",
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


# Plans


def test_the_plan_of_the_7b_run():
    found = plan(recipes.load("zephyr-7b"), 50_000)
    embedding = output = 32_000 * 4_096
    attention = 2 * 4_096 * 4_096 + 2 * 4_096 * 1_024
    layer = attention + 3 * 4_096 * 14_336 + 2 * 4_096
    assert found.parameters == embedding + output + 32 * layer + 4_096
    assert found.optimiser_steps == 4 * 3 * 782  # 782 batches of 64 hold 50,000
    assert found.training_tokens == 50_000 * 4 * 3 * 3 * 1_024
    assert found.generated_tokens == 50_000 * 4 * 512
    # bfloat16 weights and gradients, float32 weights and RMSProp's one average: 12 bytes, over eight processes.
    assert found.memory_per_process == 12 * found.parameters // 8
    assert found.checkpoint == (2 + 4 + 4) * found.parameters
    assert found.disk == 3 * found.checkpoint + 5 * 2 * found.parameters
    assert found.world_size == 8
    # Four passes a trained token (activations are recomputed), one pass a scored token: once an iteration, not once an epoch.
    assert found.training_flops == pytest.approx(2 * 7_241_732_096 * (4 * 1_843_200_000 + 614_400_000))
    assert found.gpu_hours == pytest.approx(257.5 + 92.8, abs=0.1)


def test_the_estimate_is_near_what_the_peer_took():
    """SPIN's first iteration: 4.32 hours of training and 1.45 of generation on eight GPUs; the plan's tokens are upper bounds."""
    overrides = ["training.iterations=1", "data.longest_response=256", "data.longest_prompt=768"]
    found = plan(recipes.load("zephyr-7b", method="spin", overrides=overrides), 50_000)
    assert found.gpu_hours == pytest.approx(8 * (4.32 + 1.45), rel=0.3)


def test_the_plan_of_the_real_small_run():
    found = plan(recipes.load("smollm2-135m"), 64)
    assert found.optimiser_steps == 2 * 8
    assert found.training_tokens == 64 * 2 * 3 * (192 + 128)
    assert found.memory_per_process == 12 * 134_515_008  # float32 weights, gradients and one average
    assert found.checkpoint == 8 * 134_515_008


@pytest.mark.parametrize(
    ("overrides", "memory", "checkpoint"),
    [
        (["training.engine=deepspeed-zero2"], 2 + (2 + 8) / 8, 10),  # the weights stay whole
        (["training.optimizer=adamw"], 16 / 8, 14),  # about 101 GB
        (["training.engine=accelerate"], 2 + 2 + 2, 4),  # nothing is shared out, and nothing is kept in float32
        (["policy.dtype=float32"], 12 / 8, 8),
    ],
)
def test_bytes_a_parameter(overrides, memory, checkpoint):
    found = plan(recipes.load("zephyr-7b", overrides=overrides), None)
    assert found.memory_per_process == pytest.approx(memory * found.parameters)
    assert found.checkpoint == checkpoint * found.parameters


def test_a_method_pays_for_its_own_responses_only():
    spac, dpo, sft = (plan(recipes.load("zephyr-7b", method=method), 64) for method in ("spac", "dpo", "sft"))
    assert spac.optimiser_steps == dpo.optimiser_steps == sft.optimiser_steps
    assert (dpo.generated_tokens, sft.generated_tokens) == (0, 0)
    assert spac.training_tokens == 3 * sft.training_tokens
    assert sft.training_flops == 2 * sft.parameters * 4 * sft.training_tokens  # no reference to score


def test_unknown_numbers_are_said_to_be_unknown():
    found = plan(recipes.load("smollm2-135m"), None)
    assert found.gpu_hours is None
    assert dict(rows(found))["GPU hours, estimated"] == "not known before the preferences are read"


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
