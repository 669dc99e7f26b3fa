"""An adapter beside full training, on SmolLM2-135M: memory and time of a training step, and the scores of one iteration.

    python bench/adapter.py --preferences FILE --questions FOLDER [--out FOLDER] [--pairs 16] [--steps 3]     (`make smollm2`)

all       all 135 M weights are trained
adapter   LoRA of rank 16 on every linear layer; ten times the learning rate

Both go on from one start policy, which is scored once. Steps are taken on the rows of the first run, on each side in a process of
its own, after one warm-up step. Runs that are complete in `--out` are not repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import workload

BATCH = 8
TARGETS = "[q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj]"
SETTINGS = (
    "training.iterations=1", "data.max_prompt_tokens=128", "data.max_response_tokens=64", "data.heldout_prompts=8",
    "evaluation.tasks=[arc_challenge, winogrande]",
)  # fmt: skip
ADAPTER = ("policy.adapter.rank=16", "policy.adapter.alpha=16", f"policy.adapter.targets={TARGETS}", "methods.*.learning_rate=2e-5")
KINDS = {"all": (), "adapter": ADAPTER}


def train(arguments: argparse.Namespace, name: str, settings: tuple[str, ...], *more: str) -> Path:
    """Train, or find the folder of a run that is complete."""
    out = Path(arguments.out) / name
    command = [sys.executable, "-m", "spac_repro", "train", "--recipe", "smollm2-135m", "--out", str(out), *more]
    command += ["--preferences", arguments.preferences, "--questions", arguments.questions, "--max-pairs", str(arguments.pairs)]
    command += [part for setting in (*SETTINGS, *settings) for part in ("--set", setting)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL)
    if done.returncode not in (0, 2):  # 2: no expected results for so few pairs
        sys.exit(done.returncode)
    return out


def take_steps(arguments: argparse.Namespace) -> dict[str, Any]:
    """Take steps on the rows of the run that trained all weights; return their time and this process's memory."""
    from spac_repro import objectives, recipes
    from spac_repro.data.dataset import RESPONSES, read
    from spac_repro.model import adapters, policy
    from spac_repro.model.packing import pack
    from spac_repro.optim.loop import create_optimizer
    from spac_repro.optim.replicated import Replicated
    from spac_repro.runs.folder import RunFolder

    run = recipes.load("smollm2-135m", overrides=[*SETTINGS, *KINDS[arguments.child]])
    folder = RunFolder(Path(arguments.out) / "all")
    model, _ = policy.load(folder.iteration(0).policy, run.recipe.policy)
    if run.recipe.policy.adapter:
        adapters.add(model, run.recipe.policy.adapter, base_sha256=folder.iteration(0).weights_sha256)
    module = policy.Policy(model).train()
    optimizer = create_optimizer("rmsprop", module, weight_decay=0.0)
    engine, data = Replicated(module, optimizer, max_grad_norm=1.0), read(folder.iteration(1).dataset_file)
    seconds = []
    for _ in range(1 + arguments.steps):
        started = time.perf_counter()
        for first in range(0, BATCH, 2):  # micro-batches of two examples
            rows = [first, first + 1]
            values = module(pack(data.examples(RESPONSES, rows))).view(2, len(RESPONSES)).unbind(1)
            rho = [value - data.reference_logprobs[name][rows] for name, value in zip(RESPONSES, values, strict=True)]
            loss = objectives.spac(*rho, beta=0.1, preference_weight=3.0).sum() / BATCH
            engine.backward(loss, last_micro_batch=first + 2 == BATCH)
        engine.step(1e-9)
        seconds.append(time.perf_counter() - started)
    trained = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    return {"seconds": seconds[1:], "trained": trained, **workload.memory_use()}


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train and measure both; return what was found, by kind."""
    from spac_repro.runs.folder import RunFolder

    start = train(arguments, "start", (), "--until", "0")
    runs = {kind: train(arguments, kind, settings, "--start-from", str(start)) for kind, settings in KINDS.items()}
    own = [f"--{name}={getattr(arguments, name)}" for name in ("out", "steps", "threads", "preferences", "questions")]
    found: dict[str, Any] = {}
    for kind, run in runs.items():
        steps = workload.run_in_subprocess(__file__, f"--child={kind}", *own, threads=arguments.threads)
        iterate = RunFolder(run).iteration(1)
        found[kind] = steps | {
            "iterate_bytes": sum(file.stat().st_size for file in iterate.policy.glob("*.safetensors")),
            "scores": {f"{score.task} {score.metric}": [score.value, score.stderr] for score in iterate.scores()},
        }
        print(f"{kind:8} {workload.median_and_range(steps['seconds'])} s a step, {steps['peak_bytes'] / 1e9:.2f} GB at most")
        print(f"         {steps['trained']:,} weights trained, {found[kind]['iterate_bytes'] / 1e6:.0f} MB an iterate")
    scored = {**{kind: found[kind]["scores"] for kind in KINDS}}
    scored["start"] = {
        f"{score.task} {score.metric}": [score.value, score.stderr] for score in RunFolder(start).iteration(0).scores()
    }
    for name in scored["all"]:
        print(f"{name:28}", ", ".join(f"{kind} {scored[kind][name][0]:.4f}" for kind in ("start", *KINDS)))
    ratio = statistics.median(found["adapter"]["seconds"]) / statistics.median(found["all"]["seconds"])
    memory = found["adapter"]["peak_bytes"] / found["all"]["peak_bytes"]
    print(f"an adapter's step takes {ratio:.2f} of the time and {memory:.2f} of the memory of full training")
    return {"kinds": found, "start": scored["start"], "step_time_ratio": ratio, "peak_memory_ratio": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preferences", required=True)
    parser.add_argument("--questions", required=True)
    parser.add_argument("--out", default="runs/bench-adapter")
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--child", choices=KINDS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(take_steps(arguments)))
        return
    result = compare(arguments) | {"machine": workload.describe_machine()}
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
