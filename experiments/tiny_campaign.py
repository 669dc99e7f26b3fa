"""Tune and measure every method on `tiny`, once and by the same rules; repeat the command to go on after an interruption.

    python experiments/tiny_campaign.py --dry-run
    python experiments/tiny_campaign.py [--out runs/tiny-campaign] [--only STAGE] [--processes 2] [--set KEY=VALUE]

`tiny_rules.py` has the rules. The stages, each of which skips what is finished:

* tuning: at most seven points a method, on a seed that is in no reported result.
* seeds: every method at its best point with five seeds; SPAC, DPO and whoever is close to SPAC with ten.
* compute: the best rivals with as many responses computed as SPAC has; theirs and SPAC's optimizer steps are equal in `seeds`.
* rereferenced: DPO and IPO against the previous iterate, at a β of their own.
* ratio: SPAC with the two terms of its loss weighted from 1:10 to 100:1, by either weight.
* critic: SPAC with each critic and each baseline.
* returned: what the runs of SPAC, SPIN and SPPO in `seeds` could return: the mixture of their iterates, and their average.
* fresh: SPAC with ten seeds that are in no expected result, for false alarms.
* records: experiments/records/tiny-*.csv, from which tables, figures and expected results are made.

All of these must be of one environment: do not change the checkout between them. Then write the chosen settings into the recipe,
run experiments/expected.py and experiments/result_tables.py, and commit. Last comes a stage that reads the new expected results:

* verification (`--only verification`): the wrong runs of tests/teeth, and their records, experiments/records/tiny-teeth.csv.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import records
import tiny_rules as rules
from tiny_rules import Point

from spac_repro import methods, recipes
from spac_repro.runs import files
from spac_repro.runs.folder import RunFolder
from spac_repro.trust.expected import expected_path, load_expected

STAGES = ("tuning", "seeds", "compute", "rereferenced", "ratio", "critic", "returned", "fresh", "records")
LAST_STAGE = "verification"
REREFERENCED = ("dpo", "ipo")
NAMED = ("reference_policy", "critic_loss", "critic_baseline")  # settings whose values are words
ITERATED = ("spac", "spin", "sppo")  # by definition each iterate builds on the one before, so what to return is a question
START_MINUTES, RUN_MINUTES, RETURNED_MINUTES = 1.3, 1.5, 0.3  # of one core; 50 runs of version 0.2 with their starts took 80
EXPECTED_CLOSE = 5  # methods with ten seeds, for the estimate before anything is known
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Job:
    """One run: its folder below the campaign's, and what it trains."""

    folder: str  # "seeds/spac/seed-1"
    method: str
    seed: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    start: str = ""  # the folder of the run whose start policy it takes


