"""`train`: what is refused, in one line and with nothing written; what it writes into; and what it would cost."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from spac_repro import recipes
from spac_repro.runs import files, lock
from spac_repro.runs.folder import RunFolder

PAIR = {"prompt": "ab", "chosen": "ba", "rejected": "b"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--recipe", "tinny"], "did you mean tiny?"),
        (["--method", "spca"], "did you mean spac?"),
        (["--set", "training.epoch=1"], "did you mean training.epochs_per_iteration?"),
        (["--set", "training.epochs_per_iteration"], "write key=value"),
        (["--set", "training.warmup_ratio=2"], "training.warmup_ratio: Input should be less than or equal to 1 (given 2)"),
    ],
)
@pytest.mark.parametrize("more", [[], ["--dry-run"], ["--json"]])
def test_what_cannot_be_trained(refused, arguments, words, more):
    assert words in refused("train", *arguments, *more)


def test_a_dry_run_writes_nothing(invoke, tree, tmp_path):
    done = invoke("train", "--method", "dpo", "--seed", "3", "--dry-run", "--json")
    assert done.code == 0
    plan = json.loads(done.out)
    assert plan["run"] == "runs/tiny/dpo/seed-3"
    assert plan["optimizer_steps"] > 0
    assert "optimizer steps" in invoke("train", "--dry-run").out
    assert tree(tmp_path) == {}


# Preferences

BAD_PAIRS = {
    "empty": ([], "is empty; at least one preference pair is needed"),
    "not JSON": ([PAIR, PAIR, '{"prompt": '], "line 3: not JSON"),
    "no field": ([PAIR, {"prompt": "ab", "chosen": "ba"}], "line 2: lacks the field rejected; the fields there: prompt, chosen"),
    "no preference": ([{**PAIR, "rejected": "ba"}] * 2, "no preference pair is left: chosen and rejected are equal (2 rows)"),
    "two prompts": (
        [
            PAIR,
            *[
                {
                    answer: [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
                    for answer, asked in (("chosen", "a"), ("rejected", "b"))
                }
            ],
        ],
        "line 2: chosen and rejected have different prompts",
    ),
}


@pytest.mark.parametrize("kind", BAD_PAIRS)
def test_bad_preferences(refused, own_recipe, pairs, kind):
    lines, words = BAD_PAIRS[kind]
    file = pairs(*lines)
    message = refused("train", "--recipe", own_recipe(), "--preferences", file, "--out", "run")
    assert str(file) in message
    assert words in message


def test_rows_without_a_preference_are_dropped_and_recorded(invoke, refused, own_recipe, pairs, tmp_path):
    file = pairs({**PAIR, "rejected": "ba"}, PAIR, PAIR, {**PAIR, "chosen": ""})
    command = ("train", "--recipe", own_recipe(), "--preferences", file, "--until", "0", "--out", "run")
    assert "line 1: chosen and rejected are equal, which states no preference" in refused(*command, "--strict")
    run = invoke(*command)
    assert f"1 of 4 rows dropped: chosen and rejected are equal (first: {file}, line 1)" in run.err
    assert f"1 of 4 rows dropped: a response is empty (first: {file}, line 4)" in run.err
    manifest = RunFolder.open(tmp_path / "run").manifest
    equal, empty = {"rows": 1, "first_row": 1}, {"rows": 1, "first_row": 4}
    dropped = {"chosen and rejected are equal": equal, "a response is empty": empty}
    assert manifest.data == {"reading": {"rows_kept": 2, "rows_dropped": dropped}}
    clean = pairs(PAIR, PAIR)
    invoke("train", "--recipe", own_recipe(), "--preferences", clean, "--until", "0", "--out", "clean")
    other = RunFolder.open(tmp_path / "clean").manifest
    assert other.identity_sha256() == manifest.identity_sha256()
    assert "data" not in json.loads((tmp_path / "clean" / "manifest.json").read_text())
    invoke("report", "run", "-o", "report.html")
    assert "data.reading.rows_dropped.a response is empty.rows" in (tmp_path / "report.html").read_text()


def test_preferences_that_are_not_there(refused, own_recipe):
    assert "missing.jsonl: no such file" in refused("train", "--recipe", own_recipe(), "--preferences", "missing.jsonl")
    assert "name some with --preferences FILE" in refused("train", "--recipe", own_recipe())
    assert "a recipe with a built-in world takes no --preferences" in refused("train", "--preferences", "pairs.jsonl")
    assert "omit --preferences" in refused("train", "--preferences", "some/data")


@pytest.mark.parametrize("out", ["run", "there", "there/is/none/yet"])
def test_a_prompt_longer_than_the_limit(refused, own_recipe, pairs, tmp_path, out):
    (tmp_path / "there").mkdir()
    file = pairs(PAIR, {**PAIR, "prompt": "abcdefghij"})
    arguments = ["train", "--recipe", own_recipe(), "--preferences", file, "--set", "data.max_prompt_tokens=6", "--out", out]
    message = refused(*arguments, stages=True)
    assert "row 2: the prompt has 11 tokens and the limit is 6" in message
    assert "--set data.overlong_prompts=truncate" in message


def test_a_tokenizer_without_the_chat_template_that_is_wanted(refused):
    assert "no chat template; choose --set data.prompt_template=instruction" in refused(
        "train", "--set", "data.prompt_template=chat"
    )


# Run folders


def manifest_of(file: Path, **changes: Any) -> dict[str, Any]:
    run = recipes.load(str(file))
    identity = {"schema": 1, "recipe": run.recipe.name, "method": run.method, "seed": 0, "settings": run.settings()}
    return {**identity, "inputs": {}, "environment": {}, "segments": [], **changes}


def test_a_folder_of_another_run(refused, own_recipe, pairs, tmp_path):
    """It keeps every byte."""
    file = own_recipe()
    files.write_json(tmp_path / "run" / "manifest.json", {**manifest_of(file), "seed": 5})
    (tmp_path / "run" / ".lock").touch()
    (tmp_path / "run" / "results.json").write_text("{}")
    message = refused("train", "--recipe", file, "--preferences", pairs(PAIR), "--out", "run")
    assert "was made by another run" in message
    assert "--out" in message


def test_a_folder_in_use(invoke, tree, own_recipe, pairs, tmp_path):
    with lock.exclusive_access(tmp_path / "run"):
        before = tree(tmp_path / "run")
        done = invoke("train", "--recipe", own_recipe(), "--preferences", pairs(PAIR), "--out", "run")
        assert tree(tmp_path / "run") == before
    assert done.code == 2
    owner = f"process {os.getpid()} on {os.uname().nodename}"
    assert done.err == f"spac-repro: run is in use by {owner}; wait for it, or choose another folder with --out\n"


def test_a_folder_of_other_things(refused, tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "one.txt").write_text("Dear …")
    assert "it is not a run folder; choose another with --out" in refused("train", "--out", "letters")
    assert "it or a parent is a file" in refused("train", "--out", "letters/one.txt/run")


def test_a_full_disk(invoke, tree, tmp_path, monkeypatch):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    full = lambda path, *how, real=os.open: real("/dev/full", os.O_WRONLY) if str(path).endswith(".partial") else real(path, *how)  # noqa: E731
    monkeypatch.setattr(os, "open", full)
    (tmp_path / "run").mkdir()
    done = invoke("train", "--out", "run")
    assert done.code == 3
    assert done.err == (
        "spac-repro: cannot write to run: No space left on device; make room and repeat the command: finished work is kept\n"
    )
    assert tree(tmp_path / "run") == {}


def test_a_model_on_the_hub_without_a_hub(refused, own_recipe, pairs, tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    file = own_recipe(policy__source="hub", policy__name="some/model", policy__revision="abc", policy__architecture=None)
    message = refused("train", "--recipe", file, "--preferences", pairs(PAIR), "--out", "run", code=3)
    assert "the model some/model at revision abc is not cached" in message
    assert "download" in message
    for words in (["train", "--recipe", file, "--dry-run"], ["doctor", "--recipe", file]):
        assert "the size of the policy is unknown before it is read; write it into the recipe" in refused(*words)


def test_another_number_of_processes_than_the_recipes_is_refused(tmp_path):
    """Training in one process what a recipe means for eight would be another experiment under the same name."""
    from spac_repro import pipeline
    from spac_repro.errors import UserError

    run = recipes.load("tiny", overrides=["training.processes=2"])
    with pytest.raises(UserError, match=r"training\.processes is 2, and 1 were started"):
        pipeline.train(run, tmp_path / "run", None, allow_changed_environment=False, progress=None)
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_repeated_brings_its_own_settings(refused):
    for option in (
        ("--seed", "1"),
        ("--set", "training.epochs_per_iteration=1"),
        ("--recipe", "tiny"),
        ("--method", "dpo"),
        ("--max-pairs", "3"),
    ):
        message = refused("train", "--like", "runs/x", *option)
        assert message == f"--like takes settings and seed from the run; omit {option[0]}"
    assert refused("train", "--like", "runs/x") == "runs/x: no such run folder"
