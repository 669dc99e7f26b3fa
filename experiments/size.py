"""Memory and hours of recipe zephyr-7b on eight or sixteen GPUs, with the arithmetic: `python experiments/size.py`.

Nothing of that size is run. Numbers of parameters, bytes and steps follow from the recipe, from the published shape of the model
and from defaults of libraries; tests/experiments/test_size.py computes them again from a model of the true size on the meta device.
Speeds are those that others have published for GPUs that were not at hand. The tables of docs/size.md are the output.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import micro_batches

from spac_repro import cost, methods, recipes, stage_memory
from spac_repro.recipe import Run
from spac_repro.stage_memory import BF16, CONTEXT, FRAGMENTATION, Line, peak

SHAPE, INT32 = stage_memory.MISTRAL_7B, 4  # bytes of a token
PROCESS = 4.0e9  # host memory of a process with these libraries and a CUDA context [assumed]
# SPIN (arXiv 2401.01335, appendix): an iteration on eight A100 80 GB.
SPIN_HOURS, SPIN_RESPONSES, SPIN_TOKENS = {"generation": 1.45, "training": (4.32, 8.64)}, 50_000, 256
DRAWN = 6400  # examples of assumed lengths: micro_batches.py
# Tokens of a leaderboard's prompts and choices, shared examples counted once for a question; and generated ones [assumed].
LEADERBOARD_TOKENS, LEADERBOARD_GENERATED = 25e6, 1319 * 200


@dataclass(frozen=True)
class Gpu:
    """A GPU's published figures."""

    name: str
    memory: float  # bytes
    training: float  # FLOP/s that training reaches, recomputed activations included
    generation: float  # speed in generation, relative to an A100
    link: float  # bytes per second to the other GPUs of the node, each direction

    @property
    def title(self) -> str:
        """Name of eight of them."""
        return f"8 × {self.name}"


# 40 % of 312 TFLOP/s is assumed. llm-foundry's benchmark of a 7B model (fully sharded over eight GPUs, recomputed activations,
# 1,024 tokens a row) reaches 77 % there, with 64 rows a pass, and 10,203 tokens per second and H100 against 4,357.
# Generation reads all weights for each token, so it is bound by the memory: 3.35 against 2.04 TB/s.
A100 = Gpu("A100 80 GB", 80e9, cost.TRAINING_FLOPS_PER_SECOND, 1.0, 300e9)
H100 = Gpu("H100 80 GB", 80e9, cost.TRAINING_FLOPS_PER_SECOND * 10_203 / 4_357, 3.35 / 2.04, 450e9)


def key_values_per_token() -> int:
    """Bytes of a token in the key-value cache."""
    return stage_memory.key_values_per_token(SHAPE)


def training_memory(run: Run) -> list[Line]:
    """Device memory of one process during training."""
    return stage_memory.training(run, SHAPE)


def generation_memory(run: Run) -> list[Line]:
    """Device memory of one process during self-play."""
    return stage_memory.generation(run, SHAPE)


def reference_memory(run: Run) -> list[Line]:
    """Device memory of one process during the reference log-probabilities."""
    return stage_memory.reference(run, SHAPE)


def host_memory(run: Run, processes_per_node: int = 8) -> list[tuple[str, Line]]:
    """Host memory of one node by stage, beyond that of the processes themselves."""
    data, n, p = run.recipe.data, cost.estimate(run, None).parameters, processes_per_node
    responses = len(methods.get(run.method).responses)
    pairs, tokens = data.max_pairs or 0, data.max_prompt_tokens + responses * data.max_response_tokens
    return [
        ("all", Line("processes", f"{p} × {PROCESS / 1e9:.0f} GB", p * PROCESS)),
        (
            "all",
            Line("tokens of the data, memory-mapped", f"{pairs:,} × {tokens:,} × 4 B, at most", pairs * tokens * INT32),
        ),
        ("a model is loaded", Line("a copy in each process", f"{p} × 2 B × {n:,}", p * BF16 * n)),
        ("a checkpoint is saved", Line("each process's part", f"{p} × 8 B × {n:,} / {run.recipe.training.processes}", 8 * n)),
        ("an iterate is saved", Line("gathered weights, and the model that is written", f"2 × 2 B × {n:,}", 2 * BF16 * n)),
    ]