class Campaign:
    """The runs below a folder, and what is known from those that are finished."""

    def __init__(self, out: Path, processes: int, settings: Sequence[str] = ()) -> None:
        self.out, self.processes, self.settings = out, processes, settings  # the settings are changed in every run

    # Running

    def train(self, jobs: Iterable[Job]) -> None:
        """Train what is not finished, starts first, some at a time."""
        open_jobs = [job for job in jobs if not self.finished(job)]
        starts = {job.start: job for job in open_jobs}
        with ThreadPoolExecutor(self.processes) as pool:
            list(pool.map(self._train_start, starts.values()))
            list(pool.map(self._train, open_jobs))

    def finished(self, job: Job) -> bool:
        """Whether a run is complete, or is known not to be finite."""
        return RunFolder(self.out / job.folder).complete or self._not_finite(job).exists()

    def _not_finite(self, job: Job) -> Path:
        return self.out / f"{job.folder}.not-finite"

    def _train_start(self, job: Job) -> None:
        folder = self.out / job.start
        if not RunFolder(folder).iteration(0).finished:
            shared = {key: value for key, value in job.settings.items() if not key.startswith(("methods.", "training."))}
            self._run(Job(job.start, "spac", job.seed, shared), "--until", "0")

    def _train(self, job: Job) -> None:
        error = self._run(job, "--start-from", str(self.out / job.start))
        if error:
            files.write_bytes(self._not_finite(job), error.encode())
        print(f"{job.folder}: {'not finite' if error else 'done'}", flush=True)

    def _run(self, job: Job, *more: str) -> str:
        """Run `train`; return its error where the training was not finite, and end the campaign with any other."""
        own = [f"{key}={json.dumps(value)}" for key, value in job.settings.items()]
        sets = [word for setting in (*self.settings, *own) for word in ("--set", setting)]
        words = ["train", "--recipe", "tiny", "--method", job.method, "--seed", str(job.seed), "--out", str(self.out / job.folder)]
        command = [sys.executable, "-m", "spac_repro", *words, *sets, *more]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True)
        if done.returncode in (0, 1):  # 1: trained, and the numbers are not those of the expected results, which are older
            return ""
        if done.returncode == 2 and "not finite" in done.stderr:
            return done.stderr
        raise SystemExit(f"{job.folder}: exit status {done.returncode}\n{done.stderr[-2000:]}\nRepeat the command to go on.")

    # What finished runs say

    def reward(self, job: Job) -> float:
        """The gold reward of the last iterate of a finished run; −∞ where the training was not finite."""
        if self._not_finite(job).exists():
            return float("-inf")
        scores = RunFolder.open(self.out / job.folder).results.iterations[-1].scores
        return next(score.value for score in scores if (score.task, score.metric) == ("gold", "reward"))

    def tuned(self, method: str, group: str = "", rates: Sequence[float] | None = None) -> dict[Point, float]:
        """The scores of a method's tuning points that are finished, as far as the rules ask for them."""
        scores: dict[Point, float] = {}
        while absent := rules.missing(scores, recipe_beta(method), rates):
            done = [point for point in absent if self.finished(tuning_job(method, point, group))]
            if len(done) < len(absent):
                break
            scores |= {point: self.reward(tuning_job(method, point, group)) for point in done}
        return scores

    def tune(self, which: Mapping[str, Sequence[float] | None], group: str = "") -> dict[str, Point]:
        """Train what the rules ask for until they ask for nothing; return the best point of each method."""
        while True:
            scores = {method: self.tuned(method, group, rates) for method, rates in which.items()}
            open_points = {m: rules.missing(scores[m], recipe_beta(m), rates) for m, rates in which.items()}
            if not any(open_points.values()):
                return {method: rules.best(found) for method, found in scores.items()}
            self.train(tuning_job(method, point, group) for method, points in open_points.items() for point in points)

    def chosen(self) -> dict[str, Point]:
        """The best point of each method.

        Raises:
            SystemExit: a method is not tuned yet.
        """
        found = {}
        for method in methods.names():
            scores = self.tuned(method)
            if rules.missing(scores, recipe_beta(method)):
                raise SystemExit(f"{method} is not tuned yet; run the stage `tuning` first")
            found[method] = rules.best(scores)
        return found

    def rewards(self, chosen: Mapping[str, Point]) -> dict[str, float]:
        """The mean gold reward of each method's last iterates over the first seeds."""
        jobs = {m: seed_jobs(m, chosen[m].settings(m), rules.FIRST_SEEDS) for m in chosen}
        if any(not self.finished(job) for of_method in jobs.values() for job in of_method):
            raise SystemExit("a run of the first seeds is not finished; run the stage `seeds` first")
        return {method: statistics.fmean(map(self.reward, of_method)) for method, of_method in jobs.items()}


