"""Tune, train and score SmolLM2-135M on real preferences; repeat the command to go on after an interruption.

    python experiments/smollm2_campaign.py --data FOLDER [--out runs/smollm2] [--only STAGE] [--set KEY=VALUE]

FOLDER holds preferences/gsm8k_solutions.jsonl.gz and leaderboard/. The stages, each of which skips what is finished:

* tuning: `smollm2_tuning`, three learning rates of SPAC and of DPO with seed 100, which is in no reported result. Each method's is
  the one with the largest held-out margin at the last iterate; IPO takes DPO's.
* seeds: `smollm2_seeds` and `smollm2_ipo`, with those rates, in one folder.
* teeth: SPAC with a learning rate of 0, and with the preferences the wrong way round. (The third tooth, DPO passed off as SPAC,
  needs no further run.)
* leaderboard: the start once, and the last iterates of SPAC and DPO with seed 1, on the first 50 questions of each task.

The folder must be of one environment: do not change the checkout between the stages. Records, expected results and tables are then
made of it:

    python experiments/records.py runs/smollm2/seeds smollm2-seeds
    python experiments/records.py runs/smollm2/tuning smollm2-tuning
    python experiments/records.py runs/smollm2/teeth smollm2-teeth
    python experiments/records.py runs/smollm2/seeds smollm2-audits --audit
    python experiments/paired_records.py smollm2-dpo-spac dpo=runs/smollm2/seeds/dpo spac=runs/smollm2/seeds/spac
    python experiments/expected.py smollm2-seeds --write expected_results/smollm2-135m.yaml
    python experiments/result_tables.py docs/results-smollm2.md
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from spac_repro.runs.folder import RunFolder, find_complete_runs

RATES = ("spac", "dpo")
QUESTIONS = 50  # of each task
SCORED_SEEDS = (1,)
STAGES = ("tuning", "seeds", "teeth", "leaderboard")
TEETH = ("no_learning", "preferences_flipped")
TUNING_SEED = 100  # of the teeth too, which start where its runs do
PAIRS = 40
ROOT = Path(__file__).resolve().parents[1]


def run(*words: str | Path, data: Path) -> int:
    """Run a command of this checkout in the folder of the data, and return its exit status."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *map(str, words)], cwd=data, env=environment).returncode


def submit(sweep: str, folder: Path, data: Path, *settings: str) -> None:
    """Train the runs of a sweep that are not finished."""
    sets = [word for setting in settings for word in ("--set", setting)]
    command = ("-m", "spac_repro", "sweep")
    if run(*command, "submit", sweep, "--cluster", "local", "--out", folder, *sets, data=data) and run(
        *command, "retry", folder, data=data
    ):
        raise SystemExit(f"{sweep}: a run failed; see `spac-repro sweep status {folder}`, and repeat this command")


def finished(folder: Path, methods: str) -> list[RunFolder]:
    """The finished runs of a sweep; `methods` matches the folders of its methods."""
    return [run for method in sorted(folder.glob(methods)) if method.is_dir() for run in find_complete_runs(method)]


def margin(run_folder: RunFolder) -> float:
    """The margin on held-out preferences at the last iterate."""
    scores = run_folder.results.iterations[-1].scores
    return next(score.value for score in scores if (score.task, score.metric) == ("heldout", "margin"))


def chosen_rates(tuning: Path) -> dict[str, float]:
    """The learning rate of each tuned method with the largest held-out margin."""
    best: dict[str, tuple[float, float]] = {}
    for folder in finished(tuning, "*/*"):
        manifest = folder.manifest
        rate = float(manifest.settings["methods"][manifest.method]["learning_rate"])
        best[manifest.method] = max(best.get(manifest.method, (float("-inf"), 0.0)), (margin(folder), rate))
    if missing := {*RATES} - {*best}:
        raise SystemExit(f"{tuning}: no finished run of {', '.join(sorted(missing))}; run the stage `tuning` first")
    return {method: rate for method, (_, rate) in best.items()}


def rate_settings(rates: dict[str, float]) -> list[str]:
    """The learning rates as settings of every run; IPO has DPO's."""
    return [f"methods.{method}.learning_rate={rate}" for method, rate in {**rates, "ipo": rates["dpo"]}.items()]


def teeth(out: Path, data: Path, settings: list[str]) -> None:
    """Train the runs that are wrong."""
    sets = [*settings, "evaluation.suite=none", "evaluation.limit=null"]
    words = ["train", "--recipe", "smollm2-135m", "--method", "spac", "--seed", str(TUNING_SEED), "--max-pairs", str(PAIRS)]
    words += ["--preferences", "preferences/gsm8k_solutions.jsonl.gz", *(word for each in sets for word in ("--set", each))]
    start = next(run.path for run in finished(out / "tuning", "*/*") if run.manifest.method == "spac")
    words += ["--start-from", str(start)]
    for fault in TEETH:
        folder = out / "teeth" / f"fault={fault}" / "spac" / f"seed-{TUNING_SEED}"
        status = run(ROOT / "tests" / "teeth" / "faulty.py", fault, *words, "--out", folder, data=data)
        if status and not RunFolder(folder).complete:
            raise SystemExit(f"{folder}: exit status {status}; repeat this command")


def leaderboard(out: Path, data: Path) -> None:
    """Score the start once, and the last iterate of each run of the first seeds: scores, and the answers to compare."""
    runs = [each for each in finished(out / "seeds", "*") if each.manifest.seed in SCORED_SEEDS and each.manifest.method in RATES]
    targets = {"start": runs[0].iteration(0).policy}
    targets |= {f"{each.manifest.method}-{each.manifest.seed}": each.path for each in runs}
    (out / "leaderboard").mkdir(parents=True, exist_ok=True)
    for name, target in targets.items():
        file = out / "leaderboard" / f"{name}.json"
        if file.exists():
            continue
        words = ["evaluate", target.resolve(), "--suite", "openllm", "--questions", "leaderboard", "--limit", QUESTIONS]
        words += ["--batch-size", 4, "--answers", file.with_suffix(".parquet"), "--json"]
        command = [sys.executable, "-m", "spac_repro", *map(str, words)]
        done = subprocess.run(command, cwd=data, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise SystemExit(f"{target}: exit status {done.returncode}; repeat this command")
        part = file.with_suffix(".part")
        part.write_text(json.dumps(json.loads(done.stdout), indent=1) + "\n")
        part.replace(file)


def main() -> None:
    """Carry out the stages in their order, or one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Folder with preferences/ and leaderboard/.")
    parser.add_argument("--out", type=Path, default=Path("runs/smollm2"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="Change a setting in every run.")
    parser.add_argument("--only", choices=STAGES, help="Carry out this stage alone.")
    arguments = parser.parse_args()
    out, data = arguments.out.resolve(), arguments.data.resolve()
    stages = [arguments.only] if arguments.only else STAGES
    if "tuning" in stages:
        submit("smollm2_tuning", out / "tuning", data, *arguments.set)
    settings = arguments.set + rate_settings(chosen_rates(out / "tuning"))
    print("learning rates: " + ", ".join(settings), flush=True)
    if "seeds" in stages:
        submit("smollm2_seeds", out / "seeds", data, *settings)
        submit("smollm2_ipo", out / "seeds", data, *settings)
    if "teeth" in stages:
        teeth(out, data, settings)
    if "leaderboard" in stages:
        leaderboard(out, data)


if __name__ == "__main__":
    main()
