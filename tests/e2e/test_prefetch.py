"""What a recipe needs is fetched once, pinned and hashed; a job verifies it and trains with the hub switched off."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hub
import pytest
import yaml

pytestmark = pytest.mark.e2e

SETTINGS = {
    "policy.name": "lab/small",
    "policy.revision": hub.REVISION,
    "policy.num_parameters": 10000,
    "policy.dtype": "float32",
    "data.name": "lab/pairs",
    "data.revision": hub.REVISION,
    "data.max_pairs": 8,
    "data.max_prompt_tokens": 64,
    "data.max_response_tokens": 16,
    "data.overlong_prompts": "truncate",
    "training.device": None,
    "training.engine": "accelerate",
    "training.processes": 1,
    "training.iterations": 1,
    "training.epochs_per_iteration": 1,
    "training.global_batch_size": 4,
    "training.gradient_checkpointing": False,
    "evaluation.tasks": ["gsm8k"],
    "evaluation.limit": 2,
}


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with a tokenizer, some preferences, and some questions, as the hub keeps them."""
    from transformers import MistralConfig, MistralForCausalLM

    from spac_repro.data import tokenizers

    root = tmp_path_factory.mktemp("hub")
    tokenizer = tokenizers.world_tokenizer()
    tokenizer.chat_template = "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}"
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    model = MistralForCausalLM(MistralConfig(vocab_size=len(tokenizer), max_position_embeddings=4096, **shape))
    model.save_pretrained(root / "models/lab/small")
    tokenizer.save_pretrained(root / "models/lab/small")
    (root / "models/lab/small/code.py").write_text("raise SystemExit('remote code ran')")

    def rows(folder: str, name: str, content: list[dict[str, Any]]) -> None:
        (root / "datasets" / folder).mkdir(parents=True, exist_ok=True)
        (root / "datasets" / folder / name).write_text("".join(json.dumps(row) + "\n" for row in content))

    pairs = [{"prompt": f"sort: {i}ba", "chosen": "ab", "rejected": "ba"} for i in range(8)]
    rows("lab/pairs", "train_prefs.jsonl", pairs)
    card = {"configs": [{"config_name": "default", "data_files": [{"split": "train_prefs", "path": "train_prefs.jsonl"}]}]}
    (root / "datasets/lab/pairs/README.md").write_text(f"---\n{yaml.safe_dump(card)}---\n")
    for split, numbers in (("train", range(8)), ("test", range(8, 16))):
        questions = [{"question": f"{i} and 1?", "answer": f"sum\n#### {i + 1}"} for i in numbers]
        rows("openai/gsm8k", f"main/{split}.jsonl".replace("main/", "main_"), questions)
    files = [{"split": split, "path": f"main_{split}.jsonl"} for split in ("train", "test")]
    card = {"configs": [{"config_name": "main", "data_files": files}]}
    (root / "datasets/openai/gsm8k/README.md").write_text(f"---\n{yaml.safe_dump(card)}---\n")
    return root


