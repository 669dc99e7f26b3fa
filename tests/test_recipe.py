"""Recipes as a user writes and changes them: what is read, where it comes from, and one line for every mistake."""

import json
import re
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from spac_repro import recipes
from spac_repro.errors import UserError
from spac_repro.recipe import Provenance
from spac_repro.recipes import load


def value(of: Any, mark: str = "assumed", why: str | None = None) -> dict[str, Any]:
    return {"value": of, "from": mark, **({"why": why} if why else {})}


def group(**settings: Any) -> dict[str, Any]:
    return {name: setting if isinstance(setting, dict) or setting is None else value(setting) for name, setting in settings.items()}


REFERENCED = group(
    learning_rate=1e-4, last_iteration_learning_rate=None, beta=0.1, last_iteration_beta=None, reference_policy="start"
)
TREE: dict[str, Any] = {
    "name": "mine",
    "summary": "A recipe of one's own.",
    "policy": {
        **group(source="random", name="mistral", revision=None, num_parameters=None, dtype="float32", attn_implementation="sdpa"),
        "architecture": group(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            sliding_window=None,
            max_position_embeddings=64,
        ),
    },
    "data": {
        **group(source="world", name=None, revision=None, max_pairs=20, prompt_template="plain"),
        **group(max_prompt_tokens=value(32, "SPIN", "a reason"), max_response_tokens=10, overlong_prompts="refuse"),
        "world": group(seed=1, preference_scale=5.0, correct=0.45, near_miss=0.30, truncated=0.17, garbage=0.08),
    },
    "supervised_start": None,
    "selfplay": group(temperature=1.0, top_p=1.0, prompts_per_seed=8, decode_batch_size=None, backend="transformers"),
    "methods": {
        "spac": {**REFERENCED, **group(preference_weight=3.0, critic_loss="smoothed", critic_baseline="both")},
        "dpo": REFERENCED,
        "ipo": REFERENCED,
        "spin": REFERENCED,
        "sft": group(learning_rate=1e-4, last_iteration_learning_rate=None),
    },
    "training": {
        **group(
            iterations=2,
            epochs_per_iteration=1,
            global_batch_size=8,
            micro_batch_tokens=64,
            optimizer="rmsprop",
            lr_scheduler_type="linear",
            warmup_ratio=0.1,
        ),
        **group(weight_decay=0.0, max_grad_norm=1.0, compute_dtype="float32", gradient_checkpointing=False, engine="accelerate"),
        **group(processes=1, threads=1, save_steps=10, save_total_limit=1),
    },
    "evaluation": group(
        suite="none", tasks=None, limit=None, batch_size=8, gold_prompts=0, gold_samples_per_prompt=1, heldout_pairs=0
    ),
}


@pytest.fixture
def write(tmp_path):
    """Writes a recipe, changed at a dotted key, and says where."""

    def write(key: str | None = None, node: Any = None, *, without: str | None = None) -> str:
        tree = json.loads(json.dumps(TREE))
        for path in filter(None, (key, without)):
            *groups, leaf = path.split(".")
            inner = tree
            for name in groups:
                inner = inner[name]
            if path == without:
                del inner[leaf]
            else:
                inner[leaf] = node
        file = tmp_path / "mine.yaml"
        file.write_text(yaml.safe_dump(tree))
        return str(file)

    return write


def refusal(name: str, **how: Any) -> str:
    with pytest.raises(UserError) as refused:
        load(name, **how)
    message = str(refused.value)
    assert "\n" not in message
    assert len(message) <= 300
    assert refused.value.exit_code == 2
    return message


def at(file: str, message: str) -> str:
    """The message without the file, which it begins with, and without the line, which it must name."""
    begun = re.match(rf"{re.escape(file)}, line \d+: ", message)
    assert begun, message
    return message[begun.end() :]


# What is read


def test_values_and_where_they_come_from(write):
    run = load(write())
    assert run.recipe.data.max_prompt_tokens == 32
    assert run.provenance["data.max_prompt_tokens"] == Provenance("SPIN", "a reason")
    assert run.provenance["methods.spac.beta"] == Provenance("assumed", "")
    assert "policy.revision" not in run.provenance  # null: nothing was chosen
    assert run.recipe.supervised_start is None
    assert run.method_settings == run.recipe.methods.spac


