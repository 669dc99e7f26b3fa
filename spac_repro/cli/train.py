"""`spac-repro train`: one run, from its recipe to its verdict."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spac_repro import engines, methods
from spac_repro.cli import in_image, output
from spac_repro.cli.choices import Method, one_of
from spac_repro.cli.options import AsJson, Inside, Memory, Network, OtherVersion, Overrides, Questions, RecipeName
from spac_repro.errors import UserError
from spac_repro.optim import distributed, launch

if TYPE_CHECKING:
    from spac_repro.progress import Progress
    from spac_repro.recipe import Run
    from spac_repro.runs.manifest import Manifest
    from spac_repro.runs.results import Results

MethodName = Annotated[
    Method, typer.Option("--method", parser=one_of(methods.names()), help="SPAC, or a method to hold it against.")
]
Seed = Annotated[int, typer.Option(help="Drives the start, the sampling and the order of the data.", min=0)]
Out = Annotated[Path | None, typer.Option(help="Run folder.", show_default="runs/RECIPE/METHOD/seed-N")]
Preferences = Annotated[
    str | None, typer.Option(help="Preference pairs: .json, .jsonl[.gz] or .parquet, a folder, or a hub data set.")
]
Limit = Annotated[int | None, typer.Option(help="Take the first so many preferences.", min=1)]
Until = Annotated[int | None, typer.Option(help="Stop after this iteration (0: the start); the command without it goes on.", min=0)]
StartFrom = Annotated[
    Path | None,
    typer.Option(metavar="RUN", help="Share the start of another run of this recipe and seed instead of repeating it."),
]
Like = Annotated[
    Path | None, typer.Option(metavar="RUN", help="Repeat a run from its manifest alone, into RUN-again, and compare the two.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the estimated cost, and do nothing else.")]
AllowChangedEnvironment = Annotated[
    bool, typer.Option("--allow-changed-environment", help="Go on with a run begun elsewhere; it then claims no equal bits.")
]


@dataclass(frozen=True)
class Request:
    """What a `train` asks for: its run, and how to carry it out."""

    run: "Run"
    folder: Path
    preferences: str | None  # a file, a folder, or a hub data set
    questions: Path | None  # of the leaderboard
    until: int | None  # the iteration to stop after
    start_from: Path | None  # a run whose start is shared
    like: Path | None  # a run that this one repeats
    allow_changed_environment: bool
    as_json: bool


def train(
    context: typer.Context,
    recipe: RecipeName = "tiny",
    method: MethodName = "spac",
    seed: Seed = 0,
    out: Out = None,
    overrides: Overrides = None,
    preferences: Preferences = None,
    limit: Limit = None,
    data: Questions = None,
    until: Until = None,
    start_from: StartFrom = None,
    like: Like = None,
    dry_run: DryRun = False,
    allow_changed_environment: AllowChangedEnvironment = False,
    inside: Inside = None,
    memory: Memory = None,
    network: Network = False,
    other_version: OtherVersion = False,
    as_json: AsJson = False,
) -> None:
    """Train and evaluate one method with one seed: start, self-play iterations, scores of every iterate, verdict.

    Repeating the command goes on where it stopped. Several processes, where the recipe asks for them, are
    started here, unless torchrun or `accelerate launch` did. By default nothing is downloaded: recipe tiny has a world built in.
    """
    run = _run(context, like, recipe, method, seed, _settings(overrides, preferences, limit))
    folder = out or _default_folder(run, like)
    questions = data or _beside(preferences)
    request = Request(run, folder, preferences, questions, until, start_from, like, allow_changed_environment, as_json)
    limits = in_image.limits(memory, network, other_version)
    if dry_run:
        _print_cost(request)
    elif inside is not None:
        context.params["data"] = questions  # found by its place, which the image does not see
        raise typer.Exit(in_image.carry_out(["train"], context, inside, limits, out=folder))
    elif limits != in_image.limits():
        raise UserError("--memory, --network and --other-version are about an image; name one with --in, or leave them out")
    elif not distributed.is_launched() and _has_process_group(run):
        raise typer.Exit(launch.launch(run.recipe.training.processes, sys.argv[1:]))
    else:
        _carry_out(request)


def _run(context: typer.Context, like: Path | None, recipe: str, method: str, seed: int, settings: Sequence[str]) -> "Run":
    """The run that the options describe, or the one that --like repeats."""
    from spac_repro import recipes

    if like is None:
        return recipes.load(recipe, method=method, seed=seed, overrides=settings)
    from spac_repro.trust import replay

    if given := [name for name in ("recipe", "method", "seed", "overrides", "limit") if _was_given(context, name)]:
        raise UserError(f"--like takes settings and seed from the run; leave --{given[0].replace('overrides', 'set')} out")
    return replay.run_of(like)


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _default_folder(run: "Run", like: Path | None) -> Path:
    if like is not None:
        return like.resolve().with_name(f"{like.resolve().name}-again")
    return Path("runs") / run.recipe.name / run.method / f"seed-{run.seed}"


def _has_process_group(run: "Run") -> bool:
    """Whether the run's processes are started by a launcher, even if there is only one."""
    return run.recipe.training.processes > 1 or engines.get(run.recipe.training.engine).needs_process_group


