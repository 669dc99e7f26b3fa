"""How well few layers foretell 30: `python bench/rehearsal.py --preferences FILE --keep rounds.json`.

A round is a visit of 2, 4, 8, 16 (or some of them, `--depths`) and all 30 layers of SmolLM2's widths, in an order that turns with
every round. A call adds rounds to the file for so many minutes (`--minutes`), so that a busy machine is held for minutes only, and
prints what all rounds say: the median of the whole model as measured, what 2 and 4 layers extrapolate to, and 8 and 16 (a
rehearsal's own choice for these widths), and the interval of that (`rehearsal/extrapolation.py`).
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median

from spac_repro import recipes
from spac_repro.data import sources
from spac_repro.rehearsal import extrapolation, plan, shape
from spac_repro.rehearsal.document import Rehearsal, Visit
from spac_repro.rehearsal.visits import visit as measure_visit

# Few rows of up to 288 tokens, so that a round takes about a minute on two cores.
SETTINGS = (
    *("data.max_response_tokens=32", "data.max_pairs=64", "selfplay.prompts_per_seed=8", "training.global_batch_size=2"),
    *("evaluation.suite=none", "evaluation.heldout_pairs=0", "evaluation.gold_prompts=0"),
)
PAIRS_OF_DEPTHS, WHOLE = ((2, 4), (8, 16)), 30
DEPTHS = (*(depth for pair in PAIRS_OF_DEPTHS for depth in pair), WHOLE)
STAGES = ("load", "hash", "save", "self-play", "reference log-probabilities", "step", "checkpoint write", "checkpoint read")


def planned(preferences: str) -> plan.Plan:
    """The plan of all visits. Rows are those of the whole model, so one size is enough."""
    run = recipes.load("smollm2-135m", overrides=[*SETTINGS])
    found = shape.of_policy(run.recipe.policy)
    return plan.make(run, sources.read(run, preferences=preferences, questions=None), DEPTHS, found, None, ())


def measure_round(of: plan.Plan, number: int, depths: tuple[int, ...]) -> list[Visit]:
    """Measure every depth once."""
    turn = number % len(depths)
    with tempfile.TemporaryDirectory() as place:
        return [
            Visit(round=number, layers=layers, size=1.0, stages=measure_visit(of, layers, 1.0, Path(place)))
            for layers in (*depths[turn:], *depths[:turn])
        ]


def rehearsal(visits: list[Visit], depths: tuple[int, int]) -> Rehearsal:
    """The rehearsal of two depths in these visits."""
    rounds = sorted({visit.round for visit in visits})
    of_depths = [visit.model_copy(update={"round": rounds.index(visit.round)}) for visit in visits if visit.layers in depths]
    halves = [visit.model_copy(update={"size": 0.5}) for visit in of_depths]
    machine = {"name": "", "processes_here": 1, "host": 1, "device": None, "disk": 1, "flops": 1.0}
    return Rehearsal.model_validate(
        {
            **{"schema": 1, "recipe": "smollm2-135m", "method": "spac", "settings_sha256": "", "pairs": 64, "processes": 1},
            **{"rehearsed_processes": 1, "asks_for_gpus": False, "environment": {}, "rows": "", "shape": "", "tokens": None},
            **{"layers": WHOLE, "depths": depths, "parameters": dict.fromkeys((*depths, WHOLE), 1), "untouched": 0},
            **{"passes": 3, "machine": machine, "work": {}, "visits": [*halves, *of_depths], "notes": (), "proved": ()},
        }
    )


def main() -> None:
    """Measure a round and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preferences", required=True)
    parser.add_argument("--keep", type=Path, required=True, help="the file of the rounds")
    parser.add_argument("--minutes", type=float, default=3.5, help="begin no round that would end later; 0: print only")
    parser.add_argument("--rounds", type=int, default=5, help="in all")
    parser.add_argument("--depths", type=int, nargs="+", default=DEPTHS[:-1], help="besides all layers")
    options = parser.parse_args()
    kept = json.loads(options.keep.read_text()) if options.keep.exists() else []
    visits = [Visit.model_validate(visit) for visit in kept]
    begun = last = time.monotonic()
    if options.minutes:
        of = planned(options.preferences)
        measure_warm_up(of)
    done = len({visit.round for visit in visits})
    for number in range(done, options.rounds):
        if 2 * time.monotonic() - last - begun > 60 * options.minutes:
            break
        last = time.monotonic()
        visits += measure_round(of, number, (*options.depths, WHOLE))
        options.keep.write_text(json.dumps([visit.model_dump(mode="json") for visit in visits]))
        print(f"a round took {time.monotonic() - last:.0f} s")
    for depths in PAIRS_OF_DEPTHS:
        rounds = {visit.round for visit in visits if visit.layers == depths[0]}
        if rounds:
            print(f"{len(rounds)} rounds")
            show([visit for visit in visits if visit.round in rounds], depths)


def measure_warm_up(of: plan.Plan) -> None:
    """Do once what only the first visit of a process does, as a rehearsal."""
    with tempfile.TemporaryDirectory() as place:
        measure_visit(of, DEPTHS[0], 1.0, Path(place))


def show(visits: list[Visit], depths: tuple[int, int]) -> None:
    """Print what two depths foretell, beside what was measured."""
    few = " and ".join(map(str, depths))
    print(f"| stage | measured at {WHOLE} layers | from {few} layers | interval | off by | peak measured | foretold | off by |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    found = {stage.name: stage for stage in extrapolation.stages(rehearsal(visits, depths))}
    for name in STAGES:
        whole = [visit.stages[name] for visit in visits if visit.layers == WHOLE]
        seconds, peak = median(each.seconds for each in whole), median(each.host for each in whole)
        told = found[name]
        print(
            f"| {name} | {seconds:.2f} s | {told.seconds.middle:.2f} s | {told.seconds.low:.2f} to {told.seconds.high:.2f} s "
            f"(± {told.seconds.half_width:.0%}) | {told.seconds.middle / seconds - 1:+.0%} | {peak / 1e9:.2f} GB "
            f"| {told.host.middle / 1e9:.2f} GB | {told.host.middle / peak - 1:+.1%} |"
        )
    print()


if __name__ == "__main__":
    main()
