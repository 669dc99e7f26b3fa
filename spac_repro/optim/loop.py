"""The training loop: the optimizer steps of every method and of the supervised start, interruptible after any step."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from spac_repro.errors import UserError
from spac_repro.optim import checkpoints, distributed, signals
from spac_repro.optim.engine import Engine
from spac_repro.optim.metrics_writer import MetricsWriter
from spac_repro.seeds import permutation
from spac_repro.spans import span

# A loss function: takes the indices of some examples, returns their losses [examples] and values to log by name, each [examples].
Objective = Callable[[Sequence[int]], tuple[Tensor, dict[str, Tensor]]]


class NonFiniteError(UserError):
    """The loss or the gradient norm is NaN or infinite; training stops at that step."""

    exit_code = 1


@dataclass(frozen=True)
class Schedule:
    """The batches and learning rates of all optimizer steps. Steps count from 0 here."""

    lengths: Sequence[int]  # tokens of each example
    batch_size: int  # examples per optimizer step, over all processes
    micro_batch_tokens: int  # most tokens of a micro-batch; a longer example is a micro-batch by itself
    epochs: int
    learning_rate: float  # the peak
    lr_scheduler_type: Literal["linear", "constant"]  # after the warm-up
    warmup_ratio: float  # share of all steps
    seed: tuple[int, str, int]  # for the order of the examples

    @property
    def num_examples(self) -> int:
        """Examples per epoch."""
        return len(self.lengths)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps per epoch."""
        return math.ceil(self.num_examples / self.batch_size)

    @property
    def total_steps(self) -> int:
        """Optimizer steps over all epochs."""
        return self.steps_per_epoch * self.epochs

    def batch(self, step: int) -> list[int]:
        """Return the example indices of a step.

        Every epoch shuffles all examples anew; its last batch may be smaller.
        """
        epoch, batch = divmod(step, self.steps_per_epoch)
        order = permutation(self.num_examples, *self.seed, epoch)
        return order[batch * self.batch_size : (batch + 1) * self.batch_size].tolist()

    def micro_batches(self, step: int, rank: int = 0, world_size: int = 1) -> list[list[int]]:
        """Return the micro-batches of a step that one process computes."""
        batch = self.batch(step)
        own = batch if world_size == 1 else deal_by_tokens(batch, self.lengths, world_size)[rank]
        return batch_by_tokens(own, self.lengths, self.micro_batch_tokens)

    def max_micro_batches(self, step: int, world_size: int) -> int:
        """Return the number of micro-batches of the process that has the most."""
        return max(len(self.micro_batches(step, rank, world_size)) for rank in range(world_size))

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of a step.

        It rises linearly to the peak during the warm-up; then it is constant, or falls linearly and would be 0 after the last step.
        """
        warmup_steps = math.ceil(self.warmup_ratio * self.total_steps)
        if step < warmup_steps:
            return self.learning_rate * (step + 1) / warmup_steps
        if self.lr_scheduler_type == "constant":
            return self.learning_rate
        return self.learning_rate * ((self.total_steps - step) / (self.total_steps - warmup_steps))


@dataclass(frozen=True)
class CheckpointPolicy:
    """Where and how often checkpoints are saved, and how many are kept."""

    folder: Path
    save_steps: int
    save_total_limit: int
    computed_from: Mapping[str, Any] = field(default_factory=dict)  # run and initial weights; no other's checkpoint is resumed from


def create_optimizer(name: str, model: nn.Module, *, weight_decay: float) -> torch.optim.Optimizer:
    """Create AdamW, or RMSprop with torch's default smoothing constant 0.99, which DPO's reference code uses."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if name == "adamw":
        return torch.optim.AdamW(
            parameters, lr=0.0, betas=(0.9, 0.98), weight_decay=weight_decay, fused=True
        )  # fused: a fifth of the time
    return torch.optim.RMSprop(parameters, lr=0.0, weight_decay=weight_decay)


