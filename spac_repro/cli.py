"""The command line: parses, calls one function, prints. Nothing heavy is imported before a command needs it."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from spac_repro import engines
from spac_repro.errors import UserError
from spac_repro.images import commands as images
from spac_repro.launchers.commands import sweep
from spac_repro.optim import processes, signals

if TYPE_CHECKING:
    from spac_repro.progress import Progress
    from spac_repro.recipe import Run
    from spac_repro.runs.results import Results

INTERRUPTED = 130
USAGE_ERROR: Any = typer.BadParameter.__base__  # what typer raises for a wrong command line; it has no public name for it

app = typer.Typer(
    name="spac-repro",
    help="Repeat SPAC (Self-Play with Adversarial Critic, arXiv 2406.04274): train, evaluate, verify.\n\n"
    "Start with `spac-repro train`: minutes on a laptop, nothing downloaded.\n\n"
    "Exit codes: 0 done, and verified where expected results apply; 1 ran, and the numbers disagree; 2 wrong usage or bad input; "
    "3 this environment cannot do it; 130 interrupted, and the same command goes on.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
recipes = typer.Typer(help="The recipes: what a run is, every setting with where it comes from.", no_args_is_help=True)
app.add_typer(recipes, name="recipes")
app.add_typer(sweep, name="sweep")
app.add_typer(images.app, name="image")

RecipeName = Annotated[str, typer.Option("--recipe", help="A recipe's name (see `recipes list`) or a YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, e.g. training.epochs=1; repeatable.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Questions = Annotated[
    Path | None,
    typer.Option("--data", help="Folder of leaderboard questions (arc_challenge/, gsm8k/, …), for machines without the hub."),
]


def main() -> None:
    """The entry point. An error of the user's is one line; an interruption says how to go on."""
    # A short spin: threads that spin for long slow each other down many times over where cores are shared, and threads that
    # sleep at once are slow to wake (docs/decisions/03-threads.md). Must be set before torch starts.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    signals.listen()
    try:
        code = app(standalone_mode=False)
        if code == INTERRUPTED:  # typer catches an interruption, and says nothing
            _end_interrupted()
        sys.exit(code)
    except UserError as error:
        if processes.is_main():
            print(f"spac-repro: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except USAGE_ERROR as error:
        print(_usage(error), file=sys.stderr)
        sys.exit(UserError.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        _end_interrupted()
    except Exception:
        if not signals.came():
            raise
        _end_interrupted()  # a library that is interrupted while it is imported fails in words of its own


def _end_interrupted() -> NoReturn:
    """All is closed and written by now. Python's own way out would at times be a death by SIGINT instead of this exit code."""
    if processes.is_main():
        print("spac-repro: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(INTERRUPTED)


def _usage(error: Any) -> str:
    """What is wrong with a command line, in one line; where only the command is missing, typer's message is the help itself."""
    message = str(error.format_message())
    if message.startswith("Usage:"):
        return message
    return (
        f"spac-repro: {' '.join(message.split()).rstrip('.')}; see `{error.ctx.command_path if error.ctx else 'spac-repro'} --help`"
    )


@app.command()
def train(
    context: typer.Context,
    recipe: RecipeName = "tiny",
    method: Annotated[str, typer.Option(help="spac, dpo, ipo, spin or sft.")] = "spac",
    seed: Annotated[int, typer.Option(help="Drives the start, the sampling and the order of the data.", min=0)] = 0,
    out: Annotated[Path | None, typer.Option(help="Run folder.", show_default="runs/RECIPE/METHOD/seed-N")] = None,
    overrides: Overrides = None,
    preferences: Annotated[
        str | None, typer.Option(help="Preference pairs: .json, .jsonl[.gz] or .parquet, a folder, or a hub data set.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Take the first so many preferences.", min=1)] = None,
    data: Questions = None,
    until: Annotated[
        int | None, typer.Option(help="Stop after this iteration (0: the start); the command without it goes on.", min=0)
    ] = None,
    start_from: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Share the start of another run of this recipe and seed instead of repeating it."),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Repeat a run from its manifest alone, into RUN-again, and compare the two."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and the cost, and do nothing.")] = False,
    allow_changed_environment: Annotated[
        bool,
        typer.Option("--allow-changed-environment", help="Go on with a run begun elsewhere; it then claims no equal bits."),
    ] = False,
    inside: images.Inside = None,
    memory: images.Memory = None,
    network: images.Network = False,
    other_version: images.OtherVersion = False,
    as_json: AsJson = False,
) -> None:
    """Train and evaluate one method with one seed: start, self-play iterations, scores of every iterate, verdict.

    Repeating the command goes on where it stopped. Several processes, where the recipe asks for them, are
    started here, unless torchrun or `accelerate launch` did. By default nothing is downloaded: recipe tiny has a world built in.
    """
    from spac_repro import plan as planning
    from spac_repro import recipes

    if like:
        from spac_repro.trust import replay

        if given := [name for name in ("recipe", "method", "seed", "overrides", "limit") if _was_given(context, name)]:
            raise UserError(f"--like takes settings and seed from the run; leave --{given[0].replace('overrides', 'set')} out")
        run = replay.run_of(like)
        folder = out or like.resolve().with_name(f"{like.resolve().name}-again")
    else:
        run = recipes.load(recipe, method=method, seed=seed, overrides=_with_shorthands(overrides, preferences, limit))
        folder = out or Path("runs") / run.recipe.name / method / f"seed-{seed}"
    if dry_run:
        plan = planning.plan(run, _known_size(run, preferences))
        _print_plan(run, folder, planning.rows(plan), {**asdict(plan), "gpu_hours": plan.gpu_hours}, as_json)
        return
    if inside is not None:
        context.params["data"] = data or _beside(preferences)  # found by its place, which the image does not see
        code = images.inside(["train"], context, inside, out=folder, memory=memory, network=network, other_version=other_version)
        raise typer.Exit(code)
    if memory or network or other_version:
        raise UserError("--memory, --network and --other-version are about an image; name one with --in, or leave them out")

    several = run.recipe.training.processes > 1 or engines.get(run.recipe.training.engine).needs_process_group
    if several and not processes.started():
        raise typer.Exit(processes.start(run.recipe.training.processes, sys.argv[1:]))

    from spac_repro import pipeline
    from spac_repro.data import inputs

    with _progress(as_json) as progress:
        read = inputs.read(run, preferences=preferences, questions=data or _beside(preferences))
        results = pipeline.train(
            run,
            folder,
            read,
            allow_changed_environment=allow_changed_environment,
            until=until,
            start_from=start_from,
            progress=progress,
            **({"inspect": replay.check(like, allowed=allow_changed_environment, say=progress.say)} if like else {}),
        )
    if not processes.is_main():
        return
    if results is None:
        print(
            json.dumps({"run": str(folder), "complete": False, "iteration": until})
            if as_json
            else f"{folder}: stopped after iteration {until}, as asked; the same command without --until goes on"
        )
        return
    _conclude(folder, results, as_json, like)


@app.command()
def evaluate(
    target: Annotated[
        Path, typer.Argument(metavar="MODEL_OR_RUN", help="A Hugging Face model folder, or a run (its last iterate).")
    ],
    suite: Annotated[str, typer.Option(help="mini (the built-in world) or openllm (Open LLM Leaderboard v1).")] = "openllm",
    data: Questions = None,
    tasks: Annotated[str | None, typer.Option(help="Tasks of the suite, with commas between.", show_default="all")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many questions a task.", min=1)] = None,
    batch_size: Annotated[int, typer.Option(help="Affects speed, and scores by rounding only.", min=1)] = 16,
    as_json: AsJson = False,
) -> None:
    """Score a model on a leaderboard, through lm-evaluation-harness."""
    from spac_repro.evaluation import model_folder

    with _progress(as_json) as progress:
        progress.stage(f"{suite} leaderboard")
        scores = model_folder.evaluate(
            target,
            suite,
            data=data,
            tasks=tasks.split(",") if tasks else None,
            limit=limit,
            batch_size=batch_size,
            progress=progress,
        )
    if as_json:
        print(json.dumps({"model": str(target), "suite": suite, "harness": model_folder.harness(), "scores": _dicts(scores)}))
        return
    table = _table(f"{target} on {suite} ({model_folder.harness()})", "task", "metric", "value", "stderr", "n", "version")
    for score in scores:
        stderr = "" if score.stderr is None else f"{score.stderr:.4f}"
        table.add_row(score.task, score.metric, f"{score.value:.4f}", stderr, str(score.n), score.version)
    _print(table)


@app.command()
def verify(
    folders: Annotated[list[Path] | None, typer.Argument(metavar="[RUN]...", help="Run folders of one recipe.")] = None,
    expected: Annotated[Path | None, typer.Option(help="Expected results.", show_default="the package's for the recipe")] = None,
    scores: Annotated[Path | None, typer.Option(help="A results file of lm-eval, instead of runs.")] = None,
    recipe: Annotated[str | None, typer.Option(help="With --scores: the recipe.")] = None,
    method: Annotated[str | None, typer.Option(help="With --scores: the method.")] = None,
    iteration: Annotated[int | None, typer.Option(help="With --scores: the iterate.", min=0)] = None,
    as_json: AsJson = False,
) -> None:
    """Hold fresh scores against expected results, with tolerances from the spread over seeds. Deviations either way fail."""
    from spac_repro.trust import verification

    if scores is None:
        verdict = verification.verify_runs(folders or [], expected)
    elif folders:
        raise UserError("give run folders or --scores, not both")
    elif recipe is None or method is None or iteration is None:
        raise UserError("--scores needs --recipe, --method and --iteration: a results file does not say which run it is of")
    else:
        verdict = verification.verify_scores(scores, recipe=recipe, method=method, iteration=iteration, expected=expected)
    if as_json:
        print(json.dumps(verdict.as_json()))
    else:
        _print(verification.render(verdict))
    raise typer.Exit(verdict.exit_code)


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="A run folder, complete or not.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another, or a file of expected results.")],
    seeds: Annotated[
        list[Path] | None,
        typer.Option(
            "--seeds",
            metavar="RUN",
            help="Runs whose spread over seeds is the unit of noise; repeatable.",
            show_default="beside A and B",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say why two runs differ: what differs, where they first part, and how much it matters.

    Exit code 1 where a score differs by more than two seeds of the same recipe would.
    """
    from spac_repro.trust import comparison

    found = comparison.compare_expected(a, b) if b.suffix in (".yaml", ".yml") else comparison.compare(a, b, seeds or ())
    if as_json:
        print(json.dumps(found.as_json()))
    else:
        _print(comparison.render(found))
    raise typer.Exit(found.exit_code)


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, or folders that hold some.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The page.")] = Path("report.html"),
    as_json: AsJson = False,
) -> None:
    """Write one self-contained HTML page: verdict, scores, curves, responses, where every setting comes from, how to repeat it."""
    from spac_repro.publish import report as reports

    size = reports.write(folders, out)
    print(json.dumps({"report": str(out), "bytes": size}) if as_json else f"{out}: {size / 1000:.0f} kB")


@app.command()
def theory(
    experiments: Annotated[
        list[str] | None, typer.Option("--experiment", metavar="NAME", help="One experiment; repeatable.", show_default="all")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer seeds and sizes: half a minute.")] = False,
    seeds: Annotated[int | None, typer.Option(help="Number of seeds.", show_default="20, or 5 with --quick", min=2)] = None,
    first_seed: Annotated[int, typer.Option(help="The first of them; the expected results are of seeds 1 to 20.", min=0)] = 101,
    out: Annotated[Path, typer.Option(help="Folder for numbers, figures and tables.")] = Path("runs/theory"),
    as_json: AsJson = False,
) -> None:
    """Rerun the convergence claims where they can be computed exactly: SPAC-T and its rivals on tabular instances.

    The experiments: prototype, samples, rounds, coverage, uncovered, loose, tuning, features, baseline (see docs/theory.md).
    """
    from spac_repro.theory.experiments import run
    from spac_repro.trust import verification

    with _progress(as_json) as progress:
        report = run(experiments, quick=quick, seeds=seeds, first_seed=first_seed, out=out, progress=progress)
    if as_json:
        print(json.dumps({"out": str(out), **report.as_json()}))
    else:
        _print(verification.render(report.verdict))
        print(f"numbers, tables and figures in {out}")
    raise typer.Exit(1 if report.verdict.status == "disagrees" else 0)


@app.command()
def prefetch(
    cache: Annotated[Path, typer.Option(help="Folder to fill, on a disk that the nodes share.")],
    recipe: RecipeName = "zephyr-7b",
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Fetch what a recipe needs from the hub (model, preferences, questions), for nodes without internet; every file is hashed.

    Then name the folder as `cache` in a cluster profile: jobs verify it and run with the hub switched off.
    """
    from spac_repro import prefetch as prefetching
    from spac_repro import recipes

    run = recipes.load(recipe, overrides=overrides or ())
    with _progress(as_json) as progress:
        manifest = prefetching.prefetch(run, cache, progress=progress)
    if as_json:
        print(json.dumps({"cache": str(cache), **manifest}))
    else:
        print(
            f"{cache}: {len(manifest['fetched'])} sources, {len(manifest['files'])} files; hashes in {cache / prefetching.MANIFEST}"
        )


@app.command()
def doctor(
    cluster: Annotated[str | None, typer.Option(help="A cluster profile's name or file: look at that cluster too.")] = None,
    sweep: Annotated[str | None, typer.Option(help="A sweep's name or file: is there room for its cells?")] = None,
    out: Annotated[Path, typer.Option(help="Where runs are to be kept.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Look whether this machine, and a cluster, can do the work; a remedy for what they cannot. Exit code 3 when unfit."""
    from spac_repro import doctor as examination
    from spac_repro import plan as planning
    from spac_repro import recipes
    from spac_repro.launchers import matrix
    from spac_repro.launchers.profile import Cluster

    cells = matrix.cells(matrix.Sweep.load(sweep)) if sweep else []
    runs = {cell.digest: recipes.load(cell.recipe, method=cell.method, overrides=cell.settings) for cell in cells}
    size = max((planning.plan(run, run.recipe.data.pairs).disk for run in runs.values()), default=0)
    where = Cluster.load(cluster) if cluster else None
    checks = examination.examine(where, out.resolve(), cells=len(cells), bytes_a_cell=size)
    unfit = any(check.verdict == "unfit" for check in checks)
    if as_json:
        print(json.dumps({"fit": not unfit, "checks": [check.as_json() for check in checks]}))
    else:
        table = _table("spac-repro doctor", "what", "", "found", "remedy")
        for check in checks:
            table.add_row(check.what, check.verdict, check.found, check.remedy)
        _print(table)
    raise typer.Exit(3 if unfit else 0)


@recipes.command("list")
def list_recipes(as_json: AsJson = False) -> None:
    """The recipes that come with the package."""
    from spac_repro import recipes

    summaries = {name: recipes.load(name).recipe.summary for name in recipes.names()}
    if as_json:
        print(json.dumps(summaries))
        return
    for name, summary in summaries.items():
        print(f"{name:<16} {summary}")


@recipes.command()
def show(
    name: Annotated[str, typer.Argument(help="A recipe's name or a YAML file.")],
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Every setting of a recipe: value, where it comes from, and why."""
    from spac_repro import recipes

    run = recipes.load(name, overrides=overrides or ())
    values = run.recipe.model_dump(mode="json")
    if as_json:
        print(json.dumps({"settings": values, "provenance": {k: asdict(v) for k, v in run.provenance.items()}}))
        return
    table = _table(run.recipe.summary, "setting", "value", "from", "why")
    for key in recipes.leaves(values):
        source = run.provenance.get(key)
        value = values
        for part in key.split("."):
            value = value[part]
        table.add_row(key, str(value), f"[{source.mark}]" if source else "", source.why if source else "")
    _print(table)


@recipes.command()
def check(file: Annotated[Path, typer.Argument(help="A recipe in YAML.")]) -> None:
    """Say whether a recipe of your own is complete and valid, and if not, where."""
    from spac_repro import recipes

    run = recipes.load(str(file))
    print(f"{file}: recipe {run.recipe.name} is valid")


# What the commands share


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _with_shorthands(overrides: Sequence[str] | None, preferences: str | None, limit: int | None) -> list[str]:
    """`--preferences` and `--limit` are settings too, and identify the run like any other."""
    more = ["data.source=file", "data.name=null", "data.revision=null"] if preferences and _is_local(preferences) else []
    return [*more, *([f"data.pairs={limit}"] if limit else []), *(overrides or ())]


def _is_local(preferences: str) -> bool:
    # A hub data set is OWNER/NAME; whatever looks like a file or a folder is one, there or missing.
    return Path(preferences).exists() or preferences.startswith((".", "/", "~")) or Path(preferences).suffix != ""


def _beside(preferences: str | None) -> Path | None:
    """The folder leaderboard/ next to the preferences' own folder, if there is one: data prepared for a machine without a hub."""
    if preferences is None or not _is_local(preferences):
        return None
    folder = Path(preferences).resolve().parent.parent / "leaderboard"
    return folder if folder.is_dir() else None


def _known_size(run: "Run", preferences: str | None) -> int | None:
    """How many preferences there are, where that is cheap to say."""
    data = run.recipe.data
    if preferences and _is_local(preferences):
        from spac_repro.data.preferences import read_preferences

        return len(read_preferences(preferences, limit=data.pairs))
    return data.pairs


@contextmanager
def _progress(as_json: bool) -> Iterator["Progress"]:
    from spac_repro.progress import Bar, Lines, Mute, Silent

    if not processes.is_main():
        yield Mute()
    elif as_json:
        yield Silent()
    elif sys.stderr.isatty():
        with Bar() as bar:
            yield bar
    else:
        yield Lines()


def _conclude(folder: Path, results: "Results", as_json: bool, like: Path | None) -> None:
    """Verify a finished run, compare it with the one it repeats, print both, and exit with what they mean."""
    from spac_repro.publish import research_object
    from spac_repro.trust import comparison, replay, verification

    verdict = verification.conclude(folder)
    research_object.publish(folder)
    repeated, stands = replay.conclude(like, folder) if like else (None, True)
    if as_json:
        compared = {"comparison": repeated.as_json()} if repeated else {}
        print(json.dumps({**results.as_json(), "run": str(folder), "verdict": verdict.as_json(), **compared}))
    else:
        _print_results(folder, results)
        _print(verification.render(verdict, brief=True))
        if repeated:
            _print(comparison.render(repeated))
    raise typer.Exit(1 if verdict.status == "disagrees" or not stands else 0)


def _print_results(folder: Path, results: "Results") -> None:
    iterates = results.iterations
    heads = ["start", *(f"iteration {t}" for t in range(1, len(iterates)))]
    table = _table(f"{results.recipe} · {results.method} · seed {results.seed}", "task", "metric", *heads, "note")
    for rows in zip(*(iterate.scores for iterate in iterates), strict=True):
        first = rows[0]
        cells = [f"{row.value:.3f}" + ("" if row.stderr is None else f" ± {row.stderr:.3f}") for row in rows]
        table.add_row(first.task, first.metric, *cells, first.note)
    _print(table)
    print(f"weights {results.weights_sha256}\nrun     {folder}")


def _print_plan(run: "Run", folder: Path, rows: Sequence[tuple[str, str]], plan: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"run": str(folder), "settings_sha256": run.settings_sha256, **plan}))
        return
    table = _table(f"{run.recipe.name} · {run.method} · seed {run.seed} → {folder}", "what", "how much")
    for what, amount in rows:
        table.add_row(what, amount)
    _print(table)


def _dicts(scores: Sequence[Any]) -> list[dict[str, Any]]:
    return [score.as_dict() for score in scores]


def _table(title: str, *columns: str) -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _print(renderable: Any) -> None:
    from rich.console import Console

    # A pipe has no width of its own; a table cut off at 80 columns would lose what it is read for.
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=160)
    console.print(renderable, markup=False)
