"""The scores of finished runs as records: one row a run, iterate and score. Tables, figures and expected results are made of them.

    python experiments/records.py FOLDER NAME [--returned FOLDER] [--audit]

FOLDER holds METHOD/seed-N or SETTING=VALUE/…/METHOD/seed-N. Two files are written:

* experiments/records/NAME.csv, with the columns group (the varied settings), method, seed, policy (the number of the iterate, or
  "mixture", "average", …), task, metric and value;
* experiments/records/NAME.json, which says how the runs were made, and on how many items each score is.

`--returned` names the folder of the scores of mixtures and averages, which `spac-repro returned --json` printed. `--audit` records,
instead of the scores, how well data and self-play can be told apart in each iteration (audit.json).
"""

import argparse
import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from spac_repro.errors import UserError
from spac_repro.runs import files, numerics
from spac_repro.runs.audit import Audit
from spac_repro.runs.folder import RunFolder, find_runs
from spac_repro.runs.manifest import leaf_differences
from spac_repro.runs.results import Score
from spac_repro.trust.run_scores import RunScores, read_run_scores

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "experiments" / "records"
COLUMNS = ("group", "method", "seed", "policy", "task", "metric", "value")
ITERATES = ("start", "iterate ")  # policies of `returned` that are in the run's own results


class Row(NamedTuple):
    """One score."""

    group: str  # "reference_policy=previous", "" for the recipe's settings
    method: str
    seed: int
    policy: str  # "0", "1", …, "mixture", "average with the start"
    task: str
    metric: str
    value: float


@dataclass(frozen=True)
class Records:
    """The scores of runs of one recipe, and how they were made."""

    name: str
    about: dict[str, Any]
    rows: tuple[Row, ...]

    def groups(self) -> list[str]:
        """The groups, in the order of the file."""
        return list(dict.fromkeys(row.group for row in self.rows))

    def runs(self, group: str = "") -> dict[str, list[RunScores]]:
        """The runs of a group by method, each with the scores of its iterates."""
        found: dict[str, dict[int, dict[int, list[Score]]]] = {}
        for row in self.rows:
            if row.group == group and row.policy.isdigit():
                items, version = self.about["scores"][f"{row.task} {row.metric}"]
                score = Score(row.task, row.metric, row.value, None, items, version)
                found.setdefault(row.method, {}).setdefault(row.seed, {}).setdefault(int(row.policy), []).append(score)
        digests = self.about["settings_sha256"]
        return {
            method: [
                RunScores(
                    source=f"{self.name}: {group} {method} seed {seed}",
                    recipe=self.about["recipe"],
                    method=method,
                    scores={t: tuple(scores) for t, scores in sorted(iterates.items())},
                    harness=self.about["harness"],
                    seed=seed,
                    settings_sha256=digests.get(f"{group} {method}".strip()),
                )
                for seed, iterates in sorted(seeds.items())
            ]
            for method, seeds in found.items()
        }

    def value(self, method: str, seed: int, policy: str, task: str, metric: str, group: str = "") -> float:
        """One score.

        Raises:
            UserError: there is no such score.
        """
        wanted = (group, method, seed, policy, task, metric)
        for row in self.rows:
            if row[:-1] == wanted:
                return row.value
        raise UserError(f"{self.name}: no score {' '.join(map(str, wanted))}; make the records again from finished runs")


def read(name: str) -> Records:
    """Read records by their name in experiments/records/, or a file; several names are joined by "+".

    Raises:
        UserError: a file is missing or no such table, or two are not of one recipe and commit.
    """
    found = [_read(each) for each in name.split("+")]
    first = found[0]
    for other in found[1:]:
        if any(first.about[key] != other.about[key] for key in ("recipe", "commit")):
            raise UserError(f"{name}: {other.name} is of another recipe or commit than {first.name}; make both from one campaign")
    about = {**first.about, **{key: _joined(found, key) for key in ("settings_sha256", "scores")}}
    return Records(name if len(found) > 1 else first.name, about, tuple(row for each in found for row in each.rows))


def _joined(found: Sequence[Records], key: str) -> dict[str, Any]:
    return {name: value for each in found for name, value in each.about[key].items()}


