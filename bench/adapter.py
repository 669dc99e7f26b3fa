"""An adapter beside full training, on SmolLM2-135M: memory and time of a training step, and the scores of one iteration.

    python bench/adapter.py --preferences FILE --out FOLDER [--rounds 5] [--questions FOLDER]     (`make smollm2`)

all       all 135 M weights are trained
adapter   LoRA of rank 16 on every linear layer, with ten times the learning rate, as in recipe zephyr-7b-lora

Each round takes a step of either kind, in a process of its own, after a warm-up step. Ratios are those within a round. With
`--questions`, one iteration of either kind is trained too, from one start policy, and its scores are printed. What is finished is
kept in `--out`: repeat the command after an interruption.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import workload

RECIPE = "smollm2-135m"
SETTINGS = (
    "training.iterations=1", "methods.*.learning_rate=2e-6", "evaluation.suite=openllm",
    "evaluation.tasks=[winogrande, hellaswag]", "evaluation.limit=24",
)  # fmt: skip
TARGETS = "[q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj]"
ADAPTER = ("policy.adapter.rank=16", "policy.adapter.alpha=16", f"policy.adapter.targets={TARGETS}", "methods.*.learning_rate=2e-5")
KINDS: dict[str, tuple[str, ...]] = {"all": (), "adapter": ADAPTER}
MICRO_BATCH = 2  # pairs: with three responses each, less than training.micro_batch_tokens of the recipe


def train(arguments: argparse.Namespace, name: str, settings: tuple[str, ...], *more: str) -> Path:
    """Train, go on with a run, or find one that is complete; return its folder."""
    out = Path(arguments.out) / name
    command = [sys.executable, "-m", "spac_repro", "train", "--recipe", RECIPE, "--out", str(out), *more]
    command += ["--preferences", arguments.preferences, "--max-pairs", str(arguments.pairs)]
    command += ["--questions", arguments.questions] if arguments.questions else []
    command += [part for setting in (*SETTINGS, *arguments.set, *settings) for part in ("--set", setting)]
    if done := subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
        sys.exit(done)
    return out


def write_model(arguments: argparse.Namespace) -> dict[str, Any]:
    """Write the recipe's model as a folder: reading its GGUF file takes more memory than a step."""
    from spac_repro import recipes
    from spac_repro.model import policy
    from spac_repro.runs import files

    with files.atomic_folder(Path(arguments.out) / "model") as folder:
        policy.save(*policy.create_initial(recipes.load(RECIPE).recipe.policy, seed=0), folder)
    return {}


def take_steps(arguments: argparse.Namespace) -> dict[str, Any]:
    """Take two steps on the first preference pairs; return the time of the second and this process's memory.

    The chosen response of the pair before stands for y′, and ρ is the log-probability itself: neither changes what is computed.
    """
    import torch

    from spac_repro import objectives, recipes
    from spac_repro.data import preferences
    from spac_repro.data.dataset import PreferenceDataset
    from spac_repro.data.rendering import Renderer
    from spac_repro.model import adapters, freed_memory, generation_config, policy
    from spac_repro.model.packing import pack
    from spac_repro.optim.loop import create_optimizer
    from spac_repro.optim.replicated import Replicated

    torch.use_deterministic_algorithms(True)
    recipe = recipes.load(RECIPE, overrides=[*SETTINGS, *arguments.set, *KINDS[arguments.child]]).recipe
    model, tokenizer = policy.load(Path(arguments.out) / "model", recipe.policy)
    freed_memory.release()  # as `train` does
    renderer = Renderer(tokenizer, recipe.data, generation_config.stop_token_ids(model))
    tokens = renderer.tokenize(preferences.read_preferences(arguments.preferences, limit=arguments.batch))
    answers = PreferenceDataset.from_tokenized(tokens).responses["chosen"]
    data = PreferenceDataset.from_tokenized(tokens, [list(answers[i - 1]) for i in range(arguments.batch)])
    names = tuple(data.responses)
    if recipe.policy.adapter:
        adapters.add(model, recipe.policy.adapter, base_sha256="")
    module = policy.Policy(model).train()
    optimizer = create_optimizer(recipe.training.optimizer, module, weight_decay=recipe.training.weight_decay)
    engine = Replicated(module, optimizer, max_grad_norm=recipe.training.max_grad_norm)
    seconds = 0.0
    for _ in ("warm-up", "timed"):
        started = time.perf_counter()
        for first in range(0, arguments.batch, MICRO_BATCH):
            rows = list(range(first, min(first + MICRO_BATCH, arguments.batch)))
            rho = dict(zip(names, module(pack(data.examples(names, rows))).view(len(rows), -1).unbind(1), strict=True))
            loss = objectives.spac(**rho, beta=0.1, preference_weight=3.0).sum() / arguments.batch
            engine.backward(loss, last_micro_batch=rows[-1] + 1 == arguments.batch)
        engine.step(1e-9)
        seconds = time.perf_counter() - started
    trained = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    return {"seconds": seconds, "tokens": sum(data.num_tokens(names)), "trained": trained, **workload.memory_use()}