# Preferences


def _settings(overrides: Sequence[str] | None, preferences: str | None, limit: int | None) -> list[str]:
    """`--preferences` and `--limit` are settings too, and identify the run like any other."""
    more = ["data.source=file", "data.name=null", "data.revision=null"] if preferences and _is_local(preferences) else []
    return [*more, *([f"data.max_pairs={limit}"] if limit else []), *(overrides or ())]


def _is_local(preferences: str) -> bool:
    # A hub data set is OWNER/NAME; whatever looks like a file or a folder is one, there or missing.
    return Path(preferences).exists() or preferences.startswith((".", "/", "~")) or Path(preferences).suffix != ""


def _beside(preferences: str | None) -> Path | None:
    """The folder leaderboard/ next to the preferences' own folder, if there is one: data prepared for a machine without a hub."""
    if preferences is None or not _is_local(preferences):
        return None
    folder = Path(preferences).resolve().parent.parent / "leaderboard"
    return folder if folder.is_dir() else None


def _known_size(request: Request) -> int | None:
    """How many preferences there are, where that is cheap to say."""
    pairs = request.run.recipe.data.max_pairs
    if request.preferences and _is_local(request.preferences):
        from spac_repro.data.preferences import read_preferences

        return len(read_preferences(request.preferences, limit=pairs))
    return pairs


# What is done, and what is said of it


def _print_cost(request: Request) -> None:
    from spac_repro import cost

    run, folder = request.run, request.folder
    estimate = cost.estimate(run, _known_size(request))
    if request.as_json:
        settings = {"run": str(folder), "settings_sha256": run.settings_sha256}
        print(json.dumps({**settings, **asdict(estimate), "gpu_hours": estimate.gpu_hours}))
        return
    table = output.table(f"{run.recipe.name} · {run.method} · seed {run.seed} → {folder}", "what", "how much")
    for what, amount in cost.table_rows(estimate):
        table.add_row(what, amount)
    output.show(table)


def _carry_out(request: Request) -> None:
    """Train in this process, and conclude where the run is complete."""
    from spac_repro import pipeline
    from spac_repro.data import inputs

    with output.progress(request.as_json) as progress:
        read = inputs.read(request.run, preferences=request.preferences, questions=request.questions)
        results = pipeline.train(
            request.run,
            request.folder,
            read,
            allow_changed_environment=request.allow_changed_environment,
            until=request.until,
            start_from=request.start_from,
            progress=progress,
            check_manifest=_inspection(request, progress),
        )
    if not distributed.is_main_process():
        return
    if results is not None:
        _conclude(request, results)
    elif request.as_json:
        print(json.dumps({"run": str(request.folder), "complete": False, "iteration": request.until}))
    else:
        print(f"{request.folder}: stopped after iteration {request.until}, as asked; the same command without --until goes on")


def _inspection(request: Request, progress: "Progress") -> Callable[["Manifest"], None]:
    """What looks at the manifest before anything is written."""
    if request.like is None:
        return lambda manifest: None
    from spac_repro.trust import replay

    return replay.check(request.like, allowed=request.allow_changed_environment, say=progress.message)


def _conclude(request: Request, results: "Results") -> None:
    """Verify a finished run, compare it with the one it repeats, print both, and exit with what they mean."""
    from spac_repro.publish import research_object
    from spac_repro.trust import replay, terminal, verification

    folder = request.folder
    verdict = verification.conclude(folder)
    research_object.publish_run(folder, request.run)
    repeated, stands = replay.conclude(request.like, folder) if request.like else (None, True)
    if request.as_json:
        compared = {"comparison": repeated.as_json()} if repeated else {}
        print(json.dumps({**results.as_json(), "run": str(folder), "verdict": verdict.as_json(), **compared}))
    else:
        _print_results(folder, results)
        output.show(terminal.render_verdict(verdict, brief=True))
        if repeated:
            output.show(terminal.render_comparison(repeated))
    raise typer.Exit(1 if verdict.status == "disagrees" or not stands else 0)


def _print_results(folder: Path, results: "Results") -> None:
    iterates = results.iterations
    heads = ["start", *(f"iteration {t}" for t in range(1, len(iterates)))]
    table = output.table(f"{results.recipe} · {results.method} · seed {results.seed}", "task", "metric", *heads, "note")
    for rows in zip(*(iterate.scores for iterate in iterates), strict=True):
        first = rows[0]
        cells = [f"{row.value:.3f}" + ("" if row.stderr is None else f" ± {row.stderr:.3f}") for row in rows]
        table.add_row(first.task, first.metric, *cells, first.note)
    output.show(table)
    print(f"weights {results.weights_sha256}\nrun     {folder}")