def test_a_runs_identity_is_what_bears_on_it(write):
    file = write()
    dpo = load(file, method="dpo")
    assert dpo.settings()["methods"]["dpo"] == {
        "learning_rate": 1e-4,
        "last_iteration_learning_rate": None,
        "beta": 0.1,
        "last_iteration_beta": None,
        "reference_policy": "start",
    }
    assert load(file, method="dpo", seed=7).settings_sha256 == dpo.settings_sha256
    assert load(file, method="dpo", overrides=["methods.spac.beta=9"]).settings_sha256 == dpo.settings_sha256  # another method's
    assert load(write("summary", "In other words.")).settings_sha256 == load(file).settings_sha256
    others = [
        load(file, method="ipo"),
        load(file, method="dpo", overrides=["methods.dpo.beta=9"]),
        load(file, method="dpo", overrides=["training.epochs_per_iteration=2"]),
    ]
    assert len({run.settings_sha256 for run in [dpo, *others]}) == 4


def test_settings_cannot_be_changed_behind_the_runs_back(write):
    with pytest.raises(ValueError, match="frozen"):
        load(write()).recipe.training.epochs_per_iteration = 5


# Names


@pytest.mark.parametrize(("given", "meant"), [("tinny", "tiny"), ("zephyr", "zephyr-7b"), ("smollm2", "smollm2-135m")])
def test_an_unknown_recipe_is_answered_with_the_nearest(given, meant):
    message = refusal(given)
    assert f"unknown recipe '{given}' (did you mean {meant}?)" in message
    assert all(name in message for name in recipes.names())


def test_where_nothing_is_near_nothing_is_suggested():
    assert "did you mean" not in refusal("qqqqqq")


@pytest.mark.parametrize(("given", "meant"), [("spca", "spac"), ("ipoo", "ipo"), ("SPIN", None)])
def test_an_unknown_method(given, meant):
    message = refusal("tiny", method=given)
    assert f"unknown method '{given}'" in message
    assert "the methods are spac, dpo, ipo, spin, sft" in message
    assert (f"did you mean {meant}?" in message) == (meant is not None)


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("training.epochs_per_iter", "training.epochs_per_iteration"),
        ("temperature", "selfplay.temperature"),
        ("trainig.batch_size", "training.global_batch_size"),
        ("methods.*.betta", "methods.spac.beta"),
        ("training.epochs_per_iteration.more", None),
        ("training", None),
        ("training.", None),
        ("", None),
        ("name", None),
        ("summary", None),
        ("data.world", None),
    ],
)
def test_an_unknown_key_of_set(key, meant):
    message = refusal("tiny", overrides=[f"{key}=3"])
    assert message.startswith(f"--set {key}=3: unknown key")
    assert "recipes show" in message
    if meant:
        assert f"did you mean {meant}?" in message


@pytest.mark.parametrize(
    ("key", "name", "meant"),
    [
        ("training", "epochs_per_iter", "epochs_per_iteration"),
        ("policy.architecture", "num_hidden_layer", "num_hidden_layers"),
        ("methods.spac", "lambda_", None),
        ("methods", "kto", None),
    ],
)
def test_an_unknown_key_of_a_file(write, key, name, meant):
    file = write(f"{key}.{name}", value(3))
    message = at(file, refusal(file))
    assert message.startswith(f"{key}.{name}: unknown key")
    assert (f"(did you mean {meant}?)" if meant else "; the keys here are ") in message


@pytest.mark.parametrize("key", ["training.epochs_per_iteration", "methods.spin.beta", "evaluation", "data.prompt_template"])
def test_a_key_that_is_missing(write, key):
    file = write(without=key)
    message = refusal(file)
    if "." not in key:  # no line: the whole file lacks it
        assert f"{file}: {key}: missing; see `spac-repro recipes show tiny`" in message
    else:
        assert f"{key}: missing; see `spac-repro recipes show tiny`" in at(file, message)