def measure_steps(arguments: argparse.Namespace) -> dict[str, Any]:
    """Take a step of either kind in every round that is not in the file yet; print medians over rounds and the ratios."""
    file = Path(arguments.out) / "steps.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    rounds = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    own = [f"--{name}={getattr(arguments, name)}" for name in ("out", "batch", "preferences")]
    own += [f"--set={setting}" for setting in arguments.set]
    if not (Path(arguments.out) / "model").exists():
        workload.run_in_subprocess(__file__, "--child=model", *own, threads=arguments.threads)
    while len(rounds) < arguments.rounds:
        order = [*KINDS][:: 1 if len(rounds) % 2 else -1]  # either kind is as often the first of a round
        steps = {kind: workload.run_in_subprocess(__file__, f"--child={kind}", *own, threads=arguments.threads) for kind in order}
        rounds.append({**steps, "machine": workload.describe_machine()})
        with file.open("a") as lines:
            lines.write(json.dumps(rounds[-1]) + "\n")
    print(f"{len(rounds)} rounds; {rounds[0]['machine']}")
    for kind in KINDS:
        found = [each[kind] for each in rounds]
        seconds = workload.median_and_range([each["seconds"] for each in found])
        memory = workload.median_and_range([each["peak_bytes"] / 1e9 for each in found])
        print(f"{kind:8} {found[0]['trained']:,} weights, {found[0]['tokens']} tokens: {seconds} s a step, peak {memory} GB")
    ratios = {
        name: workload.median_and_range([each["adapter"][name] / each["all"][name] for each in rounds])
        for name in ("seconds", "peak_bytes")
    }
    print(f"adapter over all: step time {ratios['seconds']}, peak memory {ratios['peak_bytes']}")
    return {"rounds": rounds, "ratios": ratios}


def compare_scores(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train one iteration of either kind from one start policy; print the scores beside each other."""
    from spac_repro.runs.folder import RunFolder

    start = train(arguments, "start", (), "--until", "0")
    runs = {kind: train(arguments, kind, settings, "--start-from", str(start)) for kind, settings in KINDS.items()}
    scored = {"start": RunFolder(start).iteration(0), **{kind: RunFolder(run).iteration(1) for kind, run in runs.items()}}
    found = {name: {f"{score.task} {score.metric}": score for score in its.scores()} for name, its in scored.items()}
    for name, first in found["all"].items():
        values = (f"{kind} {its[name].value:.4f} ± {its[name].stderr or 0:.4f}" for kind, its in found.items())
        print(f"{name:28} n {first.n:4}  {', '.join(values)}")
    return {"scores": {kind: {name: score.value for name, score in its.items()} for kind, its in found.items()}}


def main() -> None:
    """Print the medians, the ratios, and with `--questions` the scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preferences", required=True)
    parser.add_argument("--questions", help="also train one iteration of both, and compare scores on these questions")
    parser.add_argument("--out", default="runs/bench-adapter")
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--batch", type=int, default=2, help="pairs a step")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], help="a setting of the recipe, for both kinds")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--child", choices=("model", *KINDS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(write_model(arguments) if arguments.child == "model" else take_steps(arguments)))
        return
    result = measure_steps(arguments)
    if arguments.questions:
        result |= compare_scores(arguments)
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