@dataclass(frozen=True)
class Work:
    """Tokens of an iteration."""

    per_example: float  # a prompt once, and its responses
    passes: float  # of an optimizer step
    efficiency: float  # of a pass: a process waits for the one with the most tokens
    trained: float
    scored: float  # reference log-probabilities
    generated: float


def work(run: Run) -> Work:
    """Tokens of an iteration, with lengths drawn as in micro_batches.py."""
    training, data, names = run.recipe.training, run.recipe.data, methods.get(run.method).responses
    limits = (data.max_prompt_tokens, data.max_response_tokens)
    lengths = micro_batches.drawn_lengths(DRAWN, limits=limits, responses=len(names))
    prompts = micro_batches.drawn_lengths(DRAWN, limits=limits, responses=0)
    passes = micro_batches.simulate(
        lengths,
        batch_size=training.global_batch_size,
        micro_batch_tokens=training.micro_batch_tokens,
        world_size=training.processes,
    )
    pairs, mean = data.max_pairs or 0, sum(lengths) / len(lengths)
    response = (mean - sum(prompts) / len(prompts)) / len(names)
    return Work(mean, passes.mean, passes.efficiency, pairs * mean * training.epochs_per_iteration, pairs * mean, pairs * response)


def hours(run: Run, gpu: Gpu) -> list[Line]:
    """Hours of an iteration by stage."""
    done, n, p = work(run), cost.estimate(run, None).parameters, run.recipe.training.processes
    speed, spin_rate = gpu.training / 1e12, SPIN_RESPONSES * SPIN_TOKENS / SPIN_HOURS["generation"] / 3600 * p / 8
    rate = spin_rate * gpu.generation

    def computing(passes: int, tokens: float, efficiency: float = 1.0) -> float:
        return passes * 2 * n * tokens / efficiency / gpu.training / p / 3600

    return [
        Line("self-play", f"{done.generated / 1e6:.1f} M tokens / {rate:,.0f} per second", done.generated / rate / 3600),
        Line(
            "reference log-probabilities",
            f"2 × 7.24e9 × {done.scored / 1e6:.0f} M tokens / ({p} × {speed:.0f} TFLOP/s)",
            computing(1, done.scored),
        ),
        Line(
            "training",
            f"8 × 7.24e9 × {done.trained / 1e6:.0f} M tokens / {done.efficiency:.2f} / ({p} × {speed:.0f} TFLOP/s)",
            computing(4, done.trained, done.efficiency),
        ),
        Line(
            "leaderboard",
            f"2 × 7.24e9 × {LEADERBOARD_TOKENS / 1e6:.0f} M tokens, and {LEADERBOARD_GENERATED / 1e6:.2f} M generated",
            computing(1, LEADERBOARD_TOKENS) + LEADERBOARD_GENERATED / rate / 3600,
        ),
    ]


def sent_bytes(run: Run) -> float:
    """Bytes that a GPU sends in an optimizer step under ZeRO-3: in each pass all weights twice, and all gradients."""
    n, p = cost.estimate(run, None).parameters, run.recipe.training.processes
    return work(run).passes * 3 * BF16 * n * (p - 1) / p


def step_seconds(run: Run, gpu: Gpu) -> float:
    """Seconds that the slowest process computes in an optimizer step."""
    done, n, training = work(run), cost.estimate(run, None).parameters, run.recipe.training
    return 8 * n * done.per_example * training.global_batch_size / training.processes / done.efficiency / gpu.training


def _table(titles: list[str], rows: list[list[str]]) -> Iterator[str]:
    yield "| " + " | ".join(titles) + " |"
    yield "|" + " --- |" * len(titles)
    yield from ("| " + " | ".join(row) + " |" for row in rows)
    yield ""


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f} GB"