@signals.defer_signals()
def training_loop(
    build_engine: Callable[[Path | None], Engine],
    make_objective: Callable[[nn.Module], Objective],
    schedule: Schedule,
    *,
    iteration: int,
    checkpointing: CheckpointPolicy,
    metrics: MetricsWriter,
    warn: Callable[[str], None],
    advance: Callable[[int, int], None],
) -> Engine:
    """Take all optimizer steps of a schedule, from the latest checkpoint on. The loss of a step is the mean over its examples.

    All processes take each step together; each computes its share of the step's examples.

    Args:
        build_engine: builds the engine, in the state of a checkpoint if it gets one.
        make_objective: makes the loss function of the engine's module.
        schedule: batches and learning rates.
        iteration: the self-play iteration, for metrics and messages; 0 is the supervised start.
        checkpointing: where and how often to save checkpoints.
        metrics: gets a line for every step.
        warn: gets a line for every damaged checkpoint.
        advance: gets the steps done and the total, before every step and at the end.

    Returns:
        The engine, after the last step.

    Raises:
        NonFiniteError: names the step, its examples and the latest valid checkpoint; nothing after that checkpoint is kept.
        Stopped: a process received a signal; all processes stop after the same step and save a checkpoint of it.
    """
    find = partial(checkpoints.latest_valid, checkpointing.folder, checkpointing.computed_from, warn=warn)
    checkpoint = distributed.on_main_process(find)
    with span("checkpoint read" if checkpoint else "engine"):
        engine = build_engine(checkpoint)
    objective = make_objective(engine.module)
    first = checkpoints.step_of(checkpoint) if checkpoint else 0
    if distributed.is_main_process():
        metrics.resume(checkpoints.metrics_of(checkpoint) if checkpoint else None, checkpointing.folder)
    for step in range(first, schedule.total_steps):
        advance(step, schedule.total_steps)
        learning_rate = schedule.learning_rate_at(step)
        with span("step" if iteration else "supervised step"):
            means = accumulate_gradient(engine, objective, schedule, step)
            with span("update"):
                grad_norm = engine.step(learning_rate)
        if not (math.isfinite(means["loss"]) and math.isfinite(grad_norm)):
            raise NonFiniteError(non_finite_message(iteration, step, means["loss"], grad_norm, schedule.batch(step), checkpointing))
        done = step + 1
        if distributed.is_main_process():
            metrics.write(iteration, done, {**means, "grad_norm": grad_norm, "learning_rate": learning_rate})
        stop = distributed.any_process(signals.stop_requested())
        if stop or (done % checkpointing.save_steps == 0 and done < schedule.total_steps):
            _save_checkpoint(checkpointing, done, engine, metrics)
        if stop:
            engine.close()  # a rehearsal goes on in this process, and DeepSpeed remembers an engine that was not closed
            raise signals.Stopped
    advance(schedule.total_steps, schedule.total_steps)
    return engine


def _save_checkpoint(checkpointing: CheckpointPolicy, step: int, engine: Engine, metrics: MetricsWriter) -> None:
    """Bring the metrics to the disk, then save a checkpoint that is bound to them."""
    with span("checkpoint write"):
        written = metrics.sync() if distributed.is_main_process() else None
        checkpoints.save(
            checkpointing.folder,
            step,
            engine.state(),
            save_total_limit=checkpointing.save_total_limit,
            computed_from=checkpointing.computed_from,
            metrics=written,
        )


def deal_by_tokens(examples: Sequence[int], lengths: Sequence[int], parts: int) -> list[list[int]]:
    """Deal examples out so that all parts have about as many tokens: the longest first, each to the part with the fewest.

    Processes wait for the one with the most tokens. No two parts differ by more than the longest example (Graham 1969, "Bounds on
    multiprocessing timing anomalies").

    Args:
        examples: example indices.
        lengths: tokens of each example, by index.
        parts: how many parts to return.

    Returns:
        Example indices by part, the longest first.
    """
    dealt: list[list[int]] = [[] for _ in range(parts)]
    tokens = [0] * parts
    for example in sorted(examples, key=lambda example: -lengths[example]):  # stable: equally long ones keep their order
        part = tokens.index(min(tokens))
        dealt[part].append(example)
        tokens[part] += lengths[example]
    return dealt


def batch_by_tokens(order: Sequence[int], lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Split examples, in their order, into batches of at most `max_tokens` tokens; a longer example is a batch by itself.

    Args:
        order: example indices.
        lengths: tokens of each example, by index.
        max_tokens: most tokens of a batch.

    Returns:
        Example indices by batch.
    """
    batches: list[list[int]] = []
    tokens = max_tokens
    for example in order:
        if not batches or tokens + lengths[example] > max_tokens:
            batches.append([])
            tokens = 0
        batches[-1].append(example)
        tokens += lengths[example]
    return batches


def accumulate_gradient(engine: Engine, objective: Objective, schedule: Schedule, step: int) -> dict[str, float]:
    """Accumulate the gradient of a batch's mean loss; every example has the same weight, whatever the micro-batches.

    A process with fewer micro-batches than another computes an example again at weight 0: under ZeRO-3 every process must take part
    in every forward and backward pass, or the processes deadlock.

    Returns:
        The batch's mean loss as "loss", and the mean of every other value that the objective returns.
    """
    sums: dict[str, float] = {}
    batch = schedule.batch(step)
    micro_batches = schedule.micro_batches(step, distributed.rank(), distributed.world_size())
    passes = schedule.max_micro_batches(step, distributed.world_size())
    for number in range(passes):
        counts = number < len(micro_batches)
        with engine.autocast():
            losses, details = objective(micro_batches[number] if counts else batch[:1])
        loss = losses.sum() / len(batch)
        engine.backward(loss if counts else loss * 0.0, last_micro_batch=number + 1 == passes)
        for name, values in {"loss": losses, **details}.items():
            sums[name] = sums.get(name, 0.0) + (float(values.detach().double().sum()) if counts else 0.0)
    return {name: total / len(batch) for name, total in distributed.all_reduce_sum(sums).items()}


def non_finite_message(
    iteration: int, step: int, loss: float, grad_norm: float, batch: Sequence[int], saved: CheckpointPolicy
) -> str:
    """Return the message of a `NonFiniteError`, in one line."""
    what = f"loss {loss:g}" if not math.isfinite(loss) else f"gradient norm {grad_norm:g}"
    checkpoint = checkpoints.latest_valid(saved.folder, saved.computed_from)
    examples = ", ".join(map(str, batch[:16])) + (", …" if len(batch) > 16 else "")
    return (
        f"iteration {iteration}, step {step + 1}: {what}; examples {examples}; latest valid checkpoint: {checkpoint or 'none'}; "
        "check these examples, or lower the learning rate"
    )