# Values

OUT_OF_RANGE = [
    ("training.epochs_per_iteration", "0"),
    ("training.epochs_per_iteration", "1.5"),
    ("training.epochs_per_iteration", "many"),
    ("training.epochs_per_iteration", ""),
    ("training.epochs_per_iteration", "[1]"),
    ("training.epochs_per_iteration", "{value: 3}"),
    ("training.warmup_ratio", "1.01"),
    ("training.warmup_ratio", "-0.1"),
    ("training.warmup_ratio", "nan"),
    ("methods.*.beta", "0"),
    ("methods.*.beta", "-1"),
    ("methods.*.beta", "inf"),
    ("methods.*.beta", ".nan"),
    ("methods.*.learning_rate", "1e400"),
    ("methods.*.preference_weight", "-1e-9"),
    ("methods.*.critic_loss", "smooth"),
    ("methods.*.critic_baseline", "all"),
    ("selfplay.top_p", "0"),
    ("selfplay.top_p", "1.1"),
    ("selfplay.temperature", "0"),
    ("training.save_total_limit", "0"),
    ("training.engine", "jax"),
    ("training.micro_batch_tokens", "0"),
    ("data.max_pairs", "-3"),
    ("data.world.correct", "0.9"),
    ("policy.source", "hub"),
    ("data.source", "file"),
]


@pytest.mark.parametrize(("key", "given"), OUT_OF_RANGE)
def test_a_value_out_of_range(key, given):
    message = refusal("tiny", overrides=[f"{key}={given}"])
    name = key.replace("methods.*.", "methods.spac.")
    checked_together = {"data.world.correct": "world", "policy.source": "architecture"}
    checked_together["data.source"] = "data.world"
    assert checked_together.get(key, name) in message
    assert message.startswith(f"--set {key}={given}: ")


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("methods.*.learning_rate", "1e-5", 1e-5),  # which YAML 1.1 takes for text
        ("methods.*.learning_rate", "2.5E-6", 2.5e-6),
        ("methods.*.beta", "5", 5.0),
        ("methods.*.last_iteration_beta", "0.5", 0.5),
        ("methods.*.last_iteration_beta", "null", None),
        ("training.epochs_per_iteration", "6", 6),
        ("training.gradient_checkpointing", "true", True),
        ("methods.*.critic_loss", "linear", "linear"),
        ("evaluation.tasks", "[mini_arc, mini_mmlu]", ["mini_arc", "mini_mmlu"]),
        ("data.name", "owner/name=with=equals", "owner/name=with=equals"),
    ],
)
def test_set_reads_values_as_they_are_meant(key, text, expected):
    run = load("tiny", overrides=[f"{key}={text}"])
    found: Any = run.recipe.model_dump(mode="json")
    name = key.replace("methods.*.", "methods.spac.")
    for part in name.split("."):
        found = found[part]
    assert found == expected
    assert type(found) is type(expected)
    assert run.provenance[name] == Provenance("set", f"--set {key}={text}")


def test_of_two_settings_of_a_key_the_last_holds():
    assert (
        load(
            "tiny", overrides=["training.epochs_per_iteration=5", "training.epochs_per_iteration=7"]
        ).recipe.training.epochs_per_iteration
        == 7
    )


def test_a_star_stands_for_the_runs_own_method():
    run = load("tiny", method="ipo", overrides=["methods.*.beta=0.7"])
    assert run.recipe.methods.ipo.beta == 0.7
    assert run.recipe.methods.spac.beta == load("tiny").recipe.methods.spac.beta


@pytest.mark.parametrize(("given", "lacks"), [("rank=4", "alpha"), ("alpha=4", "rank"), ("targets=[q_proj]", "rank")])
def test_a_group_that_overrides_begin_lacks_a_key(given, lacks):
    message = refusal("tiny", overrides=[f"policy.adapter.{given}"])
    assert message == f"--set policy.adapter.{given}: policy.adapter.{lacks}: missing; add --set policy.adapter.{lacks}=…"


