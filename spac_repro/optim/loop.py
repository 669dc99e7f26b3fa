"""A number of optimiser steps, one way for every method and for the supervised start; interrupted and resumed at will."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from spac_repro.errors import UserError
from spac_repro.optim import checkpoints, processes, signals
from spac_repro.optim.engine import Engine
from spac_repro.optim.metrics import Metrics
from spac_repro.seeds import permutation

# From the numbers of some examples to their losses [examples], and to what is worth logging about them, each [examples].
Objective = Callable[[Sequence[int]], tuple[Tensor, dict[str, Tensor]]]


class NonFiniteError(UserError):
    """The loss or its gradient is not a number; the run stops where it happened."""

    exit_code = 1


@dataclass(frozen=True)
class Schedule:
    """How many steps, on which examples, at which learning rate."""

    sizes: Sequence[int]  # tokens of each example
    batch_size: int  # examples an optimiser step
    micro_batch_tokens: int  # computed at once; an example that has more is computed alone
    epochs: int
    learning_rate: float  # the highest
    shape: Literal["linear", "constant"]
    warmup: float  # share of the steps
    seed: tuple[int, str, int]  # of the order of the examples

    @property
    def examples(self) -> int:
        return len(self.sizes)

    @property
    def steps_an_epoch(self) -> int:
        return math.ceil(self.examples / self.batch_size)

    @property
    def steps(self) -> int:
        return self.steps_an_epoch * self.epochs

    def batch(self, step: int) -> list[int]:
        """The examples of a step: each epoch takes all in an order of its own; the last batch of an epoch may be smaller."""
        epoch, place = divmod(step, self.steps_an_epoch)
        order = permutation(self.examples, *self.seed, epoch)
        return order[place * self.batch_size : (place + 1) * self.batch_size].tolist()

    def micro_batches(self, step: int, rank: int = 0, world: int = 1) -> list[list[int]]:
        """What of a step's examples falls to a process, cut up into what is computed at once."""
        return within_budget(self.batch(step)[rank::world], self.sizes, self.micro_batch_tokens)

    def passes(self, step: int, world: int) -> int:
        """How often the process with the most micro-batches computes."""
        return max(len(self.micro_batches(step, rank, world)) for rank in range(world))

    def rate(self, step: int) -> float:
        """The learning rate of a step: up to the highest during the warm-up, then down in a line to 0 after the last step."""
        warm = math.ceil(self.warmup * self.steps)
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        return self.learning_rate * ((self.steps - step) / (self.steps - warm) if self.shape == "linear" else 1.0)


@dataclass(frozen=True)
class CheckpointPolicy:
    """Where and how often training state is kept."""

    folder: Path
    every: int
    keep: int


def optimizer_for(name: str, model: nn.Module, *, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW, or RMSProp with the smoothing that DPO's reference code left at torch's default (α = 0.99)."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if name == "adamw":
        return torch.optim.AdamW(
            parameters, lr=0.0, betas=(0.9, 0.98), weight_decay=weight_decay, fused=True
        )  # a fifth of the time
    return torch.optim.RMSprop(parameters, lr=0.0, weight_decay=weight_decay)


@signals.held()
def optimise(
    build: Callable[[Path | None], Engine],
    objective: Callable[[nn.Module], Objective],
    schedule: Schedule,
    *,
    iteration: int,
    keeping: CheckpointPolicy,
    metrics: Metrics,
    warn: Callable[[str], None],
    advance: Callable[[int, int], None],
) -> Engine:
    """Take the schedule's steps, from the last checkpoint on; the loss of a step is the mean over its examples.

    `build` makes the engine in the state of a checkpoint, `objective` the loss of what that engine calls; the engine is returned.
    All processes take the steps together, each on its part of every step's examples. `advance` is told (steps done, steps in all).

    Raises:
        NonFiniteError: with the step, the examples and the last good checkpoint; nothing after that checkpoint is kept.
        KeyboardInterrupt: a process was asked to stop; all do, after the same step, which is kept.
    """
    found = checkpoints.newest(keeping.folder, warn=warn)
    engine = build(found)
    losses = objective(engine.module)
    first = checkpoints.step_of(found) if found else 0
    if processes.is_main():
        metrics.go_on(iteration, first)
    for step in range(first, schedule.steps):
        advance(step, schedule.steps)
        values = _gradient(engine, losses, schedule, step)
        norm = engine.step(schedule.rate(step))
        if not (math.isfinite(values["loss"]) and math.isfinite(norm)):
            raise NonFiniteError(_not_finite(iteration, step, values["loss"], norm, schedule.batch(step), keeping.folder))
        done = step + 1
        if processes.is_main():
            metrics.write(iteration, done, {**values, "grad_norm": norm, "learning_rate": schedule.rate(step)})
        stop = processes.any_of(signals.asked())
        if stop or (done % keeping.every == 0 and done < schedule.steps):
            checkpoints.write(keeping.folder, done, *engine.state(), keep=keeping.keep)
        if stop:
            raise KeyboardInterrupt
    advance(schedule.steps, schedule.steps)
    return engine


def within_budget(order: Sequence[int], sizes: Sequence[int], tokens: int) -> list[list[int]]:
    """Cut examples up, in their order, into batches of at most so many tokens; an example that has more stands alone."""
    batches: list[list[int]] = []
    full = tokens
    for example in order:
        if not batches or full + sizes[example] > tokens:
            batches.append([])
            full = 0
        batches[-1].append(example)
        full += sizes[example]
    return batches


def _gradient(engine: Engine, objective: Objective, schedule: Schedule, step: int) -> dict[str, float]:
    """Accumulate the gradient of the batch's mean loss, every example weighing the same however the batch is cut up.

    A process with fewer micro-batches than another computes some example again at weight 0: with ZeRO-3 every process must take
    part in every pass, or all wait for ever.
    """
    sums: dict[str, float] = {}
    batch = schedule.batch(step)
    own = schedule.micro_batches(step, processes.rank(), processes.world())
    passes = schedule.passes(step, processes.world())
    for number in range(passes):
        counts = number < len(own)
        with engine.autocast():
            losses, details = objective(own[number] if counts else batch[:1])
        loss = losses.sum() / len(batch)
        engine.backward(loss if counts else loss * 0.0, last=number + 1 == passes)
        for name, values in {"loss": losses, **details}.items():
            sums[name] = sums.get(name, 0.0) + (float(values.detach().double().sum()) if counts else 0.0)
    return {name: total / len(batch) for name, total in processes.total(sums).items()}


def _not_finite(iteration: int, step: int, loss: float, norm: float, batch: Sequence[int], folder: Path) -> str:
    what = f"loss {loss:g}" if not math.isfinite(loss) else f"gradient norm {norm:g}"
    good = checkpoints.last_good(folder)
    examples = ", ".join(map(str, batch[:16])) + (", …" if len(batch) > 16 else "")
    return (
        f"iteration {iteration}, step {step + 1}: {what}; examples {examples}; the last good checkpoint is {good or 'the start'}; "
        "look at these examples, or lower the learning rate"
    )
