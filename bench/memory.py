"""The cost of more data: time per token and peak memory with 1,000 and with 64,000 preferences, in turns.

    python bench/memory.py [--repetitions 3] [--steps 16] [--examples 1000 64000] [--json]

prepare   read, check, fingerprint, tokenize and store a file of preferences, as a run does before training
train     the DPO step of bench/step.py on the stored preferences

Each runs in its own process. Peak memory is peak resident memory. It includes pages of mapped files, which the kernel reclaims when
it needs them. "Own" memory is anonymous memory at the end. Reference log-probabilities are zeros, since neither the time nor the
memory of a step depends on them. bench/step.py compares the memory of a step with TRL's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import workload

STEP = str(Path(__file__).with_name("step.py"))


def write_preferences(path: Path, number: int) -> None:
    """Write random preferences as JSON lines."""
    with path.open("w") as file:
        for prompt, (chosen, rejected) in workload.random_preferences(number, "short", 2):
            row = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
            file.write(json.dumps({name: workload.as_text(tokens) for name, tokens in row.items()}) + "\n")


def prepare(source: Path) -> dict[str, Any]:
    """Prepare a file of preferences for training; return time and memory."""
    from dataclasses import replace

    import torch

    from spac_repro.data import dataset, preferences
    from spac_repro.data.dataset import PreferenceDataset
    from spac_repro.data.rendering import Renderer
    from spac_repro.recipe import DataSettings

    started_at = time.perf_counter()
    rows = preferences.read_preferences(str(source))
    preferences.fingerprint(rows)
    plain = DataSettings(
        source="file", name=None, revision=None, max_pairs=None, prompt_template="plain",
        max_prompt_tokens=512, max_response_tokens=512,
        overlong_prompts="refuse", world=None,
    )  # fmt: skip
    data = PreferenceDataset.from_tokenized(Renderer(workload.create_tokenizer(), plain).tokenize(rows), None)
    reference = {name: torch.zeros(len(rows)) for name in data.responses}
    dataset.write(source.with_suffix(".parquet"), replace(data, reference_logprobs=reference), {})
    return {"seconds": time.perf_counter() - started_at, **workload.memory_use()}


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Prepare and train with few and with many preferences, in turns; return medians and ratios."""
    machine = workload.describe_machine()
    few, many = arguments.examples
    prepared: dict[int, list[dict[str, Any]]] = {few: [], many: []}
    trained: dict[int, list[dict[str, Any]]] = {few: [], many: []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.repetitions):
            for examples in (few, many):
                source = Path(folder) / f"{examples}.jsonl"
                if not source.exists():
                    write_preferences(source, examples)
                threads = arguments.threads
                prepared[examples].append(workload.run_in_subprocess(__file__, f"--child={source}", threads=threads))
                child_arguments = [
                    f"--dataset={source.with_suffix('.parquet')}",
                    f"--steps={arguments.steps}",
                    f"--threads={threads}",
                ]
                trained[examples].append(workload.run_in_subprocess(STEP, "--child=ours", *child_arguments, threads=threads))

    def ratios(runs: dict[int, list[dict[str, Any]]], name: str) -> list[float]:
        return [b[name] / a[name] for a, b in zip(runs[few], runs[many], strict=True)]

    all_ratios = {
        "time_per_token_many_over_few": [1 / ratio for ratio in ratios(trained, "tokens_per_s")],
        "peak_memory_many_over_few": ratios(trained, "peak_bytes"),
        "own_memory_many_over_few": ratios(trained, "own_bytes"),
        "prepare_peak_memory_many_over_few": ratios(prepared, "peak_bytes"),
        "prepare_own_memory_many_over_few": ratios(prepared, "own_bytes"),
    }
    for examples in (few, many):
        rates = [run["tokens_per_s"] for run in trained[examples]]
        peaks = [[run["peak_bytes"] / 1e9 for run in runs[examples]] for runs in (trained, prepared)]
        seconds = [run["seconds"] for run in prepared[examples]]
        print(
            f"{examples:6} examples: {workload.median_and_range(rates)} tokens/s, {workload.median_and_range(peaks[0])} GB; "
            f"prepared in {workload.median_and_range(seconds)} s, {workload.median_and_range(peaks[1])} GB"
        )
    for name, values in all_ratios.items():
        print(f"{name:36} {workload.median_and_range(values)}")
    return {
        **{name: statistics.median(values) for name, values in all_ratios.items()},
        "spread": {name: [min(values), max(values)] for name, values in all_ratios.items()},
        "settings": {name: value for name, value in vars(arguments).items() if name not in ("json", "child")},
        "machine": machine,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--examples", type=int, nargs=2, default=[1000, 64000])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(prepare(arguments.child)))
        return
    result = compare(arguments)
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