@pytest.mark.parametrize("override", ["training.epochs_per_iteration", "", "training epochs 3"])
def test_set_without_an_equals_sign(override):
    assert "write key=value, for example --set training.epochs_per_iteration=1" in refusal("tiny", overrides=[override])


@pytest.mark.parametrize("text", ["[", "{a", "'", "a: b: c"])
def test_set_to_what_is_no_value(text):
    message = refusal("tiny", overrides=[f"training.epochs_per_iteration={text}"])
    assert message.startswith(f"--set training.epochs_per_iteration={text}: training.epochs_per_iteration: is not a value (")
    assert message.endswith("; write a number, a word or null")


# Where values come from


def test_a_setting_without_its_origin(write):
    file = write("training.epochs_per_iteration", 3)
    assert at(file, refusal(file)) == "training.epochs_per_iteration: no provenance; write it as {value: 3, from: assumed, why: …}"


@pytest.mark.parametrize("mark", ["set", "guessed", None, ["SPIN"]])
def test_an_origin_that_there_is_not(write, mark):
    file = write("training.epochs_per_iteration", {"value": 3, "from": mark})
    message = at(file, refusal(file))
    assert (
        f"training.epochs_per_iteration: `from` is {mark!r}; it must be one of abstract, reading, derived, tested, SPIN" in message
    )


def test_a_setting_has_a_value_an_origin_and_a_reason_and_nothing_else(write):
    file = write("training.epochs_per_iteration", {**value(3), "because": "of it"})
    assert at(file, refusal(file)) == "training.epochs_per_iteration.because: unknown key; a setting has value, from and why"


# Files

BROKEN = {
    "name: [": r"line \d+: name: not YAML",
    "a: 1\nb: 2\n c: 3": "line 3: not YAML",
    "\tname: x": "line 1: not YAML",
    "name: x\0": r"line 1: the character U\+0000 is not allowed",
    "name: *nobody": r"line 1: name: anchors \(&\) and aliases \(\*\) are not supported",
    "!!python/object/apply:os.system [exit 1]": r"line 1: tags \(!!python/object/apply:os\.system\) are not supported",
    "": "not a recipe: it must be a mapping of settings",
    "- 1": "not a recipe",
    "just words": "not a recipe",
    "3: {value: 3, from: assumed}": "",
    "name: mine\npolicy: {value: 3, from: assumed}": "",
    "name: mine\npolicy: [1]": "policy: no provenance",
}


@pytest.mark.parametrize("text", BROKEN)
def test_a_file_that_is_no_recipe(tmp_path, text):
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    message = refusal(str(file))
    assert message.startswith(str(file))
    assert re.search(BROKEN[text], message)


def test_a_file_that_cannot_be_read(tmp_path):
    assert refusal(str(tmp_path / "none.yaml")).startswith(f"{tmp_path / 'none.yaml'}: no such file; name a file, or one of ")
    (tmp_path / "bytes.yaml").write_bytes(b"name: \xff\xfe")
    assert at(str(tmp_path / "bytes.yaml"), refusal(str(tmp_path / "bytes.yaml"))) == "not UTF-8 at byte 6; save it as UTF-8"
    (tmp_path / "folder.yaml").mkdir()
    assert "Is a directory" in refusal(str(tmp_path / "folder.yaml"))


@given(st.text(max_size=60) | st.text(":-{}[]&*!'\"\n\t ab1", max_size=40))
def test_no_text_is_met_with_anything_but_one_line(tmp_path_factory, text):
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_text(text, encoding="utf-8", errors="replace")
    refusal(str(file))


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)


@settings(max_examples=40)  # each reads a whole recipe
@given(st.sampled_from(sorted(recipes.leaf_keys(load("tiny").recipe.model_dump()))), scalars)
def test_any_value_for_any_key_is_taken_or_refused_in_one_line(key, given_value):
    override = f"{key}={yaml.safe_dump(given_value, default_flow_style=True).removesuffix('...').strip()}"
    message = ""
    try:
        load("tiny", overrides=[override])
    except UserError as refused:
        message = str(refused)
    assert "\n" not in message
    assert len(message) <= 300
