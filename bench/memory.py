"""What the size of the data costs: time a token and peak memory of training on 1,000 and on 64,000 examples, in turns.

    python bench/memory.py [--repetitions 3] [--steps 16] [--examples 1000 64000] [--json]

The DPO step of bench/step.py, each time in a process of its own, the reference's log-probabilities taken as given. The memory of a
step beside TRL's is in bench/step.py; that of the logits is bounded by `logprobs.AT_ONCE`, whatever the length.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import workload

STEP = str(Path(__file__).with_name("step.py"))


def compared(arguments: argparse.Namespace) -> dict[str, Any]:
    described = workload.machine()
    few, many = arguments.examples
    runs: dict[int, list[dict[str, Any]]] = {few: [], many: []}
    for _ in range(arguments.repetitions):
        for examples, its in runs.items():
            given = [f"--pairs={examples}", f"--steps={arguments.steps}", f"--threads={arguments.threads}"]
            its.append(workload.child(STEP, "--child=ours", "--reference-given", *given, threads=arguments.threads))
    pairs = list(zip(runs[few], runs[many], strict=True))
    time_a_token = [a["tokens_per_s"] / b["tokens_per_s"] for a, b in pairs]
    memory = [b["peak_bytes"] / a["peak_bytes"] for a, b in pairs]
    for examples, its in runs.items():
        rates, peaks = [run["tokens_per_s"] for run in its], [run["peak_bytes"] / 1e9 for run in its]
        print(f"{examples:6} examples: {workload.spread(rates)} tokens/s, {workload.spread(peaks)} GB")
    print(f"time a token, many over few {workload.spread(time_a_token)}; peak memory {workload.spread(memory)}")
    return {
        "time_per_token_many_over_few": statistics.median(time_a_token),
        "peak_memory_many_over_few": statistics.median(memory),
        "bytes_per_example": statistics.median((b["peak_bytes"] - a["peak_bytes"]) / (many - few) for a, b in pairs),
        "settings": {name: value for name, value in vars(arguments).items() if name != "json"},
        "machine": described,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--examples", type=int, nargs=2, default=[1000, 64000])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    arguments = parser.parse_args()
    found = compared(arguments)
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
