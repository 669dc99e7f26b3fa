"""One self-play iteration with evaluation of SmolLM2-135M, here and assembled from other libraries, in turns.

    python bench/iteration.py --preferences FILE --questions FOLDER --keep FOLDER [--method spin] [--rounds 3] [--json]

`make bench` brings TRL. Both sides begin with the same model folder, preferences and questions, and end with a new model folder
and its scores on the six tasks of openllm:

here  `spac-repro train --until 1` of recipe smollm2-135m: self-play responses, reference log-probabilities, audit, optimizer steps,
      iterate with its hashes, leaderboard, sample responses
peer  `generate` of transformers, TRL's DPOTrainer on (chosen, the policy's own response), lm-eval's `simple_evaluate` with HFLM

With `--method spin` both minimise the same loss of the same pairs. With `--method spac` the peer still does SPIN's work: TRL has no
loss of three responses, so this package does more.

The peer is what somebody who knows these libraries writes. Models are in float32 with sdpa. All prompts are sampled at once, padded
to the longest. DPOTrainer computes the reference once (precompute_ref_log_probs), without gradient checkpointing, and has the
recipe's optimizer, learning rate and batch of 8. `--micro-batch` and `--peer-batch-size` should be the fastest (RESULTS.md says
which were tried). Its task files are written before the clock runs, and its questions are read without the harness's slow JSON
loader. No response is cut on one side only: pairs are chosen whose responses fit. MMLU has questions of one subject, as in a whole
evaluation, where a subject has 123 on average.

Neither side's clock counts imports, or the scores of the start. Samples differ, as the two draw other random numbers; the numbers
of tokens stand below the times. Each side of a round has a process of its own; which is first changes with every round. What is
finished is kept in the folder: repeat the command to go on. It begins nothing that would end after `--minutes`.

`share` is the operations of the linear layers (three times the forward pass's where a gradient is taken), over the seconds of the
stage, over the rate of products of 1,024 rows with the matrices of the model's layers, timed before and after. Attention's own
products are not counted. `skinny` is the rate of products with as many rows as are generated at once, over that of 1,024.
`--operations` says what kinds of operations take the rest.
"""

import argparse
import gzip
import json
import statistics
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import iteration_sides as sides
import workload

SIDES = ("here", "peer")
SUBJECT = "anatomy"
ROWS = 1024  # of the products whose rate is the machine's


def prepare(options: argparse.Namespace) -> None:
    """Make what both sides begin with, unless it is there: model, preferences, questions, task files, and the start of a run."""
    place = options.keep
    place.mkdir(parents=True, exist_ok=True)
    wanted = {"pairs": options.pairs, "limit": options.limit}
    file = place / "settings.json"
    if file.exists() and json.loads(file.read_text()) != wanted:
        sys.exit(f"{place} was made with {json.loads(file.read_text())}; give another folder, or the same numbers")
    if not file.exists():
        _write_model(options, place / "model")
        _write_questions(options, place)
        _write_preferences(options, place / "preferences.jsonl")
        file.write_text(json.dumps(wanted))
    if not (place / f"start-{options.method}").exists():
        _train_start(place, options.method)


def _write_model(options: argparse.Namespace, folder: Path) -> None:
    from spac_repro import recipes
    from spac_repro.model import policy

    settings = recipes.load("smollm2-135m").recipe.policy
    model, tokenizer = policy.load(options.model) if options.model else policy.create_initial(settings, seed=0)
    policy.save(model, tokenizer, folder)


def _write_questions(options: argparse.Namespace, place: Path) -> None:
    """Write the first questions of each task, of MMLU those of one subject, and the task files of the peer."""
    import evaluate

    from spac_repro.evaluation.leaderboard import harness

    (place / "tasks").mkdir(exist_ok=True)
    for name in sides.TASKS:
        ((task, subtasks),) = evaluate.questions(options.questions, name, options.limit).items()
        (place / "tasks" / name).mkdir(exist_ok=True)
        harness.write_task(task, subtasks, place / "tasks" / name)
        for split in task.splits:
            target = place / "questions" / task.data_folder / f"{split}.jsonl"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text("".join(json.dumps(row) + "\n" for each in subtasks.values() for row in each[split]))


