"""Optimizer steps: which examples, which rate, which gradient; stopped anywhere and resumed to the same bits."""

import dataclasses
import itertools
import math
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from spac_repro import engines
from spac_repro.optim import checkpoints, loop, signals
from spac_repro.optim.engine import EngineFactory
from spac_repro.optim.loop import CheckpointPolicy, NonFiniteError, Schedule, create_optimizer, training_loop
from spac_repro.optim.metrics_writer import MetricsWriter
from spac_repro.optim.replicated import Replicated
from spac_repro.runs.folder import RunFolder

pytestmark = pytest.mark.usefixtures("one_thread")


def schedule(**changes) -> Schedule:
    defaults = {
        "lengths": [1] * 10,
        "batch_size": 4,
        "micro_batch_tokens": 4,
        "epochs": 2,
        "learning_rate": 0.05,
        "lr_scheduler_type": "linear",
        "warmup_ratio": 0.2,
        "seed": (0, "order", 1),
    }
    return Schedule(**{**defaults, **changes})


schedules = st.builds(
    schedule,
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=40),
    batch_size=st.integers(1, 12),
    epochs=st.integers(1, 4),
    learning_rate=st.floats(1e-7, 1.0),
    lr_scheduler_type=st.sampled_from(["linear", "constant"]),
    warmup_ratio=st.floats(0, 1),
    seed=st.tuples(st.integers(0, 99), st.just("order"), st.integers(0, 3)),
)


# Which examples, at which rate


@given(schedules)
def test_every_epoch_takes_every_example_once(plan):
    assert plan.total_steps == plan.epochs * math.ceil(plan.num_examples / plan.batch_size)
    batches = [plan.batch(step) for step in range(plan.total_steps)]
    for epoch in range(plan.epochs):
        its = batches[epoch * plan.steps_per_epoch : (epoch + 1) * plan.steps_per_epoch]
        assert sorted(example for batch in its for example in batch) == list(range(plan.num_examples))
        assert all(len(batch) == plan.batch_size for batch in its[:-1])
        assert 1 <= len(its[-1]) <= plan.batch_size


@given(schedules, st.integers(1, 20))
def test_micro_batches_hold_a_steps_examples_in_order_and_no_more_tokens_than_allowed(plan, tokens):
    plan = dataclasses.replace(plan, micro_batch_tokens=tokens)
    for step in range(plan.total_steps):
        cut = plan.micro_batches(step)
        assert [example for rows in cut for example in rows] == plan.batch(step)
        assert all(sum(plan.lengths[example] for example in rows) <= tokens or len(rows) == 1 for rows in cut)
        for rows, following in itertools.pairwise(cut):  # none could have taken one more
            assert sum(plan.lengths[example] for example in [*rows, following[0]]) > tokens


@given(schedules, st.integers(2, 9))
def test_processes_share_a_steps_examples_with_about_as_many_tokens_each(plan, world_size):
    for step in range(plan.total_steps):
        shares = [[i for rows in plan.micro_batches(step, rank, world_size) for i in rows] for rank in range(world_size)]
        assert sorted(example for share in shares for example in share) == sorted(plan.batch(step))
        tokens = [sum(plan.lengths[example] for example in share) for share in shares]
        assert max(tokens) - min(tokens) <= max(plan.lengths[example] for example in plan.batch(step))
        if len(plan.batch(step)) >= world_size:
            assert all(shares)


def test_epochs_iterations_and_seeds_have_orders_of_their_own():
    plan = schedule(lengths=[1] * 50, batch_size=50, epochs=2)
    orders = [plan.batch(0), plan.batch(1), schedule(lengths=[1] * 50, batch_size=50, seed=(0, "order", 2)).batch(0)]
    orders.append(schedule(lengths=[1] * 50, batch_size=50, seed=(1, "order", 1)).batch(0))
    orders.append(list(range(50)))
    assert len({tuple(order) for order in orders}) == 5
    assert plan.batch(0) == schedule(lengths=[1] * 50, batch_size=50, epochs=2).batch(0)


