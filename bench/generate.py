"""Speed of self-play sampling here and with transformers' `generate`, on the same prompts, in turns in one process.

    python bench/generate.py [--repetitions 5] [--prompts 96] [--batch 32] [--threads 2] [--json]

Prompts have mixed lengths and a random order. Responses end at a stop token, which has about the given probability, or at the
limit. Both sample from the same model with the same number of rows at a time. Tokens per second count response tokens up to the
stop token, so shorter responses are no advantage.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import workload

LIMIT = 128


def prepared_model(stop_share: float) -> Any:
    """Return the benchmarks' model with a bias that gives the stop token this probability if the others are equally likely."""
    import math

    import torch

    model = workload.create_model().eval()
    vocabulary, width = model.lm_head.weight.shape
    layer = torch.nn.Linear(width, vocabulary)
    with torch.no_grad():
        layer.weight.copy_(model.lm_head.weight)
        layer.bias.zero_()
        layer.bias[workload.STOP] = math.log(stop_share * vocabulary)
    model.set_output_embeddings(layer)
    return model


def generate_with_transformers(model: Any, prompts: list[list[int]], batch: int) -> list[list[int]]:
    """Sample as a simple script does: batches in the order of the prompts, left padding, `generate`."""
    import torch

    responses = []
    for begin in range(0, len(prompts), batch):
        batch_prompts = prompts[begin : begin + batch]
        width = max(map(len, batch_prompts))
        ids = torch.tensor([[workload.PAD] * (width - len(prompt)) + prompt for prompt in batch_prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in batch_prompts])
        generated = model.generate(
            input_ids=ids, attention_mask=mask, do_sample=True, top_k=0, max_new_tokens=LIMIT, pad_token_id=workload.PAD,
            eos_token_id=workload.STOP,
        )  # fmt: skip
        for row in generated[:, width:].tolist():
            responses.append(row[: row.index(workload.STOP) + 1] if workload.STOP in row else row)
    return responses


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Sample with both in turns; return tokens per second and their ratio."""
    import torch

    from spac_repro.recipe import SelfPlaySettings
    from spac_repro.sampling import selfplay

    machine = workload.describe_machine()
    torch.set_num_threads(arguments.threads)
    model = prepared_model(arguments.stop)
    rng = random.Random(0)
    prompts = [[rng.randrange(4, workload.VOCABULARY) for _ in range(rng.randint(8, 256))] for _ in range(arguments.prompts)]
    settings = SelfPlaySettings(
        temperature=1.0, top_p=1.0, prompts_per_seed=arguments.prompts, decode_batch_size=arguments.batch, backend="transformers"
    )

    def ours(seed: int) -> Sequence[list[int]]:
        return selfplay.sample_responses(
            model,
            prompts,
            settings,
            max_response_tokens=LIMIT,
            pad_token_id=workload.PAD,
            stop_token_ids=[workload.STOP],
            seed=seed,
        )

    def theirs(seed: int) -> list[list[int]]:
        torch.manual_seed(seed)
        return generate_with_transformers(model, prompts, arguments.batch)

    samplers: dict[str, Callable[[int], Sequence[list[int]]]] = {"ours": ours, "generate": theirs}
    speed: dict[str, list[float]] = {"ours": [], "generate": []}
    for seed in range(arguments.repetitions + 1):
        for name, respond in samplers.items():
            started = time.perf_counter()
            tokens = sum(map(len, respond(seed)))
            if seed:  # the first round is a warm-up
                speed[name].append(tokens / (time.perf_counter() - started))
    ratios = [a / b for a, b in zip(speed["ours"], speed["generate"], strict=True)]
    for name, values in speed.items():
        print(f"{name:10} {workload.median_and_range(values)} tokens/s")
    print(f"{'ratio':10} {workload.median_and_range(ratios)}")
    return {
        "over_generate": statistics.median(ratios),
        "spread": [min(ratios), max(ratios)],
        "tokens_per_s": {name: statistics.median(values) for name, values in speed.items()},
        "peak_bytes": workload.memory_use()["peak_bytes"],
        "settings": {name: value for name, value in vars(arguments).items() if name != "json"},
        "machine": machine,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=96)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument(
        "--stop", type=float, default=0.03, help="approximate probability that a response ends with batch_prompts next token"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    arguments = parser.parse_args()
    result = compare(arguments)
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