def _write_preferences(options: argparse.Namespace, file: Path) -> None:
    """Write the first pair of each prompt whose responses fit into the recipe's length."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(options.keep / "model")
    content = options.preferences.read_bytes()
    text = (gzip.decompress(content) if options.preferences.suffix == ".gz" else content).decode()
    found: dict[str, str] = {}
    for line in text.splitlines(keepends=True):
        if line.strip():
            row = json.loads(line)
            texts = [row[name][0]["content"] for name in ("chosen", "rejected")]
            if all(len(tokenizer(text)["input_ids"]) < sides.MAX_RESPONSE_TOKENS - 2 for text in texts):
                found.setdefault(row["prompt"][0]["content"], line)
    file.write_text("".join([*found.values()][: options.pairs]))


def _train_start(place: Path, method: str) -> None:
    """Begin a run and score its start; the iteration goes on from there."""
    from spac_repro import pipeline
    from spac_repro.data import sources
    from spac_repro.progress import LogProgress

    run = sides.prepared_run(place, method)
    inputs = sources.read(run, preferences=str(place / "preferences.jsonl"), questions=place / "questions")
    part = place / f"start-{method}.part"
    pipeline.train(run, part, inputs, allow_changed_environment=False, until=0, progress=LogProgress())
    part.rename(place / f"start-{method}")


def run_child(options: argparse.Namespace) -> dict[str, Any]:
    """Measure one side in this process."""
    import torch
    from transformers import AutoConfig

    torch.set_num_threads(options.threads)
    config = AutoConfig.from_pretrained(options.keep / "model")
    counted: list[int] = []
    rates = [sides.matmul_rate(config, ROWS)]
    skinny = sides.matmul_rate(config, options.pairs)
    with redirect_stdout(sys.stderr):
        if options.child == "here":
            clock = sides.here(options.keep, options.method, counted.append)
        else:
            clock = sides.peer(options.keep, options.peer_batch_size, options.micro_batch, counted.append)
    rates.append(sides.matmul_rate(config, ROWS))
    return {
        **{"seconds": clock.seconds, "operations": dict(clock.operations), "tokens": sum(counted), "rates": rates},
        **{"skinny": skinny, **workload.memory_use()},
    }


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure what is not kept yet, as far as the time allows; return all rounds, of which the last may lack a side."""
    file = options.keep / f"rounds-{options.method}.json"
    rounds: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
    names = ("method", "pairs", "threads", "keep", "peer_batch_size", "micro_batch")
    words = [f"--{name.replace('_', '-')}={getattr(options, name)}" for name in names]
    begun, longest = time.monotonic(), max((sum(each[side]["seconds"].values()) for each in rounds for side in each), default=0.0)
    for number in range(options.rounds):
        rounds += [{}] if len(rounds) <= number else []
        for side in SIDES if number % 2 else reversed(SIDES):
            if side in rounds[number]:
                continue
            if time.monotonic() - begun + 1.3 * longest > 60 * options.minutes:
                return rounds
            rounds[number][side] = workload.run_in_subprocess(__file__, f"--child={side}", *words, threads=options.threads)
            rounds[number][side]["machine"] = workload.describe_machine()
            longest = max(longest, sum(rounds[number][side]["seconds"].values()))
            part = file.with_suffix(".part")
            part.write_text(json.dumps(rounds, indent=1))
            part.replace(file)
    return rounds


def table(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Print times, ratios and shares by stage; return them."""
    rows: dict[str, Any] = {}
    print("| stage | here, s | peer, s | ratio | share of the matmul rate here |")
    print("| --- | --- | --- | --- | --- |")
    for stage in (*sides.STAGES, "total"):
        here, peer = ([_seconds(each[side], stage) for each in rounds] for side in SIDES)
        ratios = [b / a for a, b in zip(here, peer, strict=True) if a]
        shares = [_share(each["here"], stage) for each in rounds]
        rows[stage] = {"here": here, "peer": peer, "ratios": ratios, "shares": shares}
        cells = [workload.median_and_range(values) if any(values) else "" for values in (here, peer, ratios, shares)]
        print(f"| {stage} | {' | '.join(cells)} |")
    for name, values in {
        "tokens here": [each["here"]["tokens"] for each in rounds],
        "tokens of the peer": [each["peer"]["tokens"] for each in rounds],
        "GFLOP/s": [rate for each in rounds for rate in each["here"]["rates"]],
        "skinny": [each["here"]["skinny"] / statistics.mean(each["here"]["rates"]) for each in rounds],
        "peak GB here": [each["here"]["peak_bytes"] / 1e9 for each in rounds],
        "peak GB of the peer": [each["peer"]["peak_bytes"] / 1e9 for each in rounds],
    }.items():
        print(f"{name}: {workload.median_and_range(values)}")
    return rows


def _seconds(measured: dict[str, Any], stage: str) -> float:
    seconds: dict[str, float] = measured["seconds"]
    return sum(seconds.values()) if stage == "total" else seconds[stage]


def _share(measured: dict[str, Any], stage: str) -> float:
    operations: dict[str, float] = measured["operations"]
    done = sum(operations.values()) if stage == "total" else operations.get(stage, 0.0)
    seconds = _seconds(measured, stage)
    return done / seconds / 1e9 / statistics.mean(measured["rates"]) if seconds else 0.0


def main() -> None:
    """Prepare, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, required=True, help="the folder of inputs and results")
    parser.add_argument("--preferences", type=Path, help="preferences in messages, as JSON lines")
    parser.add_argument("--questions", type=Path, help="the folder with the questions of openllm")
    parser.add_argument("--model", type=Path, help="a model folder; by default the model of the recipe")
    parser.add_argument("--method", choices=["spin", "spac"], default="spin")
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--limit", type=int, default=4, help="questions a task")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=5.5, help="begin nothing that would end later; 0: prepare only")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--micro-batch", type=int, default=4, help="of DPOTrainer, in pairs")
    parser.add_argument("--peer-batch-size", type=int, default=4, help="of HFLM")
    parser.add_argument("--operations", action="store_true", help="say instead what kinds of operations take the time here")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.keep = options.keep.resolve()
    if options.child:
        print(json.dumps(run_child(options)))
        return
    prepare(options)
    if options.operations:
        print(json.dumps(sides.operations(options.keep), indent=1))
        return
    rounds = [each for each in measure(options) if len(each) == len(SIDES)] if options.minutes else []
    if not rounds:
        print("no round is complete; repeat the command", file=sys.stderr)
        return
    found = table(rounds)
    if options.json:
        print(json.dumps({"stages": found, "machine": rounds[-1]["peer"]["machine"]}))


if __name__ == "__main__":
    main()