@given(schedules)
def test_the_rate_rises_in_the_warm_up_and_then_falls_or_stays(plan):
    rates = [plan.learning_rate_at(step) for step in range(plan.total_steps)]
    warm = math.ceil(plan.warmup_ratio * plan.total_steps)
    assert all(0 < rate <= plan.learning_rate * (1 + 1e-12) for rate in rates)
    for step, rate in enumerate(rates):
        if step < warm:
            expected = plan.learning_rate * (step + 1) / warm
        elif plan.lr_scheduler_type == "constant":
            expected = plan.learning_rate
        else:  # a line from the highest rate, at the first step after the warm-up, to 0 at the step that is not taken any more
            expected = plan.learning_rate * (1 - (step - warm) / (plan.total_steps - warm))
        assert rate == pytest.approx(expected)


def test_the_rates_of_a_schedule_written_out():
    assert [schedule(epochs=2, learning_rate=1.0, warmup_ratio=0.3).learning_rate_at(step) for step in range(6)] == pytest.approx(
        [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    )


def test_beside_transformers_schedule_the_warm_up_is_one_step_ahead():
    """As docs/method.md says: (s + 1)/w and not s/w, and equal afterwards."""
    plan = schedule(epochs=7, learning_rate=1.0, warmup_ratio=0.3)
    total, warmup = plan.total_steps, math.ceil(0.3 * plan.total_steps)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = transformers.get_linear_schedule_with_warmup(optimizer, warmup, total)
    theirs = [scheduler.lr_lambdas[0](step) for step in range(total)]
    ours = [plan.learning_rate_at(step) for step in range(total)]
    assert ours[:warmup] == pytest.approx(theirs[1 : warmup + 1])
    assert ours[warmup:] == pytest.approx(theirs[warmup:])
    assert theirs[0] == 0


# The gradient of a step

INPUTS = torch.randn(10, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TARGETS = torch.randn(10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def linear_model() -> nn.Linear:
    model = nn.Linear(3, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.3, -0.2, 0.5]]))
    return model


def squared_error(model):
    def objective(rows):
        rows = list(rows)
        residual = model(INPUTS[rows]).squeeze(-1) - TARGETS[rows]
        return residual**2, {"residual": residual}

    return objective


def take(model, optimizer, objective, plan, folder, *, max_grad_norm=1e9, **changes) -> list[str]:
    """`training_loop` from where the folder says; what it warned of."""
    warnings: list[str] = []
    defaults = {
        "iteration": 1,
        "checkpointing": CheckpointPolicy(folder / "training", 2, 2),
        "warn": warnings.append,
        "advance": lambda done, total: None,
    }
    with MetricsWriter(RunFolder(folder)) as log:
        build = EngineFactory(engines.REPLICATED, model, optimizer, max_grad_norm)
        training_loop(build, lambda module: objective, plan, metrics=log, **{**defaults, **changes})
    return warnings


@pytest.mark.parametrize("micro_batch_tokens", [1, 2, 3, 4, 5, 10, 64])
@pytest.mark.parametrize("batch_size", [10, 7])
def test_the_gradient_is_the_mean_over_the_batch_however_it_is_cut_up(tmp_path, batch_size, micro_batch_tokens):
    """Two steps of plain descent, by closed form: w ← w − α · 2/B · Xᵀ(Xw − y); the last batch and micro-batch may be partial."""
    model = linear_model()
    plan = schedule(
        batch_size=batch_size,
        micro_batch_tokens=micro_batch_tokens,
        epochs=1,
        learning_rate=0.1,
        lr_scheduler_type="constant",
        warmup_ratio=0,
    )
    weight = model.weight.detach().flatten().clone()
    norms, losses = [], []
    for step in range(plan.total_steps):
        rows = plan.batch(step)
        residual = INPUTS[rows] @ weight - TARGETS[rows]
        gradient = 2 / len(rows) * INPUTS[rows].T @ residual
        norms.append(gradient.norm().item())
        losses.append((residual**2).mean().item())
        weight = weight - 0.1 * gradient
    take(model, torch.optim.SGD(model.parameters(), lr=0.0), squared_error(model), plan, tmp_path)
    torch.testing.assert_close(model.weight.detach().flatten(), weight, rtol=1e-12, atol=1e-14)
    steps = RunFolder(tmp_path).metrics()
    assert [each.step for each in steps] == list(range(1, plan.total_steps + 1))
    assert [each.values["loss"] for each in steps] == pytest.approx(losses, rel=1e-12)
    assert [each.values["grad_norm"] for each in steps] == pytest.approx(norms, rel=1e-6)
    assert [each.values["learning_rate"] for each in steps] == [0.1] * plan.total_steps


