"""How many passes an optimizer step of a recipe takes, by tokens per micro-batch: `python experiments/micro_batches.py`.

Under ZeRO-3 every process takes part in every pass, so a pass lasts as long as that of the process with the most tokens. The
efficiency of a step is the mean number of tokens of a process, divided by the sum over passes of the most tokens of a process.
Overheads of a pass (gathering the weights, launching kernels) come on top and speak for fewer passes.

Lengths come from an iteration of a run (`--run FOLDER`), or are drawn: prompts and responses are log-normal with the means of
`--prompt` and `--response` and the spread `--sigma`, cut at the recipe's limits. The means' defaults are assumed: they are no
measurement of a data set.
"""

import argparse
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spac_repro import methods, recipes
from spac_repro.data import dataset
from spac_repro.optim.loop import Schedule
from spac_repro.runs.folder import RunFolder

BUDGETS = (4096, 8192, 12_288, 16_384)


class Passes(NamedTuple):
    """What a number of tokens per micro-batch leads to."""

    mean: float  # passes of a step
    one: float  # share of steps with one pass
    efficiency: float
    most_tokens: int  # of a micro-batch


def simulate(lengths: Sequence[int], *, batch_size: int, micro_batch_tokens: int, world_size: int) -> Passes:
    """Split every step of an epoch as training does, and count.

    Args:
        lengths: tokens of each example, prompt and responses together.
        batch_size: examples of a step, over all processes.
        micro_batch_tokens: most tokens of a micro-batch.
        world_size: processes.
    """
    schedule = Schedule(
        lengths=lengths,
        batch_size=batch_size,
        micro_batch_tokens=micro_batch_tokens,
        epochs=1,
        learning_rate=0.0,
        lr_scheduler_type="constant",
        warmup_ratio=0.0,
        seed=(0, "order", 1),
    )
    passes, efficiencies, most = [], [], 0
    for step in range(schedule.total_steps):
        tokens = [
            [sum(lengths[i] for i in rows) for rows in schedule.micro_batches(step, r, world_size)] for r in range(world_size)
        ]
        count = max(map(len, tokens))
        slowest = [max(own[n] for own in tokens if n < len(own)) for n in range(count)]
        passes.append(count)
        efficiencies.append(sum(map(sum, tokens)) / world_size / sum(slowest))
        most = max(most, *slowest)
    return Passes(statistics.mean(passes), passes.count(1) / len(passes), statistics.mean(efficiencies), most)


def drawn_lengths(
    number: int, prompt: float = 180, response: float = 300, sigma: float = 0.8, *, limits: tuple[int, int], responses: int
) -> list[int]:
    """Draw the tokens of examples: a prompt and its responses, each log-normal with this mean before it is cut at its limit."""
    draw = np.random.default_rng(0)

    def column(mean: float, limit: int) -> np.ndarray:
        drawn = draw.lognormal(math.log(mean) - sigma**2 / 2, sigma, number)
        return np.clip(drawn.round(), 1, limit).astype(int)

    total = column(prompt, limits[0]) + sum(column(response, limits[1]) for _ in range(responses))
    return [int(each) for each in total]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="zephyr-7b")
    parser.add_argument("--run", type=Path, help="take the lengths of this run's first iteration")
    parser.add_argument("--examples", type=int, default=6400)
    parser.add_argument("--prompt", type=float, default=180)
    parser.add_argument("--response", type=float, default=300)
    parser.add_argument("--sigma", type=float, default=0.8)
    options = parser.parse_args()
    run = recipes.load(options.recipe)
    names, data, training = methods.get(run.method).responses, run.recipe.data, run.recipe.training
    if options.run:
        lengths = dataset.read(RunFolder.open(options.run).iteration(1).dataset_file).num_tokens(names)
    else:
        limits = (data.max_prompt_tokens, data.max_response_tokens)
        lengths = drawn_lengths(
            options.examples, options.prompt, options.response, options.sigma, limits=limits, responses=len(names)
        )
    print(f"{len(lengths)} examples of {statistics.mean(lengths):.0f} tokens in the mean")
    print("| micro_batch_tokens | passes of a step | steps of one pass | efficiency | most tokens of a pass |")
    print("| --- | --- | --- | --- | --- |")
    for budget in BUDGETS:
        found = simulate(lengths, batch_size=training.global_batch_size, micro_batch_tokens=budget, world_size=training.processes)
        print(f"| {budget:,} | {found.mean:.2f} | {found.one:.0%} | {found.efficiency:.2f} | {found.most_tokens:,} |")


if __name__ == "__main__":
    main()
