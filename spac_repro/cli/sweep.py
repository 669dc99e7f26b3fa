"""`spac-repro sweep …`: many runs at once."""

import json
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spac_repro.cli import choices, output
from spac_repro.cli.options import AsJson
from spac_repro.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from spac_repro.launchers.ledger import Ledger
    from spac_repro.launchers.sweep import Standing, Submission

app = typer.Typer(
    help="Many runs at once: a matrix of seeds, methods and settings, on a Slurm cluster or on this machine.\n\n"
    "Start with `spac-repro sweep submit seeds --cluster local --dry-run`. docs/sweeps.md has the rest.",
    no_args_is_help=True,
)

Submitted = Annotated[
    str,
    typer.Argument(
        metavar="SWEEP", autocompletion=choices.submitted_sweeps, help="A submitted sweep: its name (in runs/) or its folder."
    ),
]


@app.command()
def submit(
    name: Annotated[
        str,
        typer.Argument(
            metavar="SWEEP", autocompletion=choices.sweep_names, help="A sweep's name (launchers/sweeps/) or a YAML file."
        ),
    ],
    cluster: Annotated[
        str,
        typer.Option(autocompletion=choices.cluster_names, help="A cluster profile's name (launchers/clusters/) or a YAML file."),
    ] = "local",
    out: Annotated[
        Path | None, typer.Option(help="The sweep's folder, on a disk that the nodes share.", show_default="runs/SWEEP")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting in every cell; repeatable.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print cells, resources and the sbatch file, and do nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Submit the cells of a sweep that were not submitted before. On a cluster this returns at once; --cluster local waits.

    Exit codes: 0 submitted (local: all cells done); 1 local: a cell failed; 2 bad input, or Slurm refused; 3 no Slurm here.
    """
    from spac_repro.launchers import ledger, matrix, sweep
    from spac_repro.launchers.profile import Cluster

    what, where = matrix.Sweep.load(name), Cluster.load(cluster)
    cells = matrix.cells(what, overrides or ())
    folder = (out or Path("runs") / what.name).resolve()
    book = ledger.read(folder) if (folder / "sweep.json").exists() else ledger.Ledger(folder, what.name, where)
    book.cluster = where
    book.add(cells)
    if dry_run:
        _print_plan(book, sweep.plan(book), as_json)
        return
    done = sweep.submit(book, ended=lambda line: None if as_json else print(line))
    _conclude(book, done, as_json)


@app.command()
def retry(
    name: Submitted,
    cluster: Annotated[
        str | None,
        typer.Option(autocompletion=choices.cluster_names, help="Another cluster profile from now on.", show_default="the sweep's"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Submit the cells that failed or were cancelled once more; each goes on where it stopped."""
    from spac_repro.launchers import ledger, sweep
    from spac_repro.launchers.profile import Cluster

    book = ledger.read(ledger.find(name))
    if cluster is not None:
        book.cluster = Cluster.load(cluster)
    done = sweep.submit(book, again=sweep.ENDED, ended=lambda line: None if as_json else print(line))
    _conclude(book, done, as_json)


@app.command()
def status(
    name: Submitted,
    watch: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Show it anew so often, until all cells have ended.", min=1)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """How far every cell is: pending, running (iteration and step), requeued, failed (why), cancelled, done (scores)."""
    from spac_repro.launchers import ledger, sweep

    book = ledger.read(ledger.find(name))
    found = sweep.standings(book)
    if as_json:
        print(json.dumps({"sweep": book.name, "folder": str(book.folder), "cells": [standing.as_json() for standing in found]}))
        return
    if watch is None:
        output.show(_table(book, found))
        return
    from rich.live import Live

    with Live(_table(book, found), auto_refresh=False, vertical_overflow="visible") as live:
        while any(standing.stage in ("pending", "running", "requeued") for standing in found):
            time.sleep(watch)
            found = sweep.standings(book)
            live.update(_table(book, found), refresh=True)


@app.command()
def cancel(name: Submitted, as_json: AsJson = False) -> None:
    """Cancel the cells that wait or run. What they have is kept; `sweep retry` goes on with it."""
    from spac_repro.launchers import ledger, sweep

    book = ledger.read(ledger.find(name))
    if book.cluster.scheduler == "local":
        raise UserError(f"{book.name} runs on this machine: interrupt the `sweep submit` that waits for it")
    cells = sweep.cancel(book)
    print(json.dumps({"sweep": book.name, "cancelled": cells}) if as_json else f"{book.name}: {len(cells)} cells cancelled")


@app.command()
def collect(
    name: Submitted,
    out: Annotated[Path | None, typer.Option(help="Folder for the tables.", show_default="SWEEP/collected")] = None,
    as_json: AsJson = False,
) -> None:
    """One table of the sweep's scores: mean, sd and 95 % interval over seeds, per task and iteration; missing cells are named.

    Written as Parquet, CSV, Markdown and LaTeX.
    """
    from spac_repro.launchers import collection, ledger

    book = ledger.read(ledger.find(name))
    folder = out or book.folder / "collected"
    table = collection.collect(book)
    files = collection.write(table, folder)
    if as_json:
        print(
            json.dumps({"sweep": book.name, "rows": table.rows, "missing": table.missing, "files": [str(file) for file in files]})
        )
        return
    output.show(collection.render(table))
    for missing in table.missing:
        print(f"missing: {missing}")
    print("written: " + ", ".join(str(file) for file in files))


def _conclude(book: "Ledger", done: "Submission", as_json: bool) -> None:
    """Print what was submitted, and exit with 1 where a cell of a sweep on this machine failed."""
    from spac_repro.launchers import sweep

    counts: Counter[str] = Counter(standing.stage for standing in sweep.standings(book))
    ended = any(stage in counts for stage in sweep.ENDED)
    if as_json:
        submitted = [str(task) for task in done.tasks]
        print(json.dumps({"sweep": book.name, "folder": str(book.folder), "submitted": submitted, "cells": counts}))
    else:
        _print_submission(book, done, counts)
        if not done.tasks and ended:
            print(f"nothing new; `spac-repro sweep retry {book.folder}` repeats what failed or was cancelled")
        if book.cluster.scheduler == "slurm":
            _print_watching(book)
    if book.cluster.scheduler == "local" and ended:
        raise typer.Exit(1)


def _print_submission(book: "Ledger", done: "Submission", counts: Counter[str]) -> None:
    starts = sum(task.kind == "start" for task in done.tasks)
    shared = f" and {starts} shared starts" if starts else ""
    stages = ", ".join(f"{n} {stage}" for stage, n in counts.items())
    print(f"{book.name}: {len(done.tasks) - starts} cells{shared} submitted; {stages}")


def _print_watching(book: "Ledger") -> None:
    from spac_repro.launchers import slurm

    if not slurm.accounting():
        print("this cluster keeps no accounts: of a job that dies without a word, `sweep status` cannot say why")
    print(f"watch it with: spac-repro sweep status {book.folder} --watch 10")


def _print_plan(book: "Ledger", plan: "Submission", as_json: bool) -> None:
    tasks = [{"task": task.kind, "cell": task.cell.name, "settings": list(task.cell.settings)} for task in plan.tasks]
    profile = book.cluster.model_dump(mode="json")
    if as_json:
        print(
            json.dumps({"sweep": book.name, "folder": str(book.folder), "tasks": tasks, "cluster": profile, "sbatch": plan.script})
        )
        return
    table = output.table(f"{book.name} → {book.folder}", "job", "cell", "settings")
    for task in tasks:
        table.add_row(str(task["task"]), str(task["cell"]), " ".join(task["settings"]))
    output.show(table)
    print("\n".join(f"{key}: {value}" for key, value in profile.items() if value not in (None, [], {})))
    for title, text in (("shared starts", plan.start_script), ("cells", plan.script)):
        if text:
            print(f"\n--- sbatch file of the {title} ---\n{text}")


_STYLES = {"done": "green", "failed": "red", "cancelled": "yellow", "requeued": "yellow", "running": "cyan"}


def _table(book: "Ledger", found: "list[Standing]") -> "Table":
    from rich.text import Text

    done = sum(standing.stage == "done" for standing in found)
    table = output.table(f"{book.name}: {done} of {len(found)} done", "cell", "stage", "job", "attempts", "where")
    for standing in found:
        stage = Text(standing.stage, style=_STYLES.get(standing.stage, ""))
        table.add_row(standing.cell, stage, standing.job or "", str(standing.attempts or ""), standing.detail)
    return table