def spac_repro(*arguments: str | Path, address: str) -> subprocess.CompletedProcess[str]:
    names = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    return subprocess.run(
        [sys.executable, "-m", "spac_repro", *map(str, arguments)],
        env={**environment, "HF_ENDPOINT": address, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def settings() -> Iterator[str]:
    for key, value in {**SETTINGS, "data.name": "lab/pairs:train_prefs"}.items():
        yield from ("--set", f"{key}={json.dumps(value)}")


@pytest.mark.check
def test_fetched_once_then_trained_without_the_hub(repositories: Path, tmp_path: Path) -> None:
    cache, sweep, profile, out = (tmp_path / name for name in ("cache", "sweep.yaml", "here.yaml", "sweep"))
    fetch = ("prefetch", "--recipe", "zephyr-7b", "--cache", cache, *settings(), "--json")
    with hub.serving(repositories) as (address, requests):
        first = spac_repro(*fetch, address=address)
        assert first.returncode == 0, first.stderr
        assert not [request for request in requests if "code.py" in request and "resolve" in request], "no code is fetched"
        again = spac_repro(*fetch, address=address)
    manifest = json.loads(first.stdout)
    assert [next(iter(item)) for item in manifest["fetched"]] == ["model", "preferences", "questions"]
    assert manifest["fetched"][0]["revision"] == hub.REVISION
    assert json.loads(again.stdout)["files"] == manifest["files"]

    cell = {"name": "offline", "summary": "one", "recipe": "zephyr-7b", "seeds": [0], "methods": ["dpo"]}
    sweep.write_text(yaml.safe_dump({**cell, "settings": {**SETTINGS, "data.name": "lab/pairs:train_prefs"}}))
    where = {"summary": "here", "scheduler": "local", "minutes": 60, "offline": True, "cache": str(cache)}
    profile.write_text(yaml.safe_dump(where))
    done = spac_repro("sweep", "submit", sweep, "--cluster", profile, "--out", out, address=address)
    assert done.returncode == 0, done.stdout + "".join(path.read_text() for path in out.rglob("*.err"))
    scores = json.loads((out / "dpo/seed-0/results.json").read_text())["iterations"][1]["scores"]
    assert {score["task"] for score in scores} == {"gsm8k"}

    weights = next(file for file in cache.rglob("blobs/*") if file.stat().st_size > 10000)
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    changed = spac_repro("sweep", "submit", sweep, "--cluster", profile, "--out", tmp_path / "changed", address=address)
    assert changed.returncode == 1
    assert f"{weights.relative_to(cache)} is not what was downloaded; remove it and repeat `spac-repro prefetch" in changed.stdout
    unfit = spac_repro("doctor", "--cluster", profile, "--out", tmp_path, address=address)
    assert unfit.returncode == 3
    assert "is not what was downloaded" in " ".join(unfit.stdout.split())


@pytest.mark.check
def test_a_hub_out_of_reach_is_one_line(tmp_path: Path) -> None:
    done = spac_repro("prefetch", "--cache", tmp_path / "cache", *settings(), address="http://127.0.0.1:9")
    assert done.returncode == 3
    assert "the model lab/small at revision" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_recipe_that_needs_nothing_says_so(tmp_path: Path) -> None:
    done = spac_repro("prefetch", "--recipe", "tiny", "--cache", tmp_path / "cache", address="http://127.0.0.1:9")
    assert done.returncode == 2
    assert "recipe tiny needs nothing from the hub" in done.stderr


def test_every_preference_that_the_recipe_uses_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that a run would refuse is found before a node without a network gets to it."""
    import datasets

    from spac_repro import prefetch, recipes
    from spac_repro.data import hub as model_hub
    from spac_repro.errors import UserError
    from spac_repro.progress import NoProgress

    good = {"prompt": "x", "chosen": "a", "rejected": "b"}
    rows = [good, good, {**good, "prompt": [{"role": "tool", "content": "x"}]}]
    data = datasets.Dataset.from_list([{**row, "prompt": json.dumps(row["prompt"])} for row in rows])
    monkeypatch.setattr(datasets, "load_dataset", lambda name, revision: datasets.DatasetDict(train_prefs=data))
    monkeypatch.setattr(model_hub, "snapshot", lambda name, revision: Path())
    own = {**SETTINGS, "data.name": "lab/pairs:train_prefs", "evaluation.suite": "none", "evaluation.tasks": None}

    def fetch(pairs: int | None) -> list[dict[str, Any]]:
        values = {**own, "data.max_pairs": pairs}
        run = recipes.load("zephyr-7b", overrides=[f"{key}={json.dumps(value)}" for key, value in values.items()])
        return prefetch._fetch(run, NoProgress())

    with pytest.raises(UserError, match=r"lab/pairs:train_prefs, row 3: prompt: roles must be user"):
        fetch(None)
    assert len(fetch(2)) == 2