def test_long_gradients_are_cut_to_length(tmp_path):
    model = linear_model()
    before = model.weight.detach().clone()
    plan = schedule(batch_size=10, epochs=1, learning_rate=1.0, lr_scheduler_type="constant", warmup_ratio=0)
    take(model, torch.optim.SGD(model.parameters(), lr=0.0), squared_error(model), plan, tmp_path, max_grad_norm=1e-3)
    assert (model.weight.detach() - before).norm().item() == pytest.approx(1e-3, rel=1e-3)
    assert RunFolder(tmp_path).metrics()[0].values["grad_norm"] > 0.1  # what is logged is the length before


@pytest.mark.parametrize("name", ["adamw", "rmsprop"])
def test_optimizers_are_those_of_the_recipe(name):
    """The first step from a gradient of 1s in closed form: AdamW moves by α; RMSProp by α/√(1 − 0.99)."""
    model = nn.Linear(2, 1, bias=False)
    frozen = nn.Parameter(torch.ones(1), requires_grad=False)
    model.register_parameter("frozen", frozen)
    with torch.no_grad():
        model.weight.fill_(2.0)
    optimizer = create_optimizer(name, model, weight_decay=0.0)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 1
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    model.weight.grad = torch.ones_like(model.weight)
    optimizer.step()
    moved = {"adamw": 0.01, "rmsprop": 0.01 / math.sqrt(0.01)}[name]
    torch.testing.assert_close(model.weight.detach(), torch.full_like(model.weight, 2.0 - moved), rtol=1e-6, atol=1e-6)


# Stopped and resumed


