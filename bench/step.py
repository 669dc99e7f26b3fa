"""Time of a training step here and in TRL's DPOTrainer, on the same model, preferences, dtype and threads, in turns.

    python bench/step.py [--repetitions 3] [--steps 16] [--dtype float32] [--prompts short] [--json]     (`make bench` brings TRL)

ours      DPO on packed rows, with precomputed reference log-probabilities
spac      the SPAC loss: three responses instead of two
trl       DPOTrainer with its defaults: the reference is computed in every step
trl-pre   DPOTrainer with precompute_ref_log_probs

A step is timed from one optimizer step to the next, after three warm-up steps. Totals include the time before the first step.
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

BATCH, WARMUP_STEPS = 8, 3
KINDS = ("ours", "trl", "spac", "trl-pre")


def train_ours(arguments: argparse.Namespace, responses: int) -> dict[str, Any]:
    """Train with this package, on 2 (DPO) or 3 (SPAC) responses a preference; return times and memory."""
    import torch

    from spac_repro import objectives
    from spac_repro.data.dataset import RESPONSES
    from spac_repro.model import precision
    from spac_repro.model.packing import pack
    from spac_repro.model.policy import Policy, use_packed_attention
    from spac_repro.model.reference import reference_logprobs
    from spac_repro.optim.loop import Schedule, create_optimizer

    names = RESPONSES[:responses]
    dataset = load_dataset(arguments, names)
    model = workload.create_model()
    policy = Policy(use_packed_attention(model, "sdpa"))
    optimizer = create_optimizer("adamw", policy, weight_decay=0.0)
    bf16 = arguments.dtype == "bfloat16"
    started_at = time.perf_counter()
    if bf16:
        precision.emulate_bf16_matmul().__enter__()  # as a run does, for as long as it lasts
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        reference = dataset.reference_logprobs or reference_logprobs(
            policy, dataset, names, batch_tokens=4096, advance=lambda done, total: None
        )
    before = time.perf_counter() - started_at
    schedule = Schedule(dataset.num_tokens(names), BATCH, 4096, 1000, 5e-5, "linear", 0.0, (0, "bench", 0))
    seconds, shares, tokens = [], [], []

    def step(number: int) -> None:
        for rows in schedule.micro_batches(number):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                values = policy(pack(dataset.examples(names, rows))).view(len(rows), len(names)).unbind(1)
            rho = [value - reference[name][rows] for name, value in zip(names, values, strict=True)]
            losses = objectives.dpo(*rho, beta=0.1) if len(rho) == 2 else objectives.spac(*rho, beta=0.1, preference_weight=1.0)
            (losses.sum() / BATCH).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = schedule.learning_rate_at(number)
        optimizer.step()
        optimizer.zero_grad()

    for number in range(WARMUP_STEPS + arguments.steps):
        rows = schedule.batch(number)
        row, predicted = (
            sum(schedule.lengths[i] for i in rows),
            sum(len(dataset.responses[name][i]) for i in rows for name in names),
        )
        started = time.perf_counter()
        step(number)
        took = time.perf_counter() - started
        alone = matmul_seconds(model, row, predicted, bf16)
        if number >= WARMUP_STEPS:
            seconds.append(took)
            tokens.append(row)
            shares.append(alone / took)
    step_s = statistics.median(seconds)
    return {
        "step_s": step_s, "before_s": before, **workload.memory_use(), "tokens_per_s": sum(tokens) / sum(seconds),
        "matmul_share": statistics.median(shares),
    }  # fmt: skip


def load_dataset(arguments: argparse.Namespace, names: Sequence[str]) -> Any:
    """Read the dataset of the file given, or make a random one with these responses."""
    from spac_repro.data.dataset import PreferenceDataset, read

    if arguments.dataset:
        return read(Path(arguments.dataset))
    data = list(workload.random_preferences(arguments.pairs, arguments.prompts, len(names)))
    responses = {name: [[*answers[i], workload.STOP] for _, answers in data] for i, name in enumerate(names)}
    return PreferenceDataset([prompt for prompt, _ in data], responses, {})


def matmul_seconds(model: Any, row: int, predicted: int, bf16: bool) -> float:
    """Return the seconds that a step's matrix products take alone, on tensors of their shapes; attention's are left out.

    `row` tokens go through the model, `predicted` of them through `lm_head`. The products are in bfloat16 if `bf16` is set and the
    machine has bfloat16 units, else in fp32.
    """
    import torch

    from spac_repro.model import precision

    kind = torch.bfloat16 if bf16 and precision.has_native_bf16() else torch.float32
    layers = [layer for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear) and name != "lm_head"]
    shapes = [(row, layer.in_features, layer.out_features) for layer in layers]
    spent = 0.0
    for m, k, n in [*shapes, (predicted, model.config.hidden_size, workload.VOCABULARY)]:
        x, weight, slope = (torch.randn(*shape).to(kind) for shape in ((m, k), (n, k), (m, n)))
        started = time.perf_counter()
        x @ weight.t(), slope @ weight, slope.t() @ x
        spent += time.perf_counter() - started
    return spent


def train_trl(arguments: argparse.Namespace, precompute: bool) -> dict[str, Any]:
    """Train with TRL's DPOTrainer; return times and memory."""
    import tempfile

    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import DPOConfig, DPOTrainer

    rows = [
        {"prompt": workload.as_text(prompt), "chosen": " " + workload.as_text(chosen), "rejected": " " + workload.as_text(rejected)}
        for prompt, (chosen, rejected) in workload.random_preferences(arguments.pairs, arguments.prompts, 2)
    ]
    step_ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            step_ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        settings = DPOConfig(
            output_dir=folder, per_device_train_batch_size=BATCH, max_steps=WARMUP_STEPS + arguments.steps, learning_rate=5e-5,
            beta=0.1, max_length=512, logging_steps=1, save_strategy="no", report_to=[], use_cpu=True,
            bf16=arguments.dtype == "bfloat16",
            gradient_checkpointing=False, disable_tqdm=True, precompute_ref_log_probs=precompute, remove_unused_columns=False,
        )  # fmt: skip
        started_at = time.perf_counter()
        trainer = DPOTrainer(
            model=workload.create_model(), ref_model=workload.create_model(), args=settings, train_dataset=Dataset.from_list(rows),
            processing_class=workload.create_tokenizer(), callbacks=[Clock()],
        )  # fmt: skip
        trainer.train()
    seconds = [after - before for before, after in zip(step_ends[WARMUP_STEPS - 1 :], step_ends[WARMUP_STEPS:], strict=False)]
    step_s = statistics.median(seconds)
    return {"step_s": step_s, "before_s": step_ends[0] - started_at - step_s, **workload.memory_use()}