def _read(name: str) -> Records:
    file = Path(name) if name.endswith(".csv") else FOLDER / f"{name}.csv"
    about = files.read_json(file.with_suffix(".json"))
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            found = csv.DictReader(stream)
            rows = [Row(**{**each, "seed": int(each["seed"]), "value": float(each["value"])}) for each in found]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: not a table of scores ({error}); make it again with experiments/records.py") from None
    return Records(file.stem, about, tuple(rows))


def write(records: Records, folder: Path | None = None) -> Path:
    """Write the two files of some records; return the table's."""
    folder = folder or FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    lines = [COLUMNS, *((*row[:-1], repr(row.value)) for row in records.rows)]
    text = "".join(",".join(map(str, line)) + "\n" for line in lines)  # no field holds a comma or a quote: `_plain`
    files.write_json(folder / f"{records.name}.json", records.about)
    files.write_bytes(folder / f"{records.name}.csv", text.encode())
    return folder / f"{records.name}.csv"


def of_runs(name: str, folder: Path, command: str, returned_folder: Path | None = None) -> Records:
    """Read the finished runs below a folder of groups, methods and seeds.

    Raises:
        UserError: there is no run, one is damaged, or two are of different recipes or environments.
    """
    found = list(_runs(folder))
    if not found:
        raise UserError(f"{folder}: no run in it is finished; repeat the command that trains them")
    check_one_environment([run for _, run in found])
    rows: list[Row] = []
    items: dict[str, tuple[int, str]] = {}
    digests: dict[str, str] = {}
    for group, run in found:
        scores = read_run_scores(run.path)
        key = f"{group} {scores.method}".strip()
        if digests.setdefault(key, str(scores.settings_sha256)) != scores.settings_sha256:
            raise UserError(f"{run}: its settings are not those of the other seeds of {key}; remove it, or name another folder")
        seed = int(scores.seed or 0)
        for t, score in scores.items():
            items[f"{score.task} {score.metric}"] = (score.n, score.version)
            rows.append(Row(group, scores.method, seed, str(t), score.task, score.metric, score.value))
        if returned_folder is not None and not group:
            rows += _returned_rows(returned_folder / f"{scores.method}-seed-{seed}.json", scores.method, seed)
    first = found[0][1]
    return Records(name, _about(first, command, items, digests), tuple(map(_plain, rows)))


def of_audits(name: str, folder: Path, command: str) -> Records:
    """Read the audits of the finished runs in the same folder: lengths and ends of each side, and each classifier's accuracy.

    Raises:
        UserError: as `of_runs`, or no run has an audit of self-play.
    """
    found = of_runs(name, folder, command)
    rows, items = [], {}
    for group, run in _runs(folder):
        for iteration in run.iterations():
            if (audit := iteration.audit()) is None or not audit.comparisons:
                continue
            for (task, metric), value in _audited(audit).items():
                items[f"{task} {metric}"] = (audit.rows, "")
                rows.append(Row(group, run.manifest.method, run.manifest.seed, str(iteration.number), task, metric, value))
    if not rows:
        raise UserError(f"{folder}: no run in it has an audit of self-play")
    return Records(name, {**found.about, "scores": items}, tuple(rows))


def _audited(audit: Audit) -> dict[tuple[str, str], float]:
    sides = {(side, "cut"): each.cut for side, each in audit.sides.items()}
    sides |= {(side, "mean_length"): each.mean_length for side, each in audit.sides.items()}
    classifiers = {
        (f"{side}_{trait.replace(' ', '_')}", "accuracy"): classifier.accuracy
        for side, comparison in audit.comparisons.items()
        for trait, classifier in comparison.classifiers.items()
        if classifier.accuracy is not None
    }
    return {**sides, **classifiers}


def _runs(folder: Path) -> Iterator[tuple[str, RunFolder]]:
    """Each finished run with its group: the parts of its path with "=" in them."""
    found = [run for run in find_runs(folder) if run.complete]
    place = {run.path: run.path.relative_to(folder).parts[:-1] for run in found}
    for run in sorted(found, key=lambda run: (place[run.path], run.manifest.seed)):
        yield "/".join(part for part in place[run.path] if "=" in part), run


def _plain(row: Row) -> Row:
    if any(character in part for part in map(str, row) for character in ',"\n'):
        raise UserError(f"{row}: a name holds a comma or a quote; rename the folder of the run")
    return row


