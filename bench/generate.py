"""Self-play responses here and from transformers' generate called plainly, on the same prompts, in turns in one process.

    python bench/generate.py [--repetitions 5] [--prompts 96] [--batch 32] [--threads 2] [--json]

Prompts are of mixed lengths, in random order; responses end at a stop token that has about the given probability, or at the limit.
Both sample from the same model, and hold as many rows at a time. Tokens per second count response tokens up to the stop, so that a
shorter draw gains nothing.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import workload

LIMIT = 128


def prepared_model(stop_share: float) -> Any:
    """The benchmarks' model, with a bias that gives the stop token its share wherever the others are even."""
    import math

    import torch

    model = workload.model().eval()
    vocabulary, width = model.lm_head.weight.shape
    layer = torch.nn.Linear(width, vocabulary)
    with torch.no_grad():
        layer.weight.copy_(model.lm_head.weight)
        layer.bias.zero_()
        layer.bias[workload.STOP] = math.log(stop_share * vocabulary)
    model.set_output_embeddings(layer)
    return model


def plain(model: Any, prompts: list[list[int]], batch: int) -> list[list[int]]:
    """As a first script would: batches in the order of the prompts, left padding, generate."""
    import torch

    responses = []
    for begin in range(0, len(prompts), batch):
        its = prompts[begin : begin + batch]
        width = max(map(len, its))
        ids = torch.tensor([[workload.PAD] * (width - len(prompt)) + prompt for prompt in its])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in its])
        made = model.generate(
            input_ids=ids, attention_mask=mask, do_sample=True, top_k=0, max_new_tokens=LIMIT, pad_token_id=workload.PAD,
            eos_token_id=workload.STOP,
        )  # fmt: skip
        for row in made[:, width:].tolist():
            responses.append(row[: row.index(workload.STOP) + 1] if workload.STOP in row else row)
    return responses


def compared(arguments: argparse.Namespace) -> dict[str, Any]:
    import torch

    from spac_repro.recipe import SelfPlaySettings
    from spac_repro.sampling import selfplay

    described = workload.machine()
    torch.set_num_threads(arguments.threads)
    model = prepared_model(arguments.stop)
    rng = random.Random(0)
    prompts = [[rng.randrange(4, workload.VOCABULARY) for _ in range(rng.randint(8, 256))] for _ in range(arguments.prompts)]
    settings = SelfPlaySettings(
        temperature=1.0, top_p=1.0, prompts_per_save=arguments.prompts, decode_batch_size=arguments.batch, backend="transformers"
    )

    def ours(seed: int) -> list[list[int]]:
        ends = {"pad": workload.PAD, "stop": workload.STOP}
        return selfplay.respond(model, prompts, settings, max_response_tokens=LIMIT, seed=seed, **ends)

    def theirs(seed: int) -> list[list[int]]:
        torch.manual_seed(seed)
        return plain(model, prompts, arguments.batch)

    speed: dict[str, list[float]] = {"ours": [], "generate": []}
    for seed in range(arguments.repetitions + 1):
        for name, respond in (("ours", ours), ("generate", theirs)):
            begun = time.perf_counter()
            made = sum(map(len, respond(seed)))
            if seed:  # the first round warms up
                speed[name].append(made / (time.perf_counter() - begun))
    ratios = [a / b for a, b in zip(speed["ours"], speed["generate"], strict=True)]
    for name, values in speed.items():
        print(f"{name:10} {workload.spread(values)} tokens/s")
    print(f"{'ratio':10} {workload.spread(ratios)}")
    return {
        "over_generate": statistics.median(ratios),
        "spread": [min(ratios), max(ratios)],
        "tokens_per_s": {name: statistics.median(values) for name, values in speed.items()},
        "peak_bytes": workload.memory()["peak_bytes"],
        "settings": {name: value for name, value in vars(arguments).items() if name != "json"},
        "machine": described,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=96)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--stop", type=float, default=0.03, help="probability that a response ends with its next token, about")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    arguments = parser.parse_args()
    found = compared(arguments)
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