def _memory(title: str, lines: list[Line]) -> Iterator[str]:
    rows = [[line.what, line.arithmetic, _gb(line.value)] for line in lines]
    rows += [
        ["CUDA context, NCCL, compiled kernels", "[assumed]", _gb(CONTEXT)],
        [
            "fragmentation",
            f"{FRAGMENTATION:.0%} of the above but the context [assumed]",
            _gb(peak(lines) - CONTEXT - sum(line.value for line in lines)),
        ],
        ["**all at once**", "of 80 GB", f"**{_gb(peak(lines))}**"],
    ]
    yield from _table([title, "arithmetic", "bytes"], rows)


def tables() -> Iterator[str]:
    """Yield the lines of the tables of docs/size.md."""
    run = recipes.load("zephyr-7b")
    two_nodes = recipes.load("zephyr-7b", overrides=["training.processes=16"])
    yield from _memory("self-play", generation_memory(run))
    yield from _memory("reference log-probabilities", reference_memory(run))
    yield from _memory("training", training_memory(run))
    yield from _host(run)
    yield from _hours(run)
    yield from _engines()
    yield from _second_node(run, two_nodes)


def _host(run: Run) -> Iterator[str]:
    lines = host_memory(run)
    rows = [[stage, line.what, line.arithmetic, _gb(line.value)] for stage, line in lines]
    always = sum(line.value for stage, line in lines if stage == "all")
    most = always + max(line.value for stage, line in lines if stage != "all")
    yield from _table(
        ["when", "host memory of a node", "arithmetic", "bytes"],
        [*rows, ["", "**most**", "while a model is loaded", f"**{_gb(most)}**"]],
    )


def _hours(run: Run) -> Iterator[str]:
    columns = [hours(run, gpu) for gpu in (A100, H100)]
    rows = [[a.what, a.arithmetic, f"{a.value:.2f} h", f"{h.value:.2f} h"] for a, h in zip(*columns, strict=True)]
    totals = [sum(line.value for line in column) for column in columns]
    iterations = run.recipe.training.iterations
    rows += [
        ["**an iteration**", "", *(f"**{total:.1f} h**" for total in totals)],
        [f"the {iterations} iterations", "", *(f"{iterations * total:.0f} h" for total in totals)],
        ["SPIN, published", "generation + training (first, later iterations)", f"{SPIN_HOURS['generation']} + 4.32 or 8.64 h", ""],
    ]
    yield from _table(["stage of an iteration", "arithmetic on an A100", A100.title, H100.title], rows)


def _engines() -> Iterator[str]:
    rows = []
    for engine in ("deepspeed-zero3", "deepspeed-zero2", "accelerate"):
        row = [f"`{engine}`"]
        for processes in (8, 16):
            found = cost.estimate(
                recipes.load("zephyr-7b", overrides=[f"training.engine={engine}", f"training.processes={processes}"]), None
            )
            row.append(_gb(found.memory_per_process))
        rows.append(row)
    yield from _table(["weights, gradients, optimizer state per GPU", "8 GPUs", "16 GPUs"], rows)


def _second_node(run: Run, two_nodes: Run) -> Iterator[str]:
    rows = []
    for gpu in (A100, H100):
        one, two = step_seconds(run, gpu) + sent_bytes(run) / gpu.link, step_seconds(two_nodes, gpu)
        for name, speed in (("1 × 100 Gb/s", 12.5e9), ("4 × 200 Gb/s", 100e9), ("8 × 400 Gb/s", 400e9)):
            step = two + sent_bytes(two_nodes) / speed
            rows.append([gpu.name, name, f"{one:.2f} s", f"{two:.2f} + {step - two:.2f} s", f"{one / step:.2f}"])
    yield from _table(["GPU", "network of a node", "step on one node", "step on two: computing + network", "times as fast"], rows)


def main() -> None:
    """Print the tables."""
    print("\n".join(tables()))


if __name__ == "__main__":
    main()