def noisy_model() -> nn.Module:
    """With dropout, so that the state of the generator matters too."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8, dtype=torch.float64), nn.Dropout(0.5), nn.Linear(8, 1, dtype=torch.float64)).train()


def train(folder, name, *, die_at: int | None = None, plan=None) -> tuple[dict, list[str]]:
    """A training from the beginning or from what is in the folder; `die_at`: the step before whose end it is stopped."""
    model = noisy_model()
    compute = squared_error(model)
    calls = 0

    def objective(rows):
        nonlocal calls
        calls += 1
        if calls == die_at:
            raise KeyboardInterrupt
        return compute(rows)

    torch.manual_seed(11)
    warnings = take(model, create_optimizer(name, model, weight_decay=0.1), objective, plan or schedule(epochs=4), folder)
    return model.state_dict(), warnings


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", ["adamw", "rmsprop"])
def test_stopped_anywhere_and_resumed_it_ends_in_the_same_bits(tmp_path, name):
    plan = schedule(epochs=4)
    assert plan.total_steps == 12
    whole, _ = train(tmp_path / "whole", name, plan=plan)
    lines = (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    for step in (1, 3, 4, 12):  # before the first checkpoint, right after one, between two, at the last step
        folder = tmp_path / f"stopped-{step}"
        with pytest.raises(KeyboardInterrupt):
            train(folder, name, die_at=step, plan=plan)
        resumed, warnings = train(folder, name, plan=plan)
        assert same(resumed, whole)
        assert (folder / "metrics.jsonl").read_bytes() == lines
        assert warnings == []


def test_stopped_again_and_again(tmp_path):
    """Every attempt gets three steps further, one of them past the last checkpoint."""
    whole, _ = train(tmp_path / "whole", "adamw")
    attempts = 0
    while True:
        try:
            resumed, _ = train(tmp_path / "stopped", "adamw", die_at=4)
            break
        except KeyboardInterrupt:
            attempts += 1
    assert attempts == 5
    assert same(resumed, whole)
    assert (tmp_path / "stopped" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


def test_a_truncated_newest_checkpoint_costs_steps_and_no_bits(tmp_path):
    whole, _ = train(tmp_path / "whole", "rmsprop")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", "rmsprop", die_at=8)
    newest = tmp_path / "stopped" / "training" / "step-0000006" / "state.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    resumed, warnings = train(tmp_path / "stopped", "rmsprop")
    assert len(warnings) == 1
    assert "step-0000006 is damaged" in warnings[0]
    assert same(resumed, whole)
    assert (tmp_path / "stopped" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


def test_a_training_that_a_signal_stops_closes_its_engine_after_the_checkpoint(tmp_path, monkeypatch):
    """A rehearsal goes on in the same process: what was not closed would stay in its memory."""
    seen = []

    def close(engine):
        seen.append(sorted(path.name for path in (tmp_path / "training").iterdir()))

    monkeypatch.setattr(Replicated, "close", close)
    monkeypatch.setattr(signals, "stop_requested", lambda: True)
    model = linear_model()
    with pytest.raises(signals.Stopped):
        take(model, create_optimizer("rmsprop", model, weight_decay=0.0), squared_error(model), schedule(), tmp_path)
    assert seen == [["step-0000001"]]


def test_what_is_told_of_progress_counts_finished_steps(tmp_path):
    model = linear_model()
    told = []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    take(model, optimizer, squared_error(model), schedule(), tmp_path, advance=lambda done, total: told.append((done, total)))
    assert told == [(step, 6) for step in range(7)]


# What is not a number

BAD = 3  # an example


@pytest.mark.parametrize("cause", ["loss", "gradient norm"])
def test_what_is_not_finite_stops_the_run_and_says_where(tmp_path, cause):
    """After 5 steps, at the first that holds example 3 in the second epoch; checkpoints are at 2 and 4."""
    plan = schedule(batch_size=2, epochs=2)
    bad_step = next(step for step in range(plan.steps_per_epoch, plan.total_steps) if BAD in plan.batch(step))
    model = linear_model()
    compute = squared_error(model)
    calls = 0

    def objective(rows):
        nonlocal calls
        calls += 1
        losses, details = compute(rows)
        if calls == bad_step + 1:
            at = list(rows).index(BAD)
            # The square root of nought is nought, and its slope is not a number.
            wrong = torch.full((), math.nan) if cause == "loss" else (losses[at] * 0).sqrt()
            losses = torch.stack([wrong if i == at else loss for i, loss in enumerate(losses)])
        return losses, details

    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with pytest.raises(NonFiniteError) as stopped:
        take(model, optimizer, objective, plan, tmp_path, iteration=2)
    message = str(stopped.value)
    last = f"step-{bad_step // 2 * 2:07d}"
    assert f"iteration 2, step {bad_step + 1}: {cause} nan; " in message
    assert f"examples {', '.join(map(str, plan.batch(bad_step)))};" in message
    assert f"latest valid checkpoint: {tmp_path / 'training' / last};" in message
    assert "\n" not in message
    assert stopped.value.exit_code == 1
    assert torch.isfinite(model.weight).all()
    assert checkpoints.latest_valid(tmp_path / "training", {}).name == last
    assert [each.step for each in RunFolder(tmp_path).metrics()] == list(range(1, bad_step + 1))


def test_what_is_not_finite_from_the_start_has_no_checkpoint_before_it(tmp_path):
    model = linear_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with pytest.raises(NonFiniteError, match="latest valid checkpoint: none"):
        take(model, optimizer, lambda rows: (model(INPUTS[list(rows)]).squeeze(-1) * math.inf, {}), schedule(), tmp_path)


def test_of_many_examples_the_first_are_named():
    message = loop.non_finite_message(1, 0, math.inf, 1.0, range(100), CheckpointPolicy(Path("nowhere"), 1, 1))
    assert "loss inf; examples 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, …;" in message