def environment() -> dict[str, str]:
    """The environment of a run: this checkout, one thread."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


# Which runs


@cache
def recipe_beta(method: str) -> float | None:
    """β of a method in the recipe; None for a method without it."""
    return getattr(recipes.load("tiny", method=method).method_settings, "beta", None)


def tuning_job(method: str, point: Point, group: str = "") -> Job:
    """The run of a tuning point. It asks no leaderboard."""
    settings = {**point.settings(method), "evaluation.suite": "none", **_of_group(group, method)}
    folder = f"tuning/{group}{point}/{method}/seed-{rules.TUNING_SEED}"
    return Job(folder, method, rules.TUNING_SEED, settings, f"tuning-starts/seed-{rules.TUNING_SEED}")


def seed_jobs(method: str, settings: Mapping[str, Any], seeds: Sequence[int], group: str = "") -> list[Job]:
    """The runs of a method with some seeds."""
    changed = {**settings, **_of_group(group, method)}
    return [Job(f"seeds/{group}{method}/seed-{seed}", method, seed, changed, f"starts/seed-{seed}") for seed in seeds]


def _of_group(group: str, method: str) -> dict[str, Any]:
    """The settings that the name of a group of runs stands for, such as "epochs_per_iteration=3/"."""
    found: dict[str, Any] = {}
    for part in filter(None, group.split("/")):
        key, _, value = part.partition("=")
        section = "training" if key == "epochs_per_iteration" else f"methods.{method}"
        found[f"{section}.{key}"] = value if key in NAMED else json.loads(value)
    return found


def compute_jobs(rivals: Sequence[str], chosen: Mapping[str, Point]) -> list[Job]:
    """The best rivals with half as many epochs again, where they compute two responses for SPAC's three; thrice for one."""
    jobs: list[Job] = []
    epochs = recipes.load("tiny", method="spac").recipe.training.epochs_per_iteration
    most = len(methods.get("spac").responses)
    for method in rivals:
        wanted = epochs * most // len(methods.get(method).responses)
        if wanted > epochs:
            group = f"epochs_per_iteration={wanted}/"
            jobs += seed_jobs(method, chosen[method].settings(method), rules.FIRST_SEEDS, group)
    return jobs


def ratio_jobs(point: Point) -> list[Job]:
    """SPAC with each ratio of the two weights, by either weight: gradients are clipped, so the two are different runs."""
    preference = recipes.load("tiny", method="spac").method_settings.preference_weight
    groups = [f"preference_weight={ratio:g}/" for ratio in rules.RATIOS]
    groups += [f"critic_weight={preference / ratio:.3g}/" for ratio in rules.RATIOS]
    return [job for group in groups for job in seed_jobs("spac", point.settings("spac"), rules.RATIO_SEEDS, group)]


def critic_jobs(point: Point) -> list[Job]:
    """SPAC with each critic and each baseline but the recipe's own."""
    own = recipes.load("tiny", method="spac").method_settings
    pairs = [(c, b) for c in rules.CRITICS for b in rules.BASELINES if (c, b) != (own.critic_loss, own.critic_baseline)]
    groups = [f"critic_loss={critic}/critic_baseline={baseline}/" for critic, baseline in pairs]
    return [job for group in groups for job in seed_jobs("spac", point.settings("spac"), rules.FIRST_SEEDS, group)]


# The stages


def run_stage(campaign: Campaign, stage: str) -> None:
    """Carry out one stage."""
    if stage == "tuning":
        campaign.tune(dict.fromkeys(methods.names()))
    elif stage == "returned":
        with ThreadPoolExecutor(campaign.processes) as pool:
            runs = [folder for folder in records.plain_runs(campaign.out) if folder.parent.name in ITERATED]
            list(pool.map(lambda folder: records.returned(folder, campaign.out / "returned"), runs))
    elif stage == "records":
        records.write_campaign(campaign.out, "tiny")
    elif stage == LAST_STAGE:
        verification(campaign)
    else:
        campaign.train(jobs_of(campaign, stage))


def verification(campaign: Campaign) -> None:
    """Hold wrong runs against the new expected results, and record them.

    Raises:
        SystemExit: recipe or expected results have not the settings of the campaign's runs, or a test failed.
    """
    digest = RunFolder.open(campaign.out / "fresh" / "spac" / f"seed-{rules.FRESH_SEEDS[0]}").manifest.settings_sha256
    known = {
        "the recipe": recipes.load("tiny", method="spac").settings_sha256,
        "expected_results/tiny.yaml": load_expected(expected_path("tiny")).settings_sha256.get("spac"),
    }
    if others := [name for name, found in known.items() if found != digest]:
        raise SystemExit(f"{' and '.join(others)}: not of the settings that SPAC's runs have; write and commit them first")
    folder = campaign.out / "teeth"
    teeth = [sys.executable, "-m", "pytest", "-q", "-m", "teeth", str(ROOT / "tests" / "teeth")]
    done = subprocess.run(teeth, env={**environment(), "SPAC_REPRO_TEETH": str(folder)}, cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"exit status {done.returncode}; repeat the command to go on")
    print(records.write(records.of_runs("tiny-teeth", folder, "python experiments/tiny_campaign.py --only verification")))


