"""`--policy`: one's own model folder, or a model of the hub at a commit, in the commands that take it."""

import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest
from chat_families import FAMILIES, make_model, make_tokenizer

from spac_repro import recipes
from spac_repro.model import adapters, folder_identity, policy
from spac_repro.runs.folder import RunFolder
from spac_repro.trust.expected import load_expected

PAIRS = [{"prompt": f"{number}+1?", "chosen": str(number + 1), "rejected": "no"} for number in range(6)]
QUICK = ("training.iterations=1", "training.global_batch_size=4", "data.max_prompt_tokens=60", "data.prompt_template=chat")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small chat model with random weights, as `save_pretrained` leaves it."""
    family = FAMILIES["llama 2"]
    tokenizer = make_tokenizer(family.template, family.eos)
    folder = tmp_path_factory.mktemp("saved") / "model"
    policy.save(make_model(family, tokenizer), tokenizer, folder)
    return folder


@pytest.fixture
def model(saved: Path, tmp_path: Path) -> Path:
    """The model in the current folder; a test may change it."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def arguments(recipe: Path, pairs: Path, *more: str) -> list[str]:
    """The `train` command of a quick run, without the policy."""
    sets = [part for setting in QUICK for part in ("--set", setting)]
    return ["train", "--recipe", str(recipe), "--preferences", str(pairs), "--out", "run", *sets, *more]


def test_a_run_from_a_folder_is_the_same_wherever_the_folder_is(invoke, refused, own_recipe, pairs, model, tmp_path):
    train = arguments(own_recipe(), pairs(*PAIRS), "--json")
    assert invoke(*train, "--policy", "model", "--until", "0").code == 0
    manifest = RunFolder.open(tmp_path / "run").manifest
    settings = manifest.settings["policy"]
    assert settings["revision"] == folder_identity.sha256(model)
    assert "name" not in settings
    assert str(tmp_path) not in (tmp_path / "run" / "manifest.json").read_text()
    model.rename(tmp_path / "moved")
    done = invoke(*train, "--policy", tmp_path / "moved")  # it resumes
    assert done.code == 0, done.err
    results = json.loads(done.out)
    trained, _ = policy.load(tmp_path / "run" / "iteration-1" / "policy")
    assert results["weights_sha256"] == policy.weights_sha256(trained)

    # Another model is another run, and `compare` names it.
    config = json.loads((tmp_path / "moved" / "config.json").read_text())
    (tmp_path / "moved" / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.1}))
    assert "policy.revision" in refused(*train, "--policy", "moved", stages=True)
    train[train.index("run")] = "other"
    assert invoke(*train, "--policy", "moved").code == 0
    assert "settings.policy.revision" in invoke("compare", "run", "other").out

    # A run is repeated only with the folder that it started from.
    assert "name the folder with --policy" in refused("train", "--like", "run")
    like = ("train", "--like", "other", "--out", "again", "--preferences", pairs(*PAIRS))
    assert invoke(*like, "--policy", "moved").code == 0
    (tmp_path / "moved" / "config.json").write_text(json.dumps(config))
    shutil.rmtree(tmp_path / "again")
    assert "is not the model that is named" in refused(*like, "--policy", "moved", stages=True)
    assert invoke("report", "run").code == 0
    page = (tmp_path / "report.html").read_text()
    assert "--policy FOLDER" in page
    assert str(tmp_path) not in page


def test_pairs_that_are_held_out_are_scored_and_not_trained_on(invoke, own_recipe, pairs, model, tmp_path):
    """In the manifest, the report and every iterate's scores; at the start every ratio is 0."""
    train = arguments(own_recipe(), pairs(*PAIRS, *PAIRS[:2]), "--policy", "model", "--json")
    done = invoke(*train, "--set", "data.heldout_prompts=2")
    assert done.code == 0, done.err
    run = RunFolder.open(tmp_path / "run")
    recorded = run.manifest.inputs["heldout"]
    assert recorded["prompts"] == 2
    assert run.manifest.inputs["preferences"] == 8 - recorded["preferences"]
    start, last = (
        {score.metric: score for score in iterate.scores if score.task == "heldout"} for iterate in run.results.iterations
    )
    assert {*start} >= {"accuracy", "margin", "rho_chosen", "rho_rejected", "rho_selfplay", "divergence"}
    assert start["accuracy"].value == 0.5
    assert start["margin"].value == 0
    assert last["margin"].value == pytest.approx(last["rho_chosen"].value - last["rho_rejected"].value, abs=1e-6)
    assert last["margin"].value != 0
    assert last["margin"].n == recorded["preferences"]
    assert invoke("report", "run").code == 0
    assert "inputs.heldout.sha256" in (page := (tmp_path / "report.html").read_text()) or "heldout.sha256" in page
    assert invoke("verify", "run").code == 2  # unverified: a recipe of one's own
    shown = invoke("data", tmp_path / "pairs.jsonl", "--recipe", "smollm2-135m", "--set", "data.heldout_prompts=2", "--json").out
    assert json.loads(shown)["rows_kept"] == run.manifest.inputs["preferences"]