def _about(run: RunFolder, command: str, items: dict[str, tuple[int, str]], digests: dict[str, str]) -> dict[str, Any]:
    environment = run.manifest.environment
    threads = environment["threads"]
    return {
        "recipe": run.manifest.recipe,
        "command": command,
        "commit": environment["source"]["commit"],
        "lock_sha256": environment["lock"]["sha256"],
        **_versions(environment),
        "hardware": f"{numerics.hardware(environment)}, {'one thread' if threads == 1 else f'{threads} threads'} a run",
        "harness": run.results.harness or "",
        "date": date.today().isoformat(),
        "settings_sha256": digests,
        "scores": {name: list(value) for name, value in items.items()},
    }


def _versions(environment: Mapping[str, Any]) -> dict[str, Any]:
    """What the runs were made with, and which packages were not those of the lock."""
    found = {"python": environment["python"], "torch": environment["libraries"].get("torch", "")}
    departures = environment["lock"].get("departures")
    return {**found, **({"lock_departures": departures} if departures else {})}


def check_one_environment(runs: Sequence[RunFolder]) -> None:
    """Check that records can name one source for all of these runs.

    Raises:
        UserError: a run was made in another environment than the first, in several, or with uncommitted code.
    """
    first = runs[0].manifest.environment
    for run in runs:
        manifest = run.manifest
        if manifest.recipe != runs[0].manifest.recipe:
            raise UserError(f"{run}: it is of the recipe {manifest.recipe}, and {runs[0]} of {runs[0].manifest.recipe}")
        if manifest.segments:
            raise UserError(f"{run}: it was resumed in another environment; repeat it in one")
        if (manifest.environment["source"] or {"changed": True})["changed"]:
            raise UserError(f"{run}: it was made with code that no commit holds; commit first, and repeat it")
        for key, here, there in leaf_differences(first, manifest.environment):
            raise UserError(f"{run}: {key} is {there!r}, and {here!r} in {runs[0]}; make all runs in one environment")


# What a run could return


def plain_runs(campaign: Path) -> list[Path]:
    """The finished runs of a campaign's seeds with the methods' own settings."""
    return [run.path for group, run in _runs(campaign / "seeds") if not group]


def returned(run: Path, folder: Path) -> None:
    """Write what `spac-repro returned --json` says of a run, unless it is there."""
    file = folder / f"{run.parent.name}-{run.name}.json"
    if file.exists():
        return
    command = [sys.executable, "-m", "spac_repro", "returned", str(run), "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{run}: exit status {done.returncode}\n{done.stderr[-2000:]}\nRepeat the command to go on.")
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(file, json.loads(done.stdout)["policies"])


def _returned_rows(file: Path, method: str, seed: int) -> Iterable[Row]:
    for policy in files.read_json(file) if file.exists() else ():
        if not policy["policy"].startswith(ITERATES):
            for score in policy["scores"]:
                yield Row("", method, seed, policy["policy"], score["task"], score["metric"], score["value"])


# The records of the campaigns


def write_campaign(out: Path, name: str) -> None:
    """Write the records of a campaign: NAME-tuning, NAME-fresh, NAME-seeds of the methods, and NAME-variants of the rest."""
    returned_folder = out / "returned" if (out / "returned").is_dir() else None
    for stage in ("tuning", "seeds", "fresh"):
        if (out / stage).is_dir():
            command = f"python experiments/{name}_campaign.py"
            made = of_runs(f"{name}-{stage}", out / stage, command, returned_folder if stage == "seeds" else None)
            variants = tuple(row for row in made.rows if row.group)
            if stage == "seeds" and variants:
                print(write(Records(f"{name}-variants", made.about, variants)))
                made = Records(made.name, made.about, tuple(row for row in made.rows if not row.group))
            print(write(made))


def main() -> None:
    """Write the records of a folder of runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("name", help="Of the two files, such as tiny-seeds.")
    parser.add_argument("--returned", type=Path, help="Folder of the scores of mixtures and averages.")
    parser.add_argument("--audit", action="store_true", help="Record the audits instead of the scores.")
    parser.add_argument("--command", default="", help="What made the runs, for the record.")
    arguments = parser.parse_args()
    try:
        if arguments.audit:
            made = of_audits(arguments.name, arguments.folder, arguments.command)
        else:
            made = of_runs(arguments.name, arguments.folder, arguments.command, arguments.returned)
        print(write(made))
    except UserError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
