"""The recipe zephyr-7b as it is, but for its size: ZeRO-3, bf16, checkpointed activations, the chat template, real data.

The model is a Mistral of a few million random weights, of which every layer is partitioned, with a real tokenizer, fetched by
revision from a stand-in for the hub.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cut_down
import hub
import pytest

from spac_repro import recipes
from spac_repro.cost import estimate
from spac_repro.errors import UnfitEnvironmentError
from spac_repro.runs.folder import RunFolder

pytestmark = [pytest.mark.distributed, pytest.mark.real]

RECIPE = recipes.load("zephyr-7b").recipe
# Where the weights come from, and how much of everything; no method, engine, precision, schedule or frame.
SIZE = (
    "policy.name=lab/small",
    f"policy.revision={hub.REVISION}",
    "policy.num_parameters=6587008",
    "data.max_prompt_tokens=96",
    "data.max_response_tokens=32",
    "training.processes=2",
    "training.device=null",
    "training.iterations=2",
    "training.epochs_per_iteration=1",
    "training.global_batch_size=5",  # processes get 3 and 2 examples, each a micro-batch
    "training.micro_batch_tokens=96",
    "training.save_steps=2",
    "evaluation.limit=1",
    'evaluation.tasks=["winogrande", "gsm8k"]',  # all six: seen by hand, five minutes beside other work
)


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as the hub keeps it."""
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    from spac_repro.model import policy

    try:
        _, tokenizer = policy.create_initial(recipes.load("smollm2-135m").recipe.policy, seed=0)
    except UnfitEnvironmentError as reason:
        pytest.skip(f"no real tokenizer: {reason}")
    shape = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
    config = MistralConfig(vocab_size=len(tokenizer), max_position_embeddings=32768, **shape, **heads)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("hub") / "models/lab/small"
    MistralForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder.parents[2]


def command(folder: Path, shared: Path, *arguments: str, settings: tuple[str, ...] = SIZE) -> list[str]:
    """A run of the recipe with real preference pairs and questions, in two processes that leave their counts beside it."""
    inputs = ["--preferences", str(shared / "preferences/gsm8k_solutions.jsonl.gz"), "--questions", str(shared / "leaderboard")]
    train = cut_down.command(folder / "run", "--recipe", "zephyr-7b", *inputs, "--max-pairs", "12", *arguments, settings=settings)
    script = str(Path(__file__).with_name("counted_tensors.py"))
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script, *train[3:]]


@contextmanager
def environment(folder: Path, repositories: Path) -> Iterator[dict[str, str]]:
    """What a run needs in order to find the stand-in for the hub."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    with hub.serving(repositories) as (address, _):
        own = {"HF_ENDPOINT": address, "HF_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1", "COUNTED_TENSORS": str(folder)}
        own["PYTHONPATH"] = str(Path(__file__).parents[2])
        yield {name: value for name, value in os.environ.items() if name not in names} | own


@pytest.fixture(scope="module")
def whole(repositories: Path, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    with environment(folder, repositories) as variables:
        done = subprocess.run(command(folder, shared), env=variables, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "2 processes are connected; engine deepspeed-zero3" in done.stderr
    return folder


def test_all_but_the_size(whole: Path) -> None:
    settings = json.loads((whole / "run/manifest.json").read_text())["settings"]
    theirs = RECIPE.training
    kept = ("engine", "optimizer", "lr_scheduler_type", "warmup_ratio", "max_grad_norm", "compute_dtype", "gradient_checkpointing")
    assert {name: settings["training"][name] for name in kept} == {name: getattr(theirs, name) for name in kept}
    assert (theirs.engine, theirs.compute_dtype, settings["data"]["prompt_template"]) == (
        "deepspeed-zero3",
        "bfloat16",
        "chat",
    )
    steps = RunFolder(whole / "run").metrics()
    assert [(each.iteration, each.step) for each in steps] == [(t, step) for t in (1, 2) for step in (1, 2, 3)]
    iterates = cut_down.results(whole / "run")["iterations"]
    assert len({iterate["weights_sha256"] for iterate in iterates}) == 3, "every iteration moves the weights"
    assert {score["task"] for score in iterates[-1]["scores"]} == {"winogrande", "gsm8k"}
    card = (whole / "run/iteration-2/policy/README.md").read_text()
    assert "not transcribed" in card or "lab/small" in card


def test_layers_are_partitioned_and_recomputed_and_processes_have_unequal_micro_batches(whole: Path) -> None:
    ours, theirs = ([json.loads(line) for line in (whole / f"{rank}.jsonl").read_text().splitlines()] for rank in (0, 1))
    assert len(ours) == len(theirs) == 2
    for one, other in zip(ours, theirs, strict=True):
        for layer in (0, 1):
            parts = {name for name in one["partitioned"] if f".layers.{layer}." in name}
            assert len(parts) == 5, parts  # queries, outputs and the MLP's three; a layer's keys and values have 8,192 numbers each
        assert any(a != b for a, b in zip(one["micro_batches"], other["micro_batches"], strict=True))
        assert one["layer_passes"] == other["layer_passes"] == 2 * one["passes"]  # forwards, and again for the gradient


def test_killed_and_resumed_it_ends_in_the_same_bits(whole: Path, repositories: Path, shared: Path, tmp_path: Path) -> None:
    without_scores = (*(each for each in SIZE if not each.startswith("evaluation.")), "evaluation.suite=none")
    arguments = command(tmp_path, shared, "--until", "1", settings=without_scores)
    with environment(tmp_path, repositories) as variables:
        process = subprocess.Popen(arguments, env=variables, stderr=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + 400
        while not list((tmp_path / "run").glob("iteration-1/training/step-*2")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "run/iteration-1/policy").exists()
        checkpoint = min((tmp_path / "run/iteration-1/training").glob("step-*"))
        cost = estimate(recipes.load("zephyr-7b", overrides=list(SIZE)), 12)
        assert sum(file.stat().st_size for file in checkpoint.iterdir()) == pytest.approx(cost.checkpoint, rel=0.01)
        sizes = {file.name: file.stat().st_size for file in checkpoint.iterdir()}
        assert 50 * sizes["state.safetensors"] < sizes["share-0000.safetensors"] == sizes["share-0001.safetensors"]
        done = subprocess.run(arguments, env=variables, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    ends = [json.loads((folder / "run/iteration-1/policy/fingerprint.json").read_text()) for folder in (whole, tmp_path)]
    assert ends[0] == ends[1]
    lines = [(folder / "run/metrics.jsonl").read_text().splitlines()[:3] for folder in (whole, tmp_path)]
    assert lines[0] == lines[1]