@pytest.mark.parametrize("name", recipes.names())
def test_other_commands_take_it(invoke, name, model, tmp_path):
    shown = json.loads(invoke("recipes", "show", name, "--policy", "model", "--json").out)["settings"]["policy"]
    assert shown["source"] == "folder"
    assert shown["architecture"] is None
    assert shown["num_parameters"] == sum(weights.numel() for weights in policy.load(model)[0].parameters())
    assert invoke("train", "--recipe", name, "--policy", "model", "--dry-run").code == 0
    done = invoke("doctor", "--recipe", name, "--policy", "model", "--out", tmp_path / "runs", "--json")
    assert {check["verdict"] for check in json.loads(done.out)["checks"] if check["what"] == "disk"} == {"ok"}


def test_the_plan_counts_an_adapter_on_the_folder(invoke, refused, model):
    lora = ["policy.adapter.rank=3", "policy.adapter.alpha=6", "policy.adapter.targets=[q_proj, k_proj, down_proj]"]
    sets = [part for setting in lora for part in ("--set", setting)]
    plan = json.loads(invoke("train", "--recipe", "smollm2-135m", "--policy", "model", *sets, "--dry-run", "--json").out)
    loaded, _ = policy.load(model)
    adapters.add(loaded, recipes.load("tiny", overrides=lora).recipe.policy.adapter, base_sha256="")
    assert plan["trained"] == sum(tensor.numel() for tensor in adapters.tensors(loaded).values())
    assert plan["parameters"] > plan["trained"]
    message = refused("train", "--recipe", "smollm2-135m", *sets, "--dry-run")
    assert "the size of the adapter is unknown before the policy is read; write it into the recipe as policy.adapter" in message


def test_data_shows_the_tokens_of_the_folder(invoke, pairs, model):
    sets = [part for setting in QUICK for part in ("--set", setting)]
    done = invoke(
        "data", pairs(*PAIRS), "--recipe", "smollm2-135m", "--policy", "model", *sets, "--set", "data.heldout_prompts=2", "--json"
    )
    assert json.loads(done.out)["examples"][0]["tokens"]["chosen"], done


def test_a_sweep_takes_it_from_any_folder(invoke, own_recipe, pairs, model, tmp_path):
    sweep = {"name": "mine", "summary": "s", "recipe": str(own_recipe()), "seeds": [1, 2], "methods": ["dpo"]}
    (tmp_path / "mine.yaml").write_text(json.dumps(sweep | {"recipe": str(own_recipe().rename(tmp_path / "own.yaml"))}))
    plan = json.loads(invoke("sweep", "submit", "mine.yaml", "--policy", "model", "--dry-run", "--json").out)
    assert {f'policy.name="{model}"' for _ in plan["tasks"]} <= {*plan["tasks"][0]["settings"]}


def without(*names: str) -> Any:
    """Remove files of the model."""
    return lambda folder: [(folder / name).unlink() for name in names]


def only_pickles(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def an_adapter(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')


def cut(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-4])


@pytest.mark.parametrize(
    ("change", "problem", "remedy"),
    [
        (only_pickles, "only pickle weights", "convert them"),
        (without("tokenizer.json", "tokenizer_config.json"), "no tokenizer", "tokenizer.save_pretrained"),
        (an_adapter, "adapter_config.json would replace the weights", "merge"),
        (without("config.json"), "no config.json", "model folder"),
        (cut, "lies beyond its end", "save the model again"),
    ],
)
def test_a_bad_folder(refused, model, change, problem, remedy):
    change(model)
    for command in (["train", "--dry-run"], ["recipes", "show", "tiny"], ["prefetch", "--cache", "cache"]):
        message = refused(*command, "--policy", "model")
        assert problem in message
        assert remedy in message


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("some/model", "has no commit; write some/model@COMMIT"),
        ("some/model@main", "'main' is no commit; write some/model@COMMIT"),
        ("some/model@012345", "is no commit"),
        ("./nowhere", "no such folder"),
        ("nowhere", "OWNER/NAME@COMMIT"),
    ],
)
def test_a_bad_name(refused, name, problem):
    assert problem in refused("train", "--policy", name)
    assert "omit --policy" in refused("data", "pairs.jsonl", "--policy", name)
    assert "omit it" in refused("doctor", "--policy", name)


