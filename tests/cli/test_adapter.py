"""Adapters on the command line: repeated and resumed runs, sweeps over adapter settings, and what is refused with one line."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from spac_repro.launchers import matrix
from spac_repro.model import adapter_folder, adapters, policy, quantized
from spac_repro.runs.folder import RunFolder

PAIRS = [{"prompt": f"{number}+1?", "chosen": str(number + 1), "rejected": "no"} for number in range(6)]
QUICK = ("training.iterations=2", "training.global_batch_size=4", "data.max_prompt_tokens=60")
ADAPTER = ("policy.adapter.rank=2", "policy.adapter.alpha=4", "policy.adapter.targets=[q_proj, v_proj]")


@pytest.fixture
def train(own_recipe: Any, pairs: Any) -> Any:
    """The words of a `train` command of DPO with an adapter, into a folder and with further settings."""
    recipe, file = own_recipe(), pairs(*PAIRS)

    def words(out: str, *more: str, adapter: tuple[str, ...] = ADAPTER) -> list[str]:
        sets = [part for setting in (*QUICK, *adapter, *more) for part in ("--set", setting)]
        return ["train", "--recipe", str(recipe), "--method", "dpo", "--preferences", str(file), "--out", out, "--json", *sets]

    return words


@pytest.fixture(scope="module")
def first_iterate() -> dict[str, Path]:
    """Where a run of one iteration is kept for the tests of this file, once the first of them made it."""
    return {}


@pytest.fixture
def iterate(invoke: Any, train: Any, tmp_path: Path, tmp_path_factory: Any, first_iterate: dict[str, Path]) -> Path:
    """The adapter folder of a run's first iterate."""
    if not first_iterate:
        assert invoke(*train("run"), "--until", "1").code == 0
        kept = tmp_path_factory.mktemp("kept") / "run"
        first_iterate["run"] = Path(shutil.copytree(tmp_path / "run", kept))
    else:
        shutil.copytree(first_iterate["run"], tmp_path / "run")
    return RunFolder(tmp_path / "run").iteration(1).policy


@pytest.mark.usefixtures("iterate")
def test_a_run_is_gone_on_with_only_by_its_own_adapter_settings(invoke: Any, refused: Any, train: Any, tmp_path: Path) -> None:
    for setting, there, here in (
        ("policy.adapter.rank=3", "2", "3"),
        ("policy.adapter.alpha=5", "4.0", "5.0"),
        ("policy.adapter.targets=[q_proj]", "", ""),
    ):
        message = refused(*train("run", setting), stages=True)
        key = setting.partition("=")[0]
        assert f"run was made by another run: settings.{key}" in message
        assert f"is {there} there and {here} here; choose another folder with --out" in message or not there
    assert "run was made by another run: settings.policy.adapter" in refused(*train("run", adapter=()), stages=True)
    assert invoke(*train("run")).code == 0
    assert RunFolder(tmp_path / "run").results.complete


@pytest.mark.check
def test_a_run_is_repeated_from_its_manifest(invoke: Any, train: Any, tmp_path: Path) -> None:
    assert invoke(*train("run")).code == 0
    done = invoke("train", "--like", "run", "--preferences", tmp_path / "pairs.jsonl", "--json")
    assert done.code == 0, done.err
    first, again = (RunFolder(tmp_path / name) for name in ("run", "run-again"))
    assert json.loads(done.out)["weights_sha256"] == first.results.weights_sha256
    assert again.manifest.settings["policy"]["adapter"] == first.manifest.settings["policy"]["adapter"]
    assert adapter_folder.read(again.iteration(2).policy).settings.rank == 2


def test_a_sweep_over_adapter_settings_shares_its_start(invoke: Any, own_recipe: Any, pairs: Any, tmp_path: Path) -> None:
    own_recipe().rename(tmp_path / "own.yaml")
    settings = dict(setting.split("=", 1) for setting in QUICK) | {"policy.adapter.alpha": 4, "policy.adapter.targets": ["q_proj"]}
    sweep = {
        "name": "ranks", "summary": "s", "recipe": "own.yaml", "seeds": [1], "methods": ["dpo"], "preferences": str(pairs(*PAIRS)),
        "settings": settings, "vary": {"policy.adapter.rank": [1, 2]},
    }  # fmt: skip
    (tmp_path / "ranks.yaml").write_text(json.dumps(sweep))
    plan = json.loads(invoke("sweep", "submit", "ranks.yaml", "--dry-run", "--json").out)
    assert [task["run"] for task in plan["tasks"] if task["task"] != "start"] == ["rank=1/dpo/seed-1", "rank=2/dpo/seed-1"]
    assert len({run.start_sha256 for run in matrix.runs(matrix.Sweep.load("ranks.yaml"))}) == 1


def commands(folder: str) -> list[list[str]]:
    """What takes an adapter folder."""
    return [["evaluate", folder, "--suite", "mini"], ["export", folder, "-o", "merged"]]


def test_another_base_is_refused_by_its_hash(refused: Any, iterate: Path, tmp_path: Path) -> None:
    model, tokenizer = policy.load(RunFolder(tmp_path / "run").iteration(0).policy)
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    policy.save(model, tokenizer, tmp_path / "other")
    shutil.copytree(iterate, tmp_path / "adapter")
    for command in commands("adapter"):
        message = refused(*command, "--base", "other", stages=True)
        assert "adapter: the adapter was trained on the base with the weights" in message
        assert "name its own base with --base" in message


def test_pickles_are_refused(refused: Any, iterate: Path, tmp_path: Path) -> None:
    shutil.copytree(iterate, tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").rename(tmp_path / "adapter" / "adapter_model.bin")
    for command in commands("adapter"):
        assert "only pickle weights (adapter_model.bin)" in refused(*command, stages=True)


@pytest.mark.parametrize("installed", [None, "0.50.2"])
def test_four_bits_need_bitsandbytes_and_a_gpu(
    refused: Any, iterate: Path, train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: str | None
) -> None:
    monkeypatch.setattr(quantized, "installed_version", lambda name: installed)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    said = "no GPU is visible" if installed else "bitsandbytes is not installed"
    assert said in refused(*train("four", "policy.adapter.base_bits=4"), code=3, stages=True)
    model, _ = adapter_folder.load(iterate, base=RunFolder(tmp_path / "run").iteration(0).policy)
    known = adapters.of(model)
    assert known is not None
    four = adapters.Adapter(known.settings.model_copy(update={"base_bits": 4}), known.base_sha256)
    setattr(model, adapters._RECORD, four)
    shutil.copytree(iterate, tmp_path / "adapter")
    adapters.save(model, tmp_path / "adapter", base="../run/iteration-0/policy", revision=None)
    for command in commands("adapter"):
        assert said in refused(*command, code=3, stages=True)


def test_a_target_that_the_model_lacks_is_refused(refused: Any, train: Any) -> None:
    message = refused(*train("run", "policy.adapter.targets=[q_porj]"), stages=True)
    assert "policy.adapter.targets: mistral has no linear layers 'q_porj' (did you mean q_proj?)" in message


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("training.engine=deepspeed-zero2", "training.processes=2"), "`training.engine: deepspeed-zero2`"),
        (("training.engine=deepspeed-zero3", "training.processes=2"), "`training.engine: deepspeed-zero3`"),
        (("selfplay.backend=vllm",), "`selfplay.backend: vllm`"),
    ],
)
def test_what_cannot_train_an_adapter_is_refused(refused: Any, train: Any, settings: tuple[str, ...], said: str) -> None:
    assert f"`policy.adapter` is not supported with {said}" in refused(*train("run", *settings))
