"""Weights of 16 bits: what is trained is their float32 copy, which is in every checkpoint."""

import torch
from torch import nn

from spac_repro.optim import checkpoints
from spac_repro.optim.loop import create_optimizer
from spac_repro.optim.replicated import Replicated

WIDTH, STEPS, RATE = 24, 120, 5e-7  # the learning rate of zephyr-7b
INPUTS = torch.randn(16, WIDTH, generator=torch.Generator().manual_seed(0))


def engine(dtype: torch.dtype, optimizer: str, checkpoint=None) -> Replicated:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH)).to(dtype)
    return Replicated(model, create_optimizer(optimizer, model, weight_decay=0.0), checkpoint, max_grad_norm=1e9)


def step(trained: Replicated, n: int) -> None:
    """Steps of two micro-batches each."""
    dtype = next(trained.module.parameters()).dtype
    for _ in range(n):
        for rows in (INPUTS[:8], INPUTS[8:]):
            trained.backward((trained.module(rows.to(dtype)) ** 2).sum() / 16, last_micro_batch=rows is not INPUTS[:8])
        trained.step(RATE)


def moved(trained: Replicated) -> float:
    """The share of what the optimizer changes that the steps move."""
    optimized = [parameter for group in trained.optimizer.param_groups for parameter in group["params"]]
    first = [parameter.detach().clone() for parameter in optimized]
    step(trained, STEPS)
    changed = [(now.detach() != before).float().flatten() for now, before in zip(optimized, first, strict=True)]
    return torch.cat(changed).mean().item()


def test_the_copy_takes_the_steps_that_rmsprop_defines():
    """v ← 0.99 v + 0.01 g², w ← w − α g / (√v + ε) in float32; g is the sum of bfloat16 gradients at w rounded to bfloat16."""
    trained = engine(torch.bfloat16, "rmsprop")
    torch.manual_seed(1)
    reference = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH)).to(torch.bfloat16)
    weights = [each.detach().float() for each in reference.parameters()]
    squares = [torch.zeros_like(each) for each in weights]
    for _ in range(STEPS):
        gradients = [torch.zeros_like(each) for each in weights]
        for rows in (INPUTS[:8], INPUTS[8:]):
            for each, value in zip(reference.parameters(), weights, strict=True):
                each.data, each.grad = value.to(torch.bfloat16), None
            ((reference(rows.to(torch.bfloat16)) ** 2).sum() / 16).backward()
            for total, each in zip(gradients, reference.parameters(), strict=True):
                total += each.grad.float()
        for weight, square, gradient in zip(weights, squares, gradients, strict=True):
            square.mul_(0.99).addcmul_(gradient, gradient, value=0.01)
            weight.addcdiv_(gradient, square.sqrt() + 1e-8, value=-RATE)
    step(trained, STEPS)
    for ours, theirs in zip(trained.copies.values(), weights, strict=True):
        torch.testing.assert_close(ours.detach(), theirs, rtol=0, atol=1e-9)  # a step is 5e-7 or more, rounding 2e-10
    for ours, copy in trained.copies.items():
        assert torch.equal(ours, copy.to(torch.bfloat16))


def test_nearly_all_weights_move_and_without_the_copy_hardly_any():
    assert moved(engine(torch.bfloat16, "adamw")) > 0.99
    without = engine(torch.bfloat16, "adamw")
    for group in without.optimizer.param_groups:
        group["params"] = list(without.module.parameters())
    without.copies = {}
    assert moved(without) < 0.2


def test_float32_weights_have_no_copy():
    trained = engine(torch.float32, "adamw")
    assert trained.copies == {}
    assert not [name for name in trained.state().full if name.startswith("float32")]


def test_resumed_from_a_checkpoint_the_copies_have_the_same_bits(tmp_path):
    for optimizer in ("adamw", "rmsprop"):
        whole = engine(torch.bfloat16, optimizer)
        step(whole, 5)
        checkpoints.save(tmp_path / optimizer, 5, whole.state(), save_total_limit=1, computed_from={}, metrics=None)
        resumed = engine(torch.bfloat16, optimizer, checkpoints.latest_valid(tmp_path / optimizer, {}))
        for trained in (whole, resumed):
            step(trained, 5)
        ours, theirs = resumed.state().full, whole.state().full
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