def test_a_model_of_the_hub(invoke, refused):
    shown = json.loads(invoke("recipes", "show", "tiny", "--policy", f"some/model@{COMMIT}", "--json").out)["settings"]["policy"]
    assert (shown["source"], shown["name"], shown["revision"]) == ("hub", "some/model", COMMIT)


def test_a_folder_in_a_recipe_needs_its_hash(refused, own_recipe, model):
    file = own_recipe(policy__source="folder", policy__name="model", policy__architecture=None)
    assert "--policy FOLDER` computes it" in refused("recipes", "check", file)


def test_the_identity_is_of_the_weights_and_not_of_their_files(model, tmp_path):
    loaded, tokenizer = policy.load(model)
    loaded.save_pretrained(tmp_path / "shards", max_shard_size="6KB")
    tokenizer.save_pretrained(tmp_path / "shards")
    assert len([*(tmp_path / "shards").glob("*.safetensors")]) > 1
    assert folder_identity.sha256(tmp_path / "shards") == folder_identity.sha256(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder_identity, "CHUNK_BYTES", 7)
        folder_identity._sha256.cache_clear()
        assert folder_identity.sha256(tmp_path / "shards") == folder_identity.sha256(model)
    before = folder_identity.sha256(model)
    content = bytearray((model / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (model / "model.safetensors").write_bytes(content)
    assert folder_identity.sha256(model) != before


def test_expected_results_of_ones_own(invoke, refused, own_recipe, pairs, model, tmp_path):
    """Mean and spread of three seeds; a fourth run agrees with them, and disagrees where the file is off."""
    train = arguments(own_recipe(), pairs(*PAIRS), "--policy", "model", "--method", "dpo", "--set", "data.heldout_prompts=2")
    folders = [tmp_path / f"seed-{seed}" for seed in range(4)]
    for seed, folder in enumerate(folders):
        assert invoke(*train, "--seed", seed, "--out", folder).code == 0
    assert "seed 0 is kept" in refused("expected", "measure", *folders, "-o", "numbers.yaml")
    assert "3 or more" in refused("expected", "measure", *folders[1:3], "-o", "numbers.yaml")
    assert "heldout/margin" in refused("expected", "measure", *folders[1:], "-o", "numbers.yaml", "--primary", "heldout/margn")
    done = invoke("expected", "measure", *folders[1:], "-o", "numbers.yaml")
    assert done.code == 0, done.err
    assert "of 3 seeds; these decide: heldout margin" in done.out
    expected = load_expected(tmp_path / "numbers.yaml")
    command = expected.sources["ours"].command
    assert "--method dpo --seed N --policy FOLDER" in command
    assert "--set data.heldout_prompts=2" in command  # without it, the command would not repeat the runs
    (row,) = [row for row in expected.rows if row.primary]
    last = [RunFolder.open(folder).results.iterations[-1].scores for folder in folders[1:]]
    margins = [score.value for scores in last for score in scores if (score.task, score.metric) == ("heldout", "margin")]
    assert row.value == pytest.approx(statistics.fmean(margins))
    assert row.sd == pytest.approx(statistics.stdev(margins))
    assert "exists" in refused("expected", "measure", *folders[1:], "-o", "numbers.yaml")
    said = json.loads(invoke("verify", folders[0], "--expected", "numbers.yaml", "--json").out)
    assert said["status"] == "verified", said
    off = expected.as_yaml().replace(f"value: {row.value}", f"value: {row.value + 100 * (1 + row.sd)}")
    (tmp_path / "off.yaml").write_text(off)
    assert invoke("verify", folders[0], "--expected", "off.yaml").code == 1

    # Runs that differ in more than their seed make no row.
    other = [*train, "--set", "training.max_grad_norm=2", "--seed", "4", "--out", tmp_path / "other"]
    assert invoke(*other).code == 0
    message = refused("expected", "measure", *folders[1:3], "other", "-o", "third.yaml")
    assert "settings.training.max_grad_norm" in message
