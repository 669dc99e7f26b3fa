"""On a GPU: cut-down runs, twice to the same bits, killed and resumed, in bfloat16 with ZeRO-3, by vLLM, in the cuda image."""

import json
import os
import subprocess
import time
from pathlib import Path

import cut_down
import pytest
import torch

from spac_repro import recipes
from spac_repro.errors import UnfitEnvironmentError
from spac_repro.optim import gpu_host
from spac_repro.sampling import vllm

ZERO3 = (
    *cut_down.SETTINGS,
    "training.engine=deepspeed-zero3",
    "training.compute_dtype=bfloat16",
    "policy.dtype=bfloat16",
    "training.gradient_checkpointing=true",
    "training.device=cuda",
)
KINDS = {"accelerate": (*cut_down.SETTINGS, "training.device=cuda"), "zero3": ZERO3}


@pytest.fixture(scope="module", params=KINDS)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[str, ...], Path]:
    """Settings, and the folder of a run with them that nothing disturbed."""
    settings = KINDS[request.param]
    return settings, cut_down.trained(tmp_path_factory.mktemp(request.param) / "run", settings=settings)


def assert_same(run: Path, other: Path) -> None:
    assert cut_down.results(run)["weights_sha256"] == cut_down.results(other)["weights_sha256"]
    assert (run / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()


def test_this_machine_has_what_it_needs() -> None:
    gpu_host.check(recipes.load("zephyr-7b", overrides=["training.processes=1", "training.global_batch_size=64"]).recipe)


def test_a_run_names_its_gpu_and_twice_it_has_the_same_bits(whole: tuple[tuple[str, ...], Path], tmp_path: Path) -> None:
    settings, run = whole
    assert json.loads((run / "manifest.json").read_text())["environment"]["gpus"]
    assert_same(cut_down.trained(tmp_path / "run", settings=settings), run)


def test_killed_and_resumed_it_has_the_same_bits(whole: tuple[tuple[str, ...], Path], tmp_path: Path) -> None:
    settings, uninterrupted = whole
    run = tmp_path / "run"
    process = subprocess.Popen(cut_down.command(run, settings=settings), env=cut_down.environment(), stderr=subprocess.DEVNULL)
    while not list(run.glob("iteration-1/training/step-*2")):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    time.sleep(1)
    assert_same(cut_down.trained(run, settings=settings), uninterrupted)


def test_more_processes_than_gpus_are_refused(tmp_path: Path) -> None:
    count = torch.cuda.device_count() + 1
    done = cut_down.train(tmp_path / "run", settings=(*KINDS["accelerate"], f"training.processes={count}"))
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert f"{count} processes on this machine share {count - 1} GPUs" in done.stderr
    assert not (tmp_path / "run").exists()


def test_vllm_draws_the_same_responses_twice(whole: tuple[tuple[str, ...], Path]) -> None:
    try:
        vllm.versions()
    except UnfitEnvironmentError as reason:
        pytest.skip(str(reason))
    _, run = whole
    sampler = {"dtype": "bfloat16", "temperature": 1.0, "top_p": 1.0, "max_prompt_tokens": 32, "max_response_tokens": 16}
    draws = []
    for _ in range(2):
        with vllm.Sampler(run / "iteration-0" / "policy", stop_token_ids=[2], **sampler) as sample:
            draws.append(sample([[5, 6, 7], [8, 9]] * 16, 3))
    assert draws[0] == draws[1]


def test_the_cuda_image_trains(tmp_path: Path) -> None:
    image = os.environ.get("SPAC_REPRO_CUDA_IMAGE")
    if image is None:
        pytest.skip("SPAC_REPRO_CUDA_IMAGE names no cuda image, e.g. docker:spac-repro:cuda")
    run = cut_down.trained(tmp_path / "run", "--in", image, settings=KINDS["accelerate"])
    environment = json.loads((run / "manifest.json").read_text())["environment"]
    assert environment["image"]
    assert environment["gpus"]