def jobs_of(campaign: Campaign, stage: str) -> list[Job]:
    """The runs of a stage after tuning. Those of `seeds` and `rereferenced` need results on the way, so some are trained here."""
    chosen = campaign.chosen()
    if stage == "seeds":
        campaign.train(job for m, point in chosen.items() for job in seed_jobs(m, point.settings(m), rules.FIRST_SEEDS))
        close = rules.close(campaign.rewards(chosen))
        return [job for m in close for job in seed_jobs(m, chosen[m].settings(m), rules.MORE_SEEDS)]
    if stage == "compute":
        return compute_jobs(rules.best_rivals(campaign.rewards(chosen)), chosen)
    if stage == "rereferenced":
        group = "reference_policy=previous/"
        own = campaign.tune({method: (chosen[method].learning_rate,) for method in REREFERENCED}, group)
        return [job for m, point in own.items() for job in seed_jobs(m, point.settings(m), rules.FIRST_SEEDS, group)]
    if stage == "fresh":
        jobs = seed_jobs("spac", chosen["spac"].settings("spac"), rules.FRESH_SEEDS)
        return [Job(job.folder.replace("seeds/", "fresh/", 1), job.method, job.seed, job.settings, job.start) for job in jobs]
    if stage == "critic":
        return critic_jobs(chosen["spac"])
    return ratio_jobs(chosen["spac"])


def budget() -> list[tuple[str, int, float]]:
    """Runs and minutes of one core for each stage, at most: as if every grid were extended."""
    names = methods.names()
    recipe_points = {method: Point(1e-3, recipe_beta(method)) for method in names}
    ten = len(rules.FIRST_SEEDS) + len(rules.MORE_SEEDS)
    runs = {
        "tuning": rules.MOST_POINTS * len(names),
        "seeds": len(names) * len(rules.FIRST_SEEDS) + EXPECTED_CLOSE * len(rules.MORE_SEEDS),
        "compute": len(compute_jobs(["dpo", "ipo", "rpo"], recipe_points)),
        "rereferenced": len(REREFERENCED) * (4 + len(rules.FIRST_SEEDS)),
        "ratio": len(ratio_jobs(recipe_points["spac"])),
        "critic": len(critic_jobs(recipe_points["spac"])),
        "fresh": len(rules.FRESH_SEEDS),
    }
    starts = {"tuning": 1, "seeds": ten, "fresh": len(rules.FRESH_SEEDS)}
    found = []
    for stage in STAGES:
        minutes = runs.get(stage, 0) * RUN_MINUTES + starts.get(stage, 0) * START_MINUTES
        if stage == "returned":
            minutes = len(ITERATED) * ten * RETURNED_MINUTES
        found.append((stage, runs.get(stage, 0), minutes))
    return found


def show_budget(processes: int) -> None:
    """Print what the campaign takes."""
    rows = budget()
    print("| stage | runs, at most | minutes |\n| --- | --- | --- |")
    for stage, runs, minutes in rows:
        print(f"| {stage} | {runs or ''} | {minutes / processes:.0f} |")
    total = sum(minutes for _, _, minutes in rows) / processes
    print(f"\n{total / 60:.1f} hours with {processes} runs at a time; the teeth at the end take a quarter of an hour more")


def main() -> None:
    """Carry out the stages in their order, or one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/tiny-campaign"))
    parser.add_argument("--only", choices=(*STAGES, LAST_STAGE), help="Carry out this stage alone.")
    parser.add_argument("--processes", type=int, default=2, help="Number of simultaneous runs, one thread each.")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="Change a setting in every run.")
    parser.add_argument("--dry-run", action="store_true", help="Print runs and minutes of each stage, and train nothing.")
    arguments = parser.parse_args()
    if arguments.dry_run:
        show_budget(arguments.processes)
        return
    campaign = Campaign(arguments.out.resolve(), arguments.processes, arguments.set)
    for stage in [arguments.only] if arguments.only else STAGES:
        print(f"{stage} …", flush=True)
        run_stage(campaign, stage)
        if stage == "tuning":
            for method, point in campaign.chosen().items():
                edge = ", ".join(rules.on_edge(campaign.tuned(method)))
                print(f"{method}: {point}" + (f" (the edge of its grid: {edge})" if edge else ""), flush=True)


if __name__ == "__main__":
    main()
