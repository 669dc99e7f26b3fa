"""The recipe zephyr-7b as it is, but for its size: ZeRO-3, bf16, checkpointed activations, the instruction frame, real data.

The model is a Mistral of a few million random weights with a real tokenizer, fetched by revision from a stand-in for the hub.
"""

import json
import os
import subprocess
from pathlib import Path

import cut_down
import hub
import pytest

from spac_repro import recipes
from spac_repro.errors import UnfitEnvironmentError
from spac_repro.runs.folder import RunFolder

pytestmark = [pytest.mark.distributed, pytest.mark.real]

RECIPE = recipes.load("zephyr-7b").recipe
# Where the weights come from, and how much of everything; no method, engine, precision, schedule or frame.
SIZE = (
    "policy.name=lab/small",
    f"policy.revision={hub.REVISION}",
    "policy.num_parameters=3500000",
    "data.max_prompt_tokens=96",
    "data.max_response_tokens=32",
    "training.processes=2",
    "training.device=null",
    "training.iterations=2",
    "training.epochs_per_iteration=1",
    "training.global_batch_size=4",
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
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
    config = MistralConfig(vocab_size=len(tokenizer), max_position_embeddings=32768, **shape, **heads)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("hub") / "models/lab/small"
    MistralForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder.parents[2]


def test_all_but_the_size(repositories: Path, shared: Path, tmp_path: Path) -> None:
    preferences = shared / "preferences/gsm8k_solutions.jsonl.gz"
    arguments = [
        "--recipe",
        "zephyr-7b",
        "--preferences",
        str(preferences),
        "--questions",
        str(shared / "leaderboard"),
        "--max-pairs",
        "12",
    ]
    command = cut_down.command(tmp_path / "run", *arguments, settings=SIZE)
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    with hub.serving(repositories) as (address, _):
        environment |= {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "2 processes are connected; engine deepspeed-zero3" in done.stderr

    settings = json.loads((tmp_path / "run/manifest.json").read_text())["settings"]
    theirs = RECIPE.training
    kept = ("engine", "optimizer", "lr_scheduler_type", "warmup_ratio", "max_grad_norm", "compute_dtype", "gradient_checkpointing")
    assert {name: settings["training"][name] for name in kept} == {name: getattr(theirs, name) for name in kept}
    assert (theirs.engine, theirs.compute_dtype, settings["data"]["prompt_template"]) == (
        "deepspeed-zero3",
        "bfloat16",
        "instruction",
    )
    steps = RunFolder(tmp_path / "run").metrics()
    assert [(each.iteration, each.step) for each in steps] == [(t, step) for t in (1, 2) for step in (1, 2, 3)]
    iterates = cut_down.results(tmp_path / "run")["iterations"]
    assert len({iterate["weights_sha256"] for iterate in iterates}) == 3, "every iteration moves the weights"
    assert {score["task"] for score in iterates[-1]["scores"]} == {"winogrande", "gsm8k"}
    card = (tmp_path / "run/iteration-2/policy/README.md").read_text()
    assert "not transcribed" in card or "lab/small" in card
