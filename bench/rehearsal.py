"""How well few layers foretell 30: `python bench/rehearsal.py --preferences FILE --keep rounds.json --depths 2 4`.

Two processes take turns. One rehearses: it visits two depths of SmolLM2's widths at both sizes, as `spac-repro rehearse` does. The
other visits all 30 layers. So neither finds in its memory what the other has left. A call adds rounds to the file for so many
minutes (`--minutes`), so that a busy machine is held for minutes only. It prints what all rounds say: the median of the whole
model as measured, what the two depths extrapolate to (`rehearsal/extrapolation.py`), and the interval of that. With depths of 8
and 16, it measures what a rehearsal chooses for these widths.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from spac_repro import recipes
from spac_repro.data import sources
from spac_repro.rehearsal import extrapolation, plan, shape
from spac_repro.rehearsal.document import SIZES, Rehearsal, Visit
from spac_repro.rehearsal.visits import visit as measure_visit

# Few rows of up to 288 tokens, so that a round takes about two minutes on two cores.
SETTINGS = (
    *("data.max_response_tokens=32", "data.max_pairs=64", "selfplay.prompts_per_seed=8", "training.global_batch_size=2"),
    *("evaluation.suite=none", "evaluation.heldout_pairs=0", "evaluation.gold_prompts=0"),
)
WHOLE = 30
ROOT = Path(__file__).resolve().parents[1]
STAGES = ("load", "hash", "save", "self-play", "reference log-probabilities", "step", "checkpoint write", "checkpoint read")


def take_turns(preferences: str, depths: tuple[int, ...], sizes: tuple[float, ...]) -> None:
    """Visit depths and sizes once for every line that is read, in turning order; write the visits as a line."""
    answers, sys.stdout = sys.stdout, sys.stderr
    run = recipes.load("smollm2-135m", overrides=[*SETTINGS])
    of = plan.make(
        run, sources.read(run, preferences=preferences, questions=None), depths, shape.of_policy(run.recipe.policy), None, ()
    )
    order = [(layers, size) for layers in depths for size in sizes]
    with tempfile.TemporaryDirectory() as place:
        measure_visit(of, depths[0], sizes[0], Path(place))  # not counted: it imports and compiles
        print(json.dumps({str(layers): of.shape.parameters(layers) for layers in (*depths, WHOLE)}), file=answers, flush=True)
        for line in sys.stdin:
            number = int(line)
            visits = [
                Visit(round=number, layers=layers, size=size, stages=measure_visit(of, layers, size, Path(place)))
                for layers, size in (order if number % 2 == 0 else reversed(order))
            ]
            print(json.dumps([visit.model_dump(mode="json") for visit in visits]), file=answers, flush=True)


class Worker:
    """A process that visits when it is its turn."""

    def __init__(self, preferences: str, depths: tuple[int, ...]) -> None:
        command = [sys.executable, __file__, "--child", "--preferences", preferences, "--depths", *map(str, depths)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.parameters: dict[str, int] = self._answer()

    def visit(self, number: int) -> list[dict[str, Any]]:
        """Let it do its part of a round."""
        assert self.process.stdin is not None
        print(number, file=self.process.stdin, flush=True)
        found: list[dict[str, Any]] = self._answer()
        return found

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        if not (line := self.process.stdout.readline()):
            sys.exit("a process of the measurement ended; run it with --child to see why")
        return json.loads(line)


def rehearsal(kept: dict[str, Any], depths: tuple[int, ...]) -> Rehearsal:
    """The rehearsal that was measured."""
    machine = {"name": "", "processes_here": 1, "host": 1, "device": None, "disk": 1, "flops": 1.0}
    return Rehearsal.model_validate(
        {
            **{"schema": 1, "recipe": "smollm2-135m", "method": "spac", "settings_sha256": "", "pairs": 64, "processes": 1},
            **{"rehearsed_processes": 1, "asks_for_gpus": False, "environment": {}, "rows": "", "shape": "", "tokens": None},
            **{"layers": WHOLE, "depths": depths, "parameters": kept["parameters"], "untouched": 0, "passes": 3},
            **{"machine": machine, "work": {}, "visits": kept["few"], "notes": (), "proved": ()},
        }
    )


def measure(options: argparse.Namespace, kept: dict[str, Any]) -> None:
    """Add rounds."""
    begun = last = time.monotonic()
    few, all_layers = Worker(options.preferences, options.depths), Worker(options.preferences, (WHOLE,))
    kept["parameters"] = few.parameters
    for number in range(len(kept["whole"]), options.rounds):
        if 2 * time.monotonic() - last - begun > 60 * options.minutes:
            break
        last = time.monotonic()
        kept["few"] += few.visit(number)
        kept["whole"] += all_layers.visit(number)
        options.keep.write_text(json.dumps(kept))
        print(f"a round took {time.monotonic() - last:.0f} s", flush=True)


def show(kept: dict[str, Any], depths: tuple[int, ...]) -> None:
    """Print what two depths foretell, beside what was measured."""
    few = " and ".join(map(str, depths))
    print(f"{len(kept['whole'])} rounds")
    print(f"| stage | measured at {WHOLE} layers | from {few} layers | interval | off by | peak measured | foretold | off by |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    found = {stage.name: stage for stage in extrapolation.stages(rehearsal(kept, depths))}
    whole = [Visit.model_validate(visit) for visit in kept["whole"]]
    for name in STAGES:
        seconds, peak = (median(getattr(each.stages[name], what) for each in whole) for what in ("seconds", "host"))
        told = found[name]
        print(
            f"| {name} | {seconds:.2f} s | {told.seconds.middle:.2f} s | {told.seconds.low:.2f} to {told.seconds.high:.2f} s "
            f"(± {told.seconds.half_width:.0%}) | {told.seconds.middle / seconds - 1:+.0%} | {peak / 1e9:.2f} GB "
            f"| {told.host.middle / 1e9:.2f} GB | {told.host.middle / peak - 1:+.1%} |"
        )


def main() -> None:
    """Measure rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preferences", required=True)
    parser.add_argument("--keep", type=Path, required="--child" not in sys.argv, help="the file of the rounds")
    parser.add_argument("--minutes", type=float, default=15, help="begin no round that would end later; 0: print only")
    parser.add_argument("--rounds", type=int, default=5, help="in all")
    parser.add_argument("--depths", type=int, nargs="+", default=(2, 4), help="two; one file for each two")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.depths = tuple(options.depths)
    if options.child:
        take_turns(options.preferences, options.depths, (1.0,) if options.depths == (WHOLE,) else SIZES)
        return
    kept = json.loads(options.keep.read_text()) if options.keep.exists() else {"few": [], "whole": []}
    if options.minutes:
        measure(options, kept)
    show(kept, options.depths)


if __name__ == "__main__":
    main()
