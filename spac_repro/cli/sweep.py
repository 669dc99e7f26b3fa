"""`spac-repro sweep …`: train many runs, on this machine or on a Slurm cluster."""

import json
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spac_repro.cli import choices, output, policy_source
from spac_repro.cli.options import AsJson, Policy
from spac_repro.cli.output_path import outside_runs
from spac_repro.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from spac_repro.launchers.sweep import RunStatus, Submission
    from spac_repro.launchers.sweep_folder import SweepFolder

app = typer.Typer(
    help="Train many runs: all combinations of methods, seeds and settings, on this machine or on a Slurm cluster.\n\n"
    "Start with `spac-repro sweep submit seeds --cluster local --dry-run`. docs/sweeps.md has the details.",
    no_args_is_help=True,
)

SubmittedSweep = Annotated[
    str,
    typer.Argument(
        metavar="SWEEP", autocompletion=choices.submitted_sweeps, help="Submitted sweep: its name in runs/, or its folder."
    ),
]


@app.command()
def submit(
    name: Annotated[
        str,
        typer.Argument(
            metavar="SWEEP", autocompletion=choices.sweep_names, help="Sweep: a name in launchers/sweeps/, or a YAML file."
        ),
    ],
    cluster: Annotated[
        str,
        typer.Option(autocompletion=choices.cluster_names, help="Cluster profile: a name in launchers/clusters/, or a YAML file."),
    ] = "local",
    out: Annotated[
        Path | None,
        typer.Option(
            callback=outside_runs,
            help="Folder of the sweep. For a cluster: on a disk that the nodes share.",
            show_default="runs/SWEEP",
        ),
    ] = None,
    policy: Policy = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting in every run. Repeatable.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the runs, the resources and the sbatch file, and submit nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Submit the runs of a sweep. Runs that were submitted before are skipped.

    On Slurm this returns when the jobs are queued. With --cluster local it trains the runs and waits for them.

    Exit codes: 0 submitted (local: all runs done); 1 local: a run failed; 2 bad input, or Slurm rejected the jobs; 3 Slurm not
    available.
    """
    from spac_repro.launchers import matrix, sweep, sweep_folder
    from spac_repro.launchers.profile import Cluster

    definition, profile = matrix.Sweep.load(name), Cluster.load(cluster)
    if policy and policy_source.is_folder(policy):
        policy = str(Path(policy).absolute())  # the runs may start in another folder
    runs = matrix.runs(definition, policy_source.overrides(policy, overrides))
    path = (out or Path("runs") / definition.name).resolve()
    submitted = (path / "sweep.json").exists()
    folder = sweep_folder.read(path) if submitted else sweep_folder.SweepFolder(path, definition.name, profile)
    folder.cluster = profile
    folder.add(runs)
    if dry_run:
        _print_plan(folder, sweep.plan(folder), as_json)
        return
    submission = sweep.submit(folder, on_end=lambda line: None if as_json else print(line))
    _finish(folder, submission, as_json)


@app.command()
def retry(
    name: SubmittedSweep,
    cluster: Annotated[
        str | None,
        typer.Option(autocompletion=choices.cluster_names, help="Cluster profile to use from now on.", show_default="the sweep's"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Resubmit the runs that failed or were cancelled. Each resumes from its last checkpoint."""
    from spac_repro.launchers import sweep, sweep_folder
    from spac_repro.launchers.profile import Cluster

    folder = sweep_folder.read(sweep_folder.find(name))
    if cluster is None:
        sweep_folder.check_made_here(folder, remedy="read it, and name the profile with --cluster")
    else:
        folder.cluster = Cluster.load(cluster)
    submission = sweep.submit(folder, resubmit=sweep.ENDED, on_end=lambda line: None if as_json else print(line))
    _finish(folder, submission, as_json)


@app.command()
def status(
    name: SubmittedSweep,
    watch: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Refresh the table at this interval, until all runs have ended.", min=1)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the state of every run.

    The states are missing, pending, running (with iteration and step), requeued, failed (with the reason), cancelled and done (with
    scores).
    """
    from spac_repro.launchers import sweep, sweep_folder

    folder = sweep_folder.read(sweep_folder.find(name))
    runs = sweep.statuses(folder)
    if as_json:
        print(json.dumps({"sweep": folder.name, "folder": str(folder.path), "runs": [run.as_json() for run in runs]}))
        return
    if watch is None:
        output.show(_status_table(folder, runs))
        return
    from rich.live import Live

    with Live(_status_table(folder, runs), auto_refresh=False, vertical_overflow="visible") as live:
        while any(run.state in sweep.UNFINISHED for run in runs):
            time.sleep(watch)
            runs = sweep.statuses(folder)
            live.update(_status_table(folder, runs), refresh=True)


@app.command()
def cancel(name: SubmittedSweep, as_json: AsJson = False) -> None:
    """Cancel the runs that are pending or running. Their checkpoints are kept, and `sweep retry` resumes from them."""
    from spac_repro.launchers import sweep, sweep_folder

    folder = sweep_folder.read(sweep_folder.find(name))
    if folder.cluster.scheduler == "local":
        raise UserError(f"{folder.name} runs on this machine; interrupt its `sweep submit` instead (Ctrl-C)")
    sweep_folder.check_made_here(folder, remedy="cancel the jobs with scancel")
    runs = sweep.cancel(folder)
    print(json.dumps({"sweep": folder.name, "cancelled": runs}) if as_json else f"{folder.name}: {len(runs)} runs cancelled")


@app.command()
def collect(
    name: SubmittedSweep,
    out: Annotated[
        Path | None, typer.Option(callback=outside_runs, help="Folder to write the tables to.", show_default="SWEEP/collected")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Collect the scores of a sweep in one table: mean, standard deviation and 95 % interval over seeds, per task and iteration.

    Runs without results are listed. The table is written as Parquet, CSV, Markdown and LaTeX.
    """
    from spac_repro.launchers import score_table, sweep_folder

    folder = sweep_folder.read(sweep_folder.find(name))
    table = score_table.collect(folder)
    files = score_table.write(table, out or folder.path / "collected")
    if as_json:
        print(
            json.dumps({"sweep": folder.name, "rows": table.rows, "missing": table.missing, "files": [str(file) for file in files]})
        )
        return
    output.show(score_table.render(table))
    for missing in table.missing:
        print(f"missing: {missing}")
    print("written: " + ", ".join(str(file) for file in files))


def _finish(folder: "SweepFolder", submission: "Submission", as_json: bool) -> None:
    """Print what was submitted. Exit with 1 if a run on this machine failed."""
    from spac_repro.launchers import sweep

    counts: Counter[str] = Counter(run.state for run in sweep.statuses(folder))
    unsuccessful = any(state in counts for state in sweep.ENDED)
    if as_json:
        tasks = [str(task) for task in submission.tasks]
        print(json.dumps({"sweep": folder.name, "folder": str(folder.path), "submitted": tasks, "runs": counts}))
    else:
        _print_submission(folder, submission, counts)
        if not submission.tasks and unsuccessful:
            print(f"nothing new to submit; `spac-repro sweep retry {folder.path}` repeats what failed or was cancelled")
        if folder.cluster.scheduler == "slurm":
            _print_how_to_watch(folder)
    if folder.cluster.scheduler == "local" and unsuccessful:
        raise typer.Exit(1)


def _print_submission(folder: "SweepFolder", submission: "Submission", counts: Counter[str]) -> None:
    starts = sum(task.kind == "start" for task in submission.tasks)
    shared = f" and {starts} shared start policies" if starts else ""
    states = ", ".join(f"{n} {state}" for state, n in counts.items())
    print(f"{folder.name}: {len(submission.tasks) - starts} runs{shared} submitted; {states}")


def _print_how_to_watch(folder: "SweepFolder") -> None:
    from spac_repro.launchers import slurm

    if not slurm.has_accounting():
        print("Slurm's accounting is off here: `sweep status` cannot tell why a job was killed")
    print(f"watch it with: spac-repro sweep status {folder.path} --watch 10")


def _print_plan(folder: "SweepFolder", plan: "Submission", as_json: bool) -> None:
    tasks = [{"task": task.kind, "run": task.run.name, "settings": list(task.run.settings)} for task in plan.tasks]
    profile = folder.cluster.model_dump(mode="json")
    if as_json:
        document = {"sweep": folder.name, "folder": str(folder.path), "tasks": tasks, "cluster": profile, "sbatch": plan.script}
        print(json.dumps(document))
        return
    table = output.table(f"{folder.name} → {folder.path}", "task", "run", "settings")
    for task in tasks:
        table.add_row(str(task["task"]), str(task["run"]), " ".join(task["settings"]))
    output.show(table)
    print("\n".join(f"{key}: {value}" for key, value in profile.items() if value not in (None, [], {})))
    for title, text in (("shared start policies", plan.start_script), ("runs", plan.script)):
        if text:
            print(f"\n--- sbatch file of the {title} ---\n{text}")


_STYLES = {"done": "green", "failed": "red", "cancelled": "yellow", "requeued": "yellow", "running": "cyan"}


def _status_table(folder: "SweepFolder", runs: "list[RunStatus]") -> "Table":
    from rich.text import Text

    done = sum(run.state == "done" for run in runs)
    table = output.table(f"{folder.name}: {done} of {len(runs)} done", "run", "state", "job", "attempts", "detail")
    for run in runs:
        state = Text(run.state, style=_STYLES.get(run.state, ""))
        table.add_row(run.run, state, run.job or "", str(run.attempts or ""), run.detail)
    return table
