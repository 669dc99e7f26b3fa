"""A training step here and in TRL's DPOTrainer: the same model, preferences, dtype and threads, in processes that take turns.

    python bench/step.py [--repetitions 3] [--steps 16] [--dtype float32] [--prompts short] [--json]     (`make bench` brings TRL)

ours      DPO on packed rows, the reference's log-probabilities computed before
spac      the SPAC loss: three responses instead of two
trl       DPOTrainer as it comes: the reference is computed in every step
trl-pre   DPOTrainer with precompute_ref_log_probs

A step is timed from one optimiser step to the next, after three that warm up. Totals count what precedes the first step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import workload

BATCH, WARM = 8, 3
KINDS = ("ours", "trl", "spac", "trl-pre")


def ours(arguments: argparse.Namespace, responses: int) -> dict[str, Any]:
    import torch

    from spac_repro import objectives
    from spac_repro.data.triples import RESPONSES
    from spac_repro.model import precision
    from spac_repro.model.packing import pack
    from spac_repro.model.policy import Policy, prepared
    from spac_repro.model.reference import reference_logprobs
    from spac_repro.optim.loop import Schedule, create_optimizer

    names = RESPONSES[:responses]
    triples = what_to_train_on(arguments, names)
    model = workload.model()
    policy = Policy(prepared(model, "sdpa"))
    optimizer = create_optimizer("adamw", policy, weight_decay=0.0)
    bf16 = arguments.dtype == "bfloat16"
    begun = time.perf_counter()
    if bf16:
        precision.widened().__enter__()  # as a run does, for as long as it lasts
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        reference = triples.reference or reference_logprobs(policy, triples, names, tokens=4096, advance=lambda done, total: None)
    before = time.perf_counter() - begun
    schedule = Schedule(triples.sizes(names), BATCH, 4096, 1000, 5e-5, "linear", 0.0, (0, "bench", 0))
    seconds, shares, tokens = [], [], []

    def step(number: int) -> None:
        for rows in schedule.micro_batches(number):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                values = policy(pack(triples.groups(names, rows))).view(len(rows), len(names)).unbind(1)
            rho = [value - reference[name][rows] for name, value in zip(names, values, strict=True)]
            losses = objectives.dpo(*rho, beta=0.1) if len(rho) == 2 else objectives.spac(*rho, beta=0.1, preference_weight=1.0)
            (losses.sum() / BATCH).backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = schedule.learning_rate_at(number)
        optimizer.step()
        optimizer.zero_grad()

    for number in range(WARM + arguments.steps):
        rows = schedule.batch(number)
        row, predicted = sum(schedule.sizes[i] for i in rows), sum(len(triples.responses[name][i]) for i in rows for name in names)
        started = time.perf_counter()
        step(number)
        took = time.perf_counter() - started
        alone = products(model, row, predicted, bf16)
        if number >= WARM:
            seconds.append(took)
            tokens.append(row)
            shares.append(alone / took)
    step_s = statistics.median(seconds)
    return {
        "step_s": step_s, "before_s": before, **workload.memory(), "tokens_per_s": sum(tokens) / sum(seconds),
        "matmul_share": statistics.median(shares),
    }  # fmt: skip


def what_to_train_on(arguments: argparse.Namespace, names: Sequence[str]) -> Any:
    """The triples of the file given, or random ones with these responses."""
    from spac_repro.data.triples import Triples, read

    if arguments.triples:
        return read(Path(arguments.triples))
    data = list(workload.preferences(arguments.pairs, arguments.prompts, len(names)))
    its = {name: [[*answers[i], workload.STOP] for _, answers in data] for i, name in enumerate(names)}
    return Triples([prompt for prompt, _ in data], its, {})


def products(model: Any, row: int, predicted: int, bf16: bool) -> float:
    """Seconds for a step's matrix products alone, on tensors of their shapes; those of attention are left out.

    `row` tokens go through the model and `predicted` of them through `lm_head`. In bfloat16 where that is asked for and the
    machine has units for it: elsewhere fp32 is what its products could be taken in at best.
    """
    import torch

    from spac_repro.model import precision

    kind = torch.bfloat16 if bf16 and precision.has_units() else torch.float32
    layers = [layer for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear) and name != "lm_head"]
    shapes = [(row, layer.in_features, layer.out_features) for layer in layers]
    spent = 0.0
    for m, k, n in [*shapes, (predicted, model.config.hidden_size, workload.VOCABULARY)]:
        x, weight, slope = (torch.randn(*shape).to(kind) for shape in ((m, k), (n, k), (m, n)))
        started = time.perf_counter()
        x @ weight.t(), slope @ weight, slope.t() @ x
        spent += time.perf_counter() - started
    return spent


def trl(arguments: argparse.Namespace, precompute: bool) -> dict[str, Any]:
    import tempfile

    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import DPOConfig, DPOTrainer

    rows = [
        {"prompt": workload.text(prompt), "chosen": " " + workload.text(chosen), "rejected": " " + workload.text(rejected)}
        for prompt, (chosen, rejected) in workload.preferences(arguments.pairs, arguments.prompts, 2)
    ]
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *given: Any, **more: Any) -> None:
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        settings = DPOConfig(
            output_dir=folder, per_device_train_batch_size=BATCH, max_steps=WARM + arguments.steps, learning_rate=5e-5, beta=0.1,
            max_length=512, logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, bf16=arguments.dtype == "bfloat16",
            gradient_checkpointing=False, disable_tqdm=True, precompute_ref_log_probs=precompute, remove_unused_columns=False,
        )  # fmt: skip
        begun = time.perf_counter()
        trainer = DPOTrainer(
            model=workload.model(), ref_model=workload.model(), args=settings, train_dataset=Dataset.from_list(rows),
            processing_class=workload.tokenizer(), callbacks=[Clock()],
        )  # fmt: skip
        trainer.train()
    seconds = [after - before for before, after in zip(ends[WARM - 1 :], ends[WARM:], strict=False)]
    step_s = statistics.median(seconds)
    return {"step_s": step_s, "before_s": ends[0] - begun - step_s, **workload.memory()}


def measured(arguments: argparse.Namespace) -> dict[str, Any]:
    kind = arguments.child
    with redirect_stdout(sys.stderr):
        return ours(arguments, 2 if kind == "ours" else 3) if kind in ("ours", "spac") else trl(arguments, kind == "trl-pre")


def compared(arguments: argparse.Namespace) -> dict[str, Any]:
    described = workload.machine()
    given = [f"--{name}={getattr(arguments, name)}" for name in ("steps", "dtype", "prompts", "pairs", "threads")]
    runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    for repetition in range(arguments.repetitions):
        for kind in KINDS:
            runs[kind].append(workload.child(__file__, f"--child={kind}", *given, threads=arguments.threads))
            seconds, peak = runs[kind][-1]["step_s"], runs[kind][-1]["peak_bytes"]
            print(f"{repetition + 1}/{arguments.repetitions} {kind:8} {seconds:.3f} s a step, {peak / 1e9:.2f} GB", file=sys.stderr)

    def median(kind: str, name: str) -> float:
        return statistics.median(run[name] for run in runs[kind])

    def ratios(over: str, under: str, name: str = "step_s") -> list[float]:
        return [a[name] / b[name] for a, b in zip(runs[over], runs[under], strict=True)]

    steps = -(-arguments.pairs // BATCH)
    total = {
        (kind, epochs): median(kind, "before_s") + epochs * steps * median(kind, "step_s") for kind in KINDS for epochs in (1, 3)
    }
    compared = {
        "dpo_over_trl_default": ratios("trl", "ours"),
        "dpo_over_trl_precomputed": ratios("trl-pre", "ours"),
        "spac_step_time_over_trl_dpo_step": ratios("spac", "trl-pre"),
        "peak_memory_over_trl": ratios("ours", "trl", "peak_bytes"),
        "peak_memory_over_trl_precomputed": ratios("ours", "trl-pre", "peak_bytes"),
        "share_of_matmul_rate": [run["matmul_share"] for run in runs["ours"]],
    }
    for name, values in compared.items():
        print(f"{name:36} {workload.spread(values)}")
    for kind in KINDS:
        seconds = [run["step_s"] for run in runs[kind]]
        print(f"{kind:8} {BATCH / statistics.median(seconds):.2f} pairs/s, {workload.spread(seconds)} s a step")
    print("totals over 1 and 3 epochs:", ", ".join(f"{kind} {total[kind, 1]:.0f} s, {total[kind, 3]:.0f} s" for kind in KINDS))
    return {
        **{name: statistics.median(values) for name, values in compared.items()},
        "spread": {name: [min(values), max(values)] for name, values in compared.items()},
        "tokens_per_s": median("ours", "tokens_per_s"),
        "total_1_epoch_over_trl_precomputed": total["trl-pre", 1] / total["ours", 1],
        "total_3_epochs_over_trl_precomputed": total["trl-pre", 3] / total["ours", 3],
        "total_3_epochs_over_trl_default": total["trl", 3] / total["ours", 3],
        "settings": {name: getattr(arguments, name) for name in ("repetitions", "steps", "dtype", "prompts", "pairs", "threads")},
        "machine": described,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--prompts", choices=list(workload.PROMPTS), default="short")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    parser.add_argument("--triples", help=argparse.SUPPRESS)  # a file to train on, the reference's log-probabilities in it
    parser.add_argument("--child", choices=KINDS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measured(arguments)))
        return
    found = compared(arguments)
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
