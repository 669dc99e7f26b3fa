"""The command line through its entry point: exit codes, one line for what is wrong, and nothing written where something is."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from spac_repro import cli, recipes
from spac_repro.optim import signals
from spac_repro.runs import files, lock

HEAVY = ("torch", "transformers", "lm_eval", "datasets", "matplotlib", "scipy", "numpy", "pyarrow", "accelerate", "tensorboard")


class Finished(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def invoke(tmp_path, monkeypatch, capsys):
    """Runs a command in the temporary folder, by way of the function behind `spac-repro`."""
    monkeypatch.chdir(tmp_path)
    handler = signal.getsignal(signal.SIGTERM)

    def invoke(*arguments: Any) -> Finished:
        monkeypatch.setattr(sys, "argv", ["spac-repro", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Finished(code, *capsys.readouterr())

    yield invoke
    signal.signal(signal.SIGTERM, handler)


def tree(folder: Path) -> dict[str, bytes | str | None]:
    """All that is in a folder."""

    def content(path: Path) -> bytes | str | None:
        if path.is_symlink():
            return os.readlink(path)
        return path.read_bytes() if path.is_file() else None

    return {str(path.relative_to(folder)): content(path) for path in sorted(folder.rglob("*"))}


@pytest.fixture
def refused(invoke, tmp_path):
    """Runs a command that must fail with one line and leave the folder as it was; the line."""

    def refused(*arguments: Any, code: int = 2, stages: bool = False) -> str:
        before = tree(tmp_path)
        done = invoke(*arguments)
        assert done.code == code, done
        assert done.out == ""
        lines = done.err.splitlines()
        if stages:  # progress may come before it
            lines = lines[-1:]
        assert len(lines) == 1, done.err
        assert lines[0].startswith("spac-repro: ")
        assert tree(tmp_path) == before
        return lines[0].removeprefix("spac-repro: ")

    return refused


PAIR = {"prompt": "ab", "chosen": "ba", "rejected": "b"}


@pytest.fixture
def pairs(tmp_path):
    """Writes a preference file of these lines."""

    def write(*lines: Any) -> Path:
        path = tmp_path / "pairs.jsonl"
        path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
        return path

    return write


@pytest.fixture
def own_recipe(tmp_path):
    """Writes a recipe for one's own preferences with a very small policy, from `tiny` and changes by dotted key."""

    def write(**changes: Any) -> Path:
        def plain(values: Any) -> Any:
            leaf = lambda value: value if value is None else {"value": value, "from": "assumed"}  # noqa: E731
            return {key: plain(value) if isinstance(value, dict) else leaf(value) for key, value in values.items()}

        values = recipes.load("tiny").recipe.model_dump(mode="json")
        values["data"] |= {"source": "file", "world": None, "pairs": None}
        values["start"] = None
        values["evaluation"] |= {"suite": "none", "gold_prompts": 0, "heldout_pairs": 0}
        values["policy"]["architecture"] |= {"hidden_size": 16, "intermediate_size": 16, "layers": 1}
        for key, value in changes.items():
            group, name = key.split("__")
            values[group][name] = value
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({**plain(values), "name": "mine", "summary": "One's own."}))
        return path

    return write


