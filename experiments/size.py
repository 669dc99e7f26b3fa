"""What `zephyr-7b` needs on eight GPUs or more: `python experiments/size.py` prints the tables of docs/size.md.

Everything follows from the recipe, from DeepSpeed's settings and from the figures of the GPUs' data sheets. Nothing here was
measured on a GPU.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace

import micro_batches

from spac_repro import cost, methods, recipes
from spac_repro.recipe import Run

GB = 1e9
# DeepSpeed 0.19.8's defaults for ZeRO-3, in numbers: of a bucket of gradients, of gathered weights, and of those gathered ahead.
REDUCE_BUCKET, LIVE_WEIGHTS, PREFETCHED = 500_000_000, 1_000_000_000, 50_000_000
TOKENS = 938  # of an example: the mean that experiments/micro_batches.py draws
RESPONSE_TOKENS = 300  # of a response [assumed], as there
# Mistral 7B (policy.name).
WIDTH, LAYERS, MLP, KEY_VALUES, VOCABULARY = 4096, 32, 14_336, 1024, 32_000


@dataclass(frozen=True)
class Gpu:
    """A GPU by its data sheet."""

    name: str
    flops: float  # a second, bfloat16, dense
    bandwidth: float  # bytes a second of its memory


A100 = Gpu("A100 80 GB", 312e12, 2039e9)
H100 = Gpu("H100 80 GB", 989e12, 3350e9)


def device_memory(run: Run) -> Iterator[tuple[str, str, float]]:
    """(what, its arithmetic, bytes) of one GPU in a training step with ZeRO-3."""
    training = run.recipe.training
    numbers, n, tokens = run.recipe.policy.num_parameters or 0, training.processes, training.micro_batch_tokens
    yield "weights, gradients, float32 weights, RMSProp's average", f"(2 + 2 + 4 + 4) × {numbers:,} / {n}", 12 * numbers / n
    yield "float32 gradient of the step", f"4 × {numbers:,} / {n}", 4 * numbers / n
    yield "bucket of gradients", f"2 × {REDUCE_BUCKET:,}", 2 * REDUCE_BUCKET
    gathered = LIVE_WEIGHTS + PREFETCHED
    yield "gathered weights", f"2 × ({LIVE_WEIGHTS:,} + {PREFETCHED:,})", 2 * gathered
    yield "inputs of the layers", f"2 × {tokens:,} tokens × {WIDTH:,} × {LAYERS} layers", 2 * tokens * WIDTH * LAYERS
    # Normalised inputs in float32 and 16 bits twice; queries, keys, values before and after rotation; attention's output; two sums.
    layer = 2 * (2 * 3 * WIDTH + 2 * (WIDTH + KEY_VALUES) + KEY_VALUES + 3 * WIDTH + 4 * MLP)
    yield "one layer, computed again", f"{tokens:,} tokens × {layer:,} bytes", tokens * layer
    counted = tokens * 3 / 4
    yield "logits and their gradient", f"(2 + 4 + 2) × {counted:,.0f} tokens × {VOCABULARY:,}", 8 * counted * VOCABULARY


def host_memory(run: Run) -> Iterator[tuple[str, str, float]]:
    """(what, its arithmetic, bytes) of a node of eight processes."""
    weights = 2 * (run.recipe.policy.num_parameters or 0)
    processes = min(8, run.recipe.training.processes)
    yield "a policy while it is read, in each process", f"{processes} × {weights / GB:.1f} GB", processes * weights
    yield "the trained weights beside it, in the main process", f"{weights / GB:.1f} GB", weights


def hours(run: Run, gpu: Gpu, preferences: int = 50_000) -> dict[str, float]:
    """Hours of one iteration by stage, over all processes, at the mean numbers of tokens.

    Matrix products reach 40 % of the GPU's peak [assumed]; a step waits for the process with the most tokens. Generation is bound
    by memory: SPIN's rate on A100, by bandwidth.
    """
    training, numbers = run.recipe.training, run.recipe.policy.num_parameters or 0
    n = training.processes
    generation = cost.GENERATION_FLOPS_PER_SECOND * gpu.bandwidth / A100.bandwidth
    data, names = run.recipe.data, methods.get(run.method).responses
    limits = (data.max_prompt_tokens, data.max_response_tokens)
    passes = micro_batches.simulate(
        micro_batches.drawn_lengths(6400, limits=limits, responses=len(names)),
        batch_size=training.global_batch_size,
        micro_batch_tokens=training.micro_batch_tokens,
        world_size=n,
    )
    forward = 2.0 * numbers * preferences * TOKENS / (0.4 * gpu.flops) / n / 3600
    return {
        "self-play": 2.0 * numbers * preferences * RESPONSE_TOKENS / generation / n / 3600,
        "reference log-probabilities": forward,
        "training": forward * 4 * training.epochs_per_iteration / passes.efficiency,
    }


def table(rows: Iterator[tuple[str, str, float]]) -> Iterator[str]:
    """Markdown lines, with the sum."""
    total = 0.0
    yield "| what | arithmetic | GB |"
    yield "| --- | --- | --- |"
    for what, arithmetic, size in rows:
        total += size
        yield f"| {what} | {arithmetic} | {size / GB:.1f} |"
    yield f"| **together** | | **{total / GB:.1f}** |"


def with_processes(run: Run, processes: int) -> Run:
    """The run with another world size."""
    training = run.recipe.training.model_copy(update={"processes": processes})
    return replace(run, recipe=run.recipe.model_copy(update={"training": training}))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    run = recipes.load("zephyr-7b")
    print("\n".join(["Memory of each of 8 GPUs in training:", "", *table(device_memory(run)), ""]))
    print("\n".join(["Memory of the node, at most:", "", *table(host_memory(run)), ""]))
    print("\n".join(["| hours of an iteration | 8 × A100 | 8 × H100 | 16 × A100 | 16 × H100 |", "| --- | --- | --- | --- | --- |"]))
    columns = [hours(with_processes(run, n), gpu) for n in (8, 16) for gpu in (A100, H100)]
    for stage in columns[0]:
        print(f"| {stage} | " + " | ".join(f"{column[stage]:.2f}" for column in columns) + " |")
    print("| **together** | " + " | ".join(f"**{sum(column.values()):.2f}**" for column in columns) + " |")


if __name__ == "__main__":
    main()
