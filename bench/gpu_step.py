"""Time and memory of a DPO step on one GPU, here and in TRL's DPOTrainer: random weights, bfloat16, the same pairs, in turns.

    python bench/gpu_step.py [--size 135m] [--size 7b] [--rounds 3]        (`make bench` brings TRL)

ours     packed rows, reference log-probabilities computed before
trl-pre  DPOTrainer with precompute_ref_log_probs

Both train bfloat16 weights by SGD with recomputed activations, so that 7B fit one GPU of 80 GB: the optimizer's own memory and time
are left out. MFU is 6 operations a weight and token, over the rate of one large bfloat16 product that is measured on the same GPU
before. A pair's tokens are those of its prompt, once, and of both responses. `--size tiny` runs on a CPU, for the tests.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import workload

KINDS = ("ours", "trl-pre")
WARMUP_STEPS = 3
PRODUCT = {"cuda": 8192, "cpu": 512}  # rows and columns of the product whose rate is the machine's


@dataclass(frozen=True)
class Size:
    """A Llama-like model with random weights, and the pairs of a step."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    batch: int

    @property
    def parameters(self) -> int:
        """Weights of the layers and of the output layer; the embedding, which only is read, left out."""
        attention = self.hidden * (2 * self.hidden + 2 * self.hidden * self.key_value_heads // self.heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate) + self.hidden * workload.VOCABULARY


SIZES = {
    "tiny": Size(64, 128, 2, 4, 2, 4),
    "135m": Size(576, 1536, 30, 9, 3, 64),
    "7b": Size(4096, 14336, 32, 32, 8, 16),
}


def create_model(size: Size, device: str) -> Any:
    """Draw a model's weights in bfloat16, on the device."""
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    shape = MistralConfig(
        vocab_size=workload.VOCABULARY, hidden_size=size.hidden, intermediate_size=size.intermediate, num_hidden_layers=size.layers,
        num_attention_heads=size.heads, num_key_value_heads=size.key_value_heads, max_position_embeddings=512, sliding_window=None,
        pad_token_id=workload.PAD, bos_token_id=workload.START, eos_token_id=workload.STOP, dtype="bfloat16",
    )  # fmt: skip
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            return MistralForCausalLM(shape)
    finally:
        torch.set_default_dtype(before)


def device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def pairs(size: Size, steps: int, prompts: str) -> list[tuple[list[int], list[list[int]]]]:
    return list(workload.random_preferences(size.batch * steps, prompts, 2))


def tokens_of(data: list[tuple[list[int], list[list[int]]]]) -> int:
    """The tokens of pairs, each prompt counted once."""
    return sum(len(prompt) + sum(len(response) + 1 for response in responses) for prompt, responses in data)


def synchronize() -> float:
    """Wait for the GPU; the time."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def train_ours(size: Size, steps: int, prompts: str) -> list[float]:
    """Train with this package; the seconds of each step."""
    import torch

    from spac_repro import objectives
    from spac_repro.data.dataset import PreferenceDataset
    from spac_repro.model import precision
    from spac_repro.model.packing import pack
    from spac_repro.model.policy import Policy, use_packed_attention
    from spac_repro.model.reference import reference_logprobs

    names, data = ("chosen", "rejected"), pairs(size, steps, prompts)
    responses = {name: [[*answers[i], workload.STOP] for _, answers in data] for i, name in enumerate(names)}
    dataset = PreferenceDataset([prompt for prompt, _ in data], responses, {})
    policy = Policy(use_packed_attention(create_model(size, device()), "sdpa"))
    options = {"use_reentrant": False, "context_fn": precision.checkpoint_contexts}
    policy.model.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
    policy.train()
    optimizer = torch.optim.SGD(policy.parameters(), lr=1e-6)
    ends = []
    with precision.emulate_bf16_matmul():
        reference = reference_logprobs(policy, dataset, names, batch_tokens=12_288, advance=lambda done, total: None)
        for step in range(steps):
            rows = list(range(step * size.batch, (step + 1) * size.batch))
            packed = pack(dataset.examples(names, rows), device=device())
            values = policy(packed).view(len(rows), 2).unbind(1)
            rho = [value - reference[name][rows].to(value.device) for name, value in zip(names, values, strict=True)]
            objectives.dpo(*rho, beta=0.1).mean().backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            ends.append(synchronize())
    return [after - before for before, after in pairwise(ends)]


def train_trl(size: Size, steps: int, prompts: str) -> list[float]:
    """Train with TRL's DPOTrainer; the seconds of each step."""
    import tempfile

    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import DPOConfig, DPOTrainer

    rows = [
        {"prompt": workload.as_text(prompt), "chosen": " " + workload.as_text(chosen), "rejected": " " + workload.as_text(rejected)}
        for prompt, (chosen, rejected) in pairs(size, steps, prompts)
    ]
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            ends.append(synchronize())

    with tempfile.TemporaryDirectory() as folder:
        settings = DPOConfig(
            output_dir=folder, per_device_train_batch_size=size.batch, max_steps=steps, learning_rate=1e-6, optim="sgd", beta=0.1,
            max_length=512, logging_steps=1, save_strategy="no", report_to=[], use_cpu=device() == "cpu", bf16=True,
            gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": False}, disable_tqdm=True,
            precompute_ref_log_probs=True, remove_unused_columns=False,
        )  # fmt: skip
        DPOTrainer(
            model=create_model(size, device()), args=settings, train_dataset=Dataset.from_list(rows),
            processing_class=workload.create_tokenizer(), callbacks=[Clock()],
        ).train()  # fmt: skip
    return [after - before for before, after in pairwise(ends)]


def measure(kind: str, name: str, steps: int, prompts: str) -> dict[str, Any]:
    """Measure one kind in this process: seconds of a step, tokens a second, MFU and peak memory."""
    import torch

    size, peak = SIZES[name], product_rate()
    with redirect_stdout(sys.stderr):
        seconds = (train_ours if kind == "ours" else train_trl)(size, WARMUP_STEPS + steps, prompts)
    step_s = statistics.median(seconds[WARMUP_STEPS - 1 :])
    rate = tokens_of(pairs(size, WARMUP_STEPS + steps, prompts)) / (WARMUP_STEPS + steps) / step_s
    cuda = torch.cuda.is_available()
    memory = torch.cuda.max_memory_allocated() if cuda else workload.memory_use()["peak_bytes"]
    gpu = torch.cuda.get_device_name() if cuda else "none"
    return {"step_s": step_s, "tokens_per_s": rate, "mfu": mfu(size, rate, peak), "peak_bytes": memory, "gpu": gpu}


def mfu(size: Size, tokens_per_s: float, peak: float) -> float:
    """Share of a rate in operations a second: 2 operations a weight and token forward, 4 backward."""
    return 6 * size.parameters * tokens_per_s / peak


def product_rate() -> float:
    """The operations a second of a large product in bfloat16."""
    import torch

    n = PRODUCT[device()]
    a, b = (torch.randn(n, n, device=device(), dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    started, repeats = synchronize(), 20
    for _ in range(repeats):
        a @ b
    seconds = synchronize() - started
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    return repeats * 2 * n**3 / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", action="append", choices=list(SIZES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--prompts", choices=list(workload.PROMPTS), default="long")
    parser.add_argument("--child", choices=KINDS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(measure(given.child, given.size[0], given.steps, given.prompts)))
        return
    print("| size | kind | s a step | tokens/s | MFU | peak memory |\n| --- | --- | --- | --- | --- | --- |")
    for name in given.size or ["135m", "7b"]:
        runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
        options = [f"--size={name}", f"--steps={given.steps}", f"--prompts={given.prompts}"]
        for _ in range(given.rounds):
            for kind in KINDS:
                runs[kind].append(workload.run_in_subprocess(__file__, f"--child={kind}", *options, threads=1))
                print(f"{name} {kind}: {json.dumps(runs[kind][-1])}", file=sys.stderr, flush=True)
        for kind, found in runs.items():
            steps, rates = ([run[key] for run in found] for key in ("step_s", "tokens_per_s"))
            share = f"{statistics.median(run['mfu'] for run in found):.2f}"
            memory = max(run["peak_bytes"] for run in found) / 1e9
            speed = f"{workload.median_and_range(steps)} | {statistics.median(rates):,.0f}"
            print(f"| {name} | {kind} | {speed} | {share} | {memory:.2f} GB |", flush=True)


if __name__ == "__main__":
    main()