# What a user meets first


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["verify", "--help"], ["recipes", "show", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    """Counted in modules and not in seconds, which depend on the machine."""
    program = "import atexit, json, sys; from spac_repro import cli\n"
    program += "atexit.register(lambda: print(json.dumps(sorted(sys.modules)), file=sys.stderr))\ncli.main()"
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    assert "Usage:" in done.stdout
    imported = {name.split(".")[0] for name in json.loads(done.stderr.splitlines()[-1])}
    assert "typer" in imported  # the list is not empty by mistake
    assert imported.isdisjoint(HEAVY)


def test_the_help_tells_the_exit_codes(invoke):
    done = invoke("--help")
    assert done.code == 0
    assert all(word in " ".join(done.out.split()) for word in ("0 done", "1 ran", "2 wrong usage", "3 this environment", "130"))
    assert all(command in done.out for command in ("train", "evaluate", "verify", "recipes"))


def test_the_installed_command_is_this_one():
    command = Path(sys.executable).parent / "spac-repro"
    if not command.exists():
        pytest.skip("the package is not installed in this environment")
    done = subprocess.run([command, "train", "--recipe", "tinny"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("spac-repro: unknown recipe 'tinny' (did you mean tiny?)")
    assert len(done.stderr.splitlines()) == 1


def test_a_reader_that_leaves_is_no_error():
    """As in `spac-repro recipes show tiny | head -1`."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "spac_repro", "recipes", "show", "tiny"], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert done.stderr == ""


@pytest.mark.parametrize(
    "arguments", [["train", "--seed", "-1"], ["train", "--limit", "0"], ["train", "--metod", "dpo"], ["trian"]]
)
def test_wrong_usage(invoke, tmp_path, arguments):
    done = invoke(*arguments)
    assert done.code == 2
    assert done.out == ""
    assert arguments[1 if len(arguments) > 1 else 0] in done.err.splitlines()[-1]
    assert tree(tmp_path) == {}


def test_what_fails_after_a_signal_is_an_interruption(invoke, monkeypatch):
    def half_imported(*_, **__):
        raise RecursionError("maximum recursion depth exceeded")

    monkeypatch.setattr(recipes, "load", half_imported)
    monkeypatch.setattr("os._exit", sys.exit)
    with pytest.raises(RecursionError):
        invoke("train")
    monkeypatch.setattr(signals, "_came", True)
    assert invoke("train").code == 130


def test_an_interruption_says_how_to_go_on(invoke, monkeypatch):
    def interrupted(*_, **__):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(recipes, "load", interrupted)
    monkeypatch.setattr("os._exit", sys.exit)
    done = invoke("train")
    assert done.code == 130
    assert done.err == "spac-repro: interrupted; the same command goes on from the last checkpoint\n"


# Recipes


def test_recipes_are_listed_shown_and_checked(invoke, own_recipe):
    assert set(json.loads(invoke("recipes", "list", "--json").out)) == set(recipes.names())
    assert all(name in invoke("recipes", "list").out for name in recipes.names())
    shown = json.loads(invoke("recipes", "show", "tiny", "--set", "training.epochs=9", "--json").out)
    assert shown["settings"]["training"]["epochs"] == 9
    assert shown["provenance"]["training.epochs"] == {"mark": "set", "why": "--set training.epochs=9"}
    table = invoke("recipes", "show", "tiny").out
    assert "methods.spac.beta" in table
    assert "[reading]" in table
    assert invoke("recipes", "check", own_recipe()).out.endswith("recipe mine is valid\n")


def test_a_bad_recipe_is_refused_by_every_command(refused, own_recipe):
    file = own_recipe(training__epochs=0)
    for command in (["recipes", "check", file], ["recipes", "show", file], ["train", "--recipe", file]):
        assert refused(*command) == f"{file}: training.epochs: Input should be greater than 0 (given 0)"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--recipe", "tinny"], "did you mean tiny?"),
        (["--method", "spca"], "did you mean spac?"),
        (["--set", "training.epoch=1"], "did you mean training.epochs?"),
        (["--set", "training.epochs"], "write key=value"),
        (["--set", "training.warmup=2"], "training.warmup: Input should be less than or equal to 1 (given 2)"),
    ],
)
@pytest.mark.parametrize("more", [[], ["--dry-run"], ["--json"]])
def test_what_cannot_be_trained(refused, arguments, words, more):
    assert words in refused("train", *arguments, *more)


def test_a_dry_run_writes_nothing(invoke, tmp_path):
    done = invoke("train", "--method", "dpo", "--seed", "3", "--dry-run", "--json")
    assert done.code == 0
    plan = json.loads(done.out)
    assert plan["run"] == "runs/tiny/dpo/seed-3"
    assert plan["optimiser_steps"] > 0
    assert "optimiser steps" in invoke("train", "--dry-run").out
    assert tree(tmp_path) == {}


# Preferences

BAD_PAIRS = {
    "empty": ([], "is empty; at least one preference pair is needed"),
    "not JSON": ([PAIR, PAIR, '{"prompt": '], "line 3: not JSON"),
    "no field": ([PAIR, {"prompt": "ab", "chosen": "ba"}], "line 2: lacks the field rejected"),
    "no preference": ([PAIR, {**PAIR, "rejected": "ba"}], "line 2: chosen and rejected are the same"),
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


def test_preferences_that_are_not_there(refused, own_recipe):
    assert "missing.jsonl: no such file" in refused("train", "--recipe", own_recipe(), "--preferences", "missing.jsonl")
    assert "give some with --preferences FILE" in refused("train", "--recipe", own_recipe())
    assert "a recipe with a built-in world takes no --preferences" in refused("train", "--preferences", "pairs.jsonl")
    assert "leave --preferences out" in refused("train", "--preferences", "some/data")


@pytest.mark.parametrize("out", ["run", "there", "there/is/none/yet"])
def test_a_prompt_longer_than_the_limit(refused, own_recipe, pairs, tmp_path, out):
    (tmp_path / "there").mkdir()
    file = pairs(PAIR, {**PAIR, "prompt": "abcdefghij"})
    arguments = ["train", "--recipe", own_recipe(), "--preferences", file, "--set", "data.longest_prompt=6", "--out", out]
    message = refused(*arguments, stages=True)
    assert "row 2: the prompt has 11 tokens and the limit is 6" in message
    assert "--set data.overlong_prompts=truncate" in message


def test_a_tokenizer_without_the_chat_template_that_is_wanted(refused):
    assert "no chat template; choose --set data.template=instruction" in refused("train", "--set", "data.template=chat")


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


def test_a_folder_in_use(invoke, own_recipe, pairs, tmp_path):
    with lock.owned(tmp_path / "run"):
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
    assert "a file stands in its way" in refused("train", "--out", "letters/one.txt/run")


def test_a_full_disk(invoke, tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "..owner.json.partial").symlink_to("/dev/full")  # where the first file is written
    done = invoke("train", "--out", "run")
    assert done.code == 3
    assert done.err == (
        "spac-repro: cannot write to run: No space left on device; what was finished is kept, so make room and repeat the command\n"
    )
    assert tree(tmp_path / "run") == {}


# Models


def test_a_model_folder_with_pickles_only(refused, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"\x80\x04")
    message = refused("evaluate", "model", stages=True)
    assert "only pickle weights (pytorch_model.bin)" in message
    assert "safetensors are wanted" in message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["."], "no config.json"),
        ([".", "--suite", "openlm"], "did you mean 'openllm'?"),
        ([".", "--tasks", "gsm9k"], "gsm8k"),
    ],
)
def test_what_cannot_be_evaluated(refused, arguments, words):
    assert words in refused("evaluate", *arguments, stages=True)


def test_a_model_on_the_hub_without_a_hub(refused, own_recipe, pairs, tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    file = own_recipe(policy__source="hub", policy__name="some/model", policy__revision="abc", policy__architecture=None)
    message = refused("train", "--recipe", file, "--preferences", pairs(PAIR), "--out", "run", code=3)
    assert "the model some/model at revision abc is not in the cache" in message
    assert "download" in message


# Verification


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name at least one run folder"),
        (["run", "--scores", "results.json"], "give run folders or --scores, not both"),
        (["--scores", "results.json", "--recipe", "tiny"], "--scores needs --recipe, --method and --iteration"),
    ],
)
def test_what_cannot_be_verified(refused, arguments, words):
    assert words in refused("verify", *arguments)


def test_another_number_of_processes_than_the_recipes_is_refused(tmp_path):
    """Training in one process what a recipe means for eight would be another experiment under the same name."""
    from spac_repro import pipeline
    from spac_repro.errors import UserError

    run = recipes.load("tiny", overrides=["training.processes=2"])
    with pytest.raises(UserError, match=r"training\.processes is 2, and 1 were started"):
        pipeline.train(run, tmp_path / "run", None, allow_changed_environment=False, progress=None)
    assert not (tmp_path / "run").exists()


# Comparing and reporting


def test_what_is_no_run_can_be_neither_compared_nor_reported(refused, tmp_path):
    assert refused("compare", "a", "b") == "a: no such run folder"
    (tmp_path / "a").mkdir()
    assert "a has no manifest.json" in refused("compare", "a", "b")
    assert "a has no manifest.json" in refused("compare", "a", "expected.yaml")
    assert "a: no run folder, and none below it" in refused("report", "a")


def test_a_run_that_is_repeated_brings_its_own_settings(refused):
    for option in (("--seed", "1"), ("--set", "training.epochs=1"), ("--recipe", "tiny"), ("--method", "dpo"), ("--limit", "3")):
        assert refused("train", "--like", "runs/x", *option).startswith("--like takes settings and seed from the run")
    assert refused("train", "--like", "runs/x") == "runs/x: no such run folder"
