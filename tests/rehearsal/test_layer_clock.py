"""The time in a model's layers: forward, backward and recomputed, and nothing else."""

import pytest
import torch
from torch import nn

from spac_repro import recipes
from spac_repro.model import policy
from spac_repro.rehearsal.layer_clock import LayerClock
from spac_repro.rehearsal.meter import Meter
from spac_repro.spans import listening, span

LAYERS, FORWARD, BACKWARD, OUTSIDE = 3, 1.0, 10.0, 1000.0


class Spend(torch.autograd.Function):
    """The identity; each pass takes a time of the clock."""

    @staticmethod
    def forward(context, values, spend, forward, backward):
        spend(forward)
        context.spend, context.backward_seconds = spend, backward
        return values.view_as(values)

    @staticmethod
    def backward(context, gradient):
        context.spend(context.backward_seconds)
        return gradient, None, None, None


class Now:
    """A clock that only `spend` moves."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time

    def spend(self, seconds: float) -> None:
        self.time += seconds


@pytest.fixture
def model():
    settings = recipes.load("tiny", overrides=[f"policy.architecture.num_hidden_layers={LAYERS}"]).recipe.policy
    return policy.create_initial(settings, seed=0)[0].train()


def slow_down(model: nn.Module, now: Now) -> None:
    """Make every layer and the output layer take a known time, in either direction."""
    for layer in model.model.layers:
        layer.input_layernorm.register_forward_hook(lambda _m, _i, out: Spend.apply(out, now.spend, FORWARD, BACKWARD))
    model.lm_head.register_forward_hook(lambda _m, _i, out: Spend.apply(out, now.spend, OUTSIDE, OUTSIDE))
    model.model.embed_tokens.register_forward_hook(lambda _m, _i, out: Spend.apply(out, now.spend, OUTSIDE, OUTSIDE))


def step(model: nn.Module) -> None:
    model(input_ids=torch.arange(8)[None], use_cache=False).logits.sum().backward()


@pytest.mark.parametrize(("checkpointing", "recomputed"), [(False, 0.0), (True, FORWARD)])
def test_both_directions_are_timed_and_what_is_computed_again(model, checkpointing, recomputed):
    now = Now()
    slow_down(model, now)
    if checkpointing:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    clock = LayerClock(now)
    with clock.hooked():
        step(model)
        assert clock.take() == LAYERS * (FORWARD + recomputed + BACKWARD)
        step(model)
        assert clock.take() == LAYERS * (FORWARD + recomputed + BACKWARD)
        with torch.no_grad():
            model(input_ids=torch.arange(8)[None])
        assert clock.take() == LAYERS * FORWARD
    step(model)
    assert clock.take() == 0


def test_a_backward_pass_without_an_end_is_ended(model):
    """Frozen embeddings: nothing asks for the gradient of the first layer's input."""
    now = Now()
    slow_down(model, now)
    model.model.embed_tokens.weight.requires_grad_(False)
    clock = LayerClock(now)
    with clock.hooked():
        step(model)
        assert clock.take() == LAYERS * (FORWARD + BACKWARD)
        step(model)  # a micro-batch, and another: what lies between them is not known to be no layer's
        step(model)
        assert clock.take() == 2 * LAYERS * (FORWARD + BACKWARD) + OUTSIDE


def test_the_hooks_change_no_gradient(model):
    step(model)
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    with LayerClock(Now()).hooked():
        step(model)
    assert all(torch.equal(parameter.grad, one) for parameter, one in zip(model.parameters(), expected, strict=True))


@pytest.mark.skipif(torch.cuda.is_available(), reason="where a GPU is, layers are not timed: its work is queued")
def test_a_step_knows_the_parts_of_its_time(model):
    """The layers' and the update's are parts of the step, which has the rest, too."""
    now = Now()
    slow_down(model, now)
    meter = Meter(now)
    with meter.measuring(0), listening(meter), span("step"):
        step(model)
        with span("update"):
            now.spend(7.0)
    (found,) = meter.ended
    assert (found.name, found.layer_seconds, found.update_seconds) == ("step", LAYERS * (FORWARD + BACKWARD), 7.0)
    assert found.seconds == found.layer_seconds + found.update_seconds + 4 * OUTSIDE