def run_child(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure one kind in this process."""
    kind = arguments.child
    with redirect_stdout(sys.stderr):
        if kind in ("ours", "spac"):
            return train_ours(arguments, 2 if kind == "ours" else 3)
        return train_trl(arguments, kind == "trl-pre")


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure all kinds in turns; return medians and ratios."""
    machine = workload.describe_machine()
    child_arguments = [f"--{name}={getattr(arguments, name)}" for name in ("steps", "dtype", "prompts", "pairs", "threads")]
    runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    for repetition in range(arguments.repetitions):
        for kind in KINDS:
            runs[kind].append(workload.run_in_subprocess(__file__, f"--child={kind}", *child_arguments, threads=arguments.threads))
            seconds, peak = runs[kind][-1]["step_s"], runs[kind][-1]["peak_bytes"]
            print(f"{repetition + 1}/{arguments.repetitions} {kind:8} {seconds:.3f} s a step, {peak / 1e9:.2f} GB", file=sys.stderr)

    def median(kind: str, name: str) -> float:
        return float(statistics.median(run[name] for run in runs[kind]))

    def ratios(over: str, under: str, name: str = "step_s") -> list[float]:
        return [a[name] / b[name] for a, b in zip(runs[over], runs[under], strict=True)]

    steps = -(-arguments.pairs // BATCH)
    total = {
        (kind, epochs): median(kind, "before_s") + epochs * steps * median(kind, "step_s") for kind in KINDS for epochs in (1, 3)
    }
    all_ratios = {
        "dpo_over_trl_default": ratios("trl", "ours"),
        "dpo_over_trl_precomputed": ratios("trl-pre", "ours"),
        "spac_step_time_over_trl_dpo_step": ratios("spac", "trl-pre"),
        "peak_memory_over_trl": ratios("ours", "trl", "peak_bytes"),
        "peak_memory_over_trl_precomputed": ratios("ours", "trl-pre", "peak_bytes"),
        "share_of_matmul_rate": [run["matmul_share"] for run in runs["ours"]],
    }
    for name, values in all_ratios.items():
        print(f"{name:36} {workload.median_and_range(values)}")
    for kind in KINDS:
        seconds = [run["step_s"] for run in runs[kind]]
        print(f"{kind:8} {BATCH / statistics.median(seconds):.2f} pairs/s, {workload.median_and_range(seconds)} s a step")
    print("totals over 1 and 3 epochs:", ", ".join(f"{kind} {total[kind, 1]:.0f} s, {total[kind, 3]:.0f} s" for kind in KINDS))
    return {
        **{name: statistics.median(values) for name, values in all_ratios.items()},
        "spread": {name: [min(values), max(values)] for name, values in all_ratios.items()},
        "tokens_per_s": median("ours", "tokens_per_s"),
        "total_1_epoch_over_trl_precomputed": total["trl-pre", 1] / total["ours", 1],
        "total_3_epochs_over_trl_precomputed": total["trl-pre", 3] / total["ours", 3],
        "total_3_epochs_over_trl_default": total["trl", 3] / total["ours", 3],
        "settings": {name: getattr(arguments, name) for name in ("repetitions", "steps", "dtype", "prompts", "pairs", "threads")},
        "machine": machine,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--prompts", choices=list(workload.PROMPTS), default="short")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--dataset", help=argparse.SUPPRESS)  # file to train on, with reference log-probabilities
    parser.add_argument("--child", choices=KINDS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(run_child(arguments)))
        return
    result = compare(arguments)
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
