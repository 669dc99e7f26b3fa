"""The benchmark of a GPU, on a CPU: its arithmetic, and that both sides train."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

import gpu_step


def test_the_parameters_are_the_models() -> None:
    model = gpu_step.create_model(gpu_step.SIZES["tiny"], "meta")
    counted = {name: weight.numel() for name, weight in model.named_parameters() if weight.dim() > 1 and "embed_tokens" not in name}
    assert gpu_step.SIZES["tiny"].parameters == sum(counted.values())
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert gpu_step.SIZES["7b"].parameters == pytest.approx(7.0e9, rel=0.02)


def test_the_share_of_a_gpus_rate() -> None:
    size = gpu_step.SIZES["7b"]
    at_the_limit = 312e12 / (6 * size.parameters)  # tokens a second
    assert gpu_step.mfu(size, at_the_limit / 2, 312e12) == pytest.approx(0.5)


@pytest.mark.check
@pytest.mark.parametrize("kind", gpu_step.KINDS)
def test_both_sides_train(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    peers = gpu_step.workload.PEERS
    if kind == "trl-pre" and not (peers / "trl").is_dir():
        pytest.skip("TRL is not there: make bench")
    options = [f"--child={kind}", "--size=tiny", "--steps=2", "--prompts=short"]
    found = gpu_step.workload.run_in_subprocess(gpu_step.__file__, *options, threads=1)
    assert found["tokens_per_s"] > 0
    assert found["gpu"] == "none"
    assert found["mfu"] > 0
