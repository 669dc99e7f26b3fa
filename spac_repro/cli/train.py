"""`spac-repro train`: one run, from its recipe to its verdict."""

import gc
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spac_repro import engines, methods
from spac_repro.cli import in_image as container
from spac_repro.cli import output, policy_source, preference_source
from spac_repro.cli.choices import Method, one_of
from spac_repro.cli.options import (
    AsJson,
    InImage,
    MaxPairs,
    Memory,
    Network,
    OtherVersion,
    Overrides,
    Policy,
    RecipeName,
    Strict,
    TrainQuestions,
)
from spac_repro.cli.output_path import new_run_folder
from spac_repro.errors import UserError
from spac_repro.optim import distributed, launch

if TYPE_CHECKING:
    from spac_repro.progress import Progress
    from spac_repro.recipe import Run
    from spac_repro.runs.manifest import Manifest
    from spac_repro.runs.results import Results

MethodName = Annotated[
    Method,
    typer.Option("--method", parser=one_of(methods.names()), help="Training method: SPAC, or a baseline to compare it with."),
]
Seed = Annotated[
    int, typer.Option(help="Random seed of random initial weights, if any, of sampling, and of the order of the data.", min=0)
]
Out = Annotated[Path | None, typer.Option(callback=new_run_folder, help="Run folder.", show_default="runs/RECIPE/METHOD/seed-N")]
Preferences = Annotated[
    str | None,
    typer.Option(
        help="Preference pairs: a .jsonl, .json, .csv, .tsv or .parquet file, a folder of such files (FOLDER[:SPLIT]), or a hub "
        "data set OWNER/NAME[:[CONFIG/]SPLIT] (with --set data.revision=COMMIT). `spac-repro data` shows what is read.",
    ),
]
Until = Annotated[
    int | None,
    typer.Option(help="Stop after this iteration; 0 is the start policy. Repeat the command without --until to continue.", min=0),
]
StartFrom = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN",
        help="Take the start policy from another run of this recipe and seed, with equal inputs and environment. Methods may vary.",
    ),
]
Like = Annotated[
    Path | None,
    typer.Option(metavar="RUN", help="Repeat a run from its manifest, in the folder RUN-again, and compare the two runs."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the estimated cost of the run, and exit.")]
AllowChangedEnvironment = Annotated[
    bool,
    typer.Option(
        "--allow-changed-environment",
        help="Resume a run that was begun in a different environment, or repeat such a run with --like. The manifest of the "
        "resumed run then no longer claims bit-identical results. Has no effect on --start-from.",
    ),
]


@dataclass(frozen=True)
class TrainRequest:
    """What a `train` command asks for.

    Attributes:
        run: recipe, method and seed.
        folder: the run folder.
        preferences: a file, a folder, or a data set of the hub; None: what the recipe names.
        questions: folder of the leaderboard's questions.
        until: the iteration to stop after.
        start_from: the run whose start policy is used.
        like: the run that this one repeats.
        allow_changed_environment: resume although the environment has changed.
        as_json: print JSON.
        strict: refuse rows that state no preference.
    """

    run: "Run"
    folder: Path
    preferences: str | None
    questions: Path | None
    until: int | None
    start_from: Path | None
    like: Path | None
    allow_changed_environment: bool
    as_json: bool
    strict: bool


def train(
    context: typer.Context,
    recipe: RecipeName = "tiny",
    method: MethodName = "spac",
    seed: Seed = 0,
    out: Out = None,
    policy: Policy = None,
    overrides: Overrides = None,
    preferences: Preferences = None,
    max_pairs: MaxPairs = None,
    strict: Strict = False,
    questions: TrainQuestions = None,
    until: Until = None,
    start_from: StartFrom = None,
    like: Like = None,
    dry_run: DryRun = False,
    allow_changed_environment: AllowChangedEnvironment = False,
    in_image: InImage = None,
    memory: Memory = None,
    network: Network = False,
    other_version: OtherVersion = False,
    as_json: AsJson = False,
) -> None:
    """Train and evaluate one method with one seed, and verify the scores.

    Makes the start policy, runs the self-play iterations, scores every iterate and compares the scores with the expected results.
    Repeat the command to resume an interrupted run. By default nothing is downloaded: recipe `tiny` generates its own data.

    If the recipe asks for several processes, this command starts them, unless torchrun or `accelerate launch` already did.

    Exit codes: 0 done, and verified if expected results apply; 1 the scores disagree with them, or --like found a difference beyond
    noise or without a recorded cause; 2 wrong usage or bad input; 3 this environment cannot run the work, or is not that of --like;
    130 interrupted: repeat the command to resume.
    """
    settings = preference_source.overrides(overrides, preferences, max_pairs)
    run = _recorded_run(context, like, policy) if like else _requested_run(recipe, method, seed, policy, settings)
    folder = out or _default_folder(run, like)
    questions = questions or questions_beside(preferences)
    request = TrainRequest(run, folder, preferences, questions, until, start_from, like, allow_changed_environment, as_json, strict)
    options = container.container_options(memory, network, other_version)
    if dry_run:
        _print_cost(request)
    elif in_image is not None:
        context.params["questions"] = questions  # the container does not see the folder beside the preferences
        context.params["policy"] = Path(policy) if policy and policy_source.is_folder(policy) else policy
        raise typer.Exit(container.run_in_image(["train"], context, in_image, options, out=folder))
    elif options != container.container_options():
        raise UserError("--memory, --network and --other-version need an image; name one with --in, or omit them")
    elif not distributed.is_launched() and has_process_group(run):
        _check_machine(request)
        raise typer.Exit(launch.launch(run.recipe.training.processes, sys.argv[1:]))
    else:
        _check_machine(request)
        _train(request)


def _requested_run(recipe: str, method: str, seed: int, policy: str | None, settings: Sequence[str]) -> "Run":
    """Return the run that the options describe."""
    from spac_repro import recipes

    return recipes.load(recipe, method=method, seed=seed, overrides=policy_source.overrides(policy, settings))


def _recorded_run(context: typer.Context, like: Path, policy: str | None) -> "Run":
    """Return the run that --like repeats. No manifest holds the path of a model folder, so --policy has to name it again."""
    from spac_repro.trust import rerun

    if extra := [name for name in ("recipe", "method", "seed", "overrides", "max_pairs") if _on_command_line(context, name)]:
        raise UserError(
            f"--like takes settings and seed from the run; omit --{extra[0].replace('overrides', 'set').replace('_', '-')}"
        )
    return rerun.recorded_run(like, policy=Path(policy) if policy else None)


def _on_command_line(context: typer.Context, parameter: str) -> bool:
    source = context.get_parameter_source(parameter)
    return source is not None and source.name == "COMMANDLINE"


def _default_folder(run: "Run", like: Path | None) -> Path:
    if like is not None:
        return like.resolve().with_name(f"{like.resolve().name}-again")
    return Path("runs") / run.recipe.name / run.method / f"seed-{run.seed}"


def has_process_group(run: "Run") -> bool:
    """Whether torchrun has to start the run's processes, even if there is only one."""
    return run.recipe.training.processes > 1 or engines.get(run.recipe.training.engine).needs_process_group


# Preferences


def questions_beside(preferences: str | None) -> Path | None:
    """The folder leaderboard/ next to the preferences' folder, if there is one (docs/decisions/05-questions.md)."""
    if preferences is None or not preference_source.is_local(preferences):
        return None
    folder = Path(preferences).resolve().parent.parent / "leaderboard"
    return folder if folder.is_dir() else None


def _preference_count(request: TrainRequest) -> int | None:
    """The number of preference pairs; None if only a download would tell."""
    pairs = request.run.recipe.data.max_pairs
    if request.preferences and preference_source.is_local(request.preferences):
        from spac_repro.data import sources

        return len(sources.read(request.run, preferences=request.preferences, questions=None, strict=request.strict).preferences)
    return pairs


# Training and its output


def _check_machine(request: TrainRequest) -> None:
    """Refuse, before anything is read or written, a machine without what the recipe's GPUs need, or with too small a disk."""
    from spac_repro import cost
    from spac_repro.optim import gpu_host
    from spac_repro.runs import disk

    gpu_host.check(request.run.recipe)
    if distributed.is_main_process() and cost.has_known_size(request.run):
        disk.check(request.folder, cost.estimate(request.run, None).disk)


def _print_cost(request: TrainRequest) -> None:
    from spac_repro import cost, stage_memory
    from spac_repro.runs import disk

    run, folder = request.run, request.folder
    estimate = cost.estimate(run, _preference_count(request))
    if request.as_json:
        identity = {"run": str(folder), "settings_sha256": run.settings_sha256}
        more = {"gpu_hours": estimate.gpu_hours, "memory": dict(stage_memory.table_rows(run)), "rests_on": _rests_on(run, folder)}
        print(json.dumps({**identity, **asdict(estimate), **more}))
        return
    table = output.table(f"{run.recipe.name} · {run.method} · seed {run.seed} → {folder}", "what", "how much")
    for quantity, amount in cost.table_rows(estimate):
        table.add_row(quantity, amount)
    for stage, peak in stage_memory.table_rows(run):
        table.add_row(f"memory per process in {stage}, at most", disk.size(peak))
    table.add_row("rests on", _rests_on(run, folder))
    output.show(table)


def _rests_on(run: "Run", folder: Path) -> str:
    """The rehearsal of this run beside its folder, and what it says; or that the estimate is arithmetic alone."""
    file = folder.parent / "rehearsal.json"
    if not file.is_file():
        return "arithmetic alone; `spac-repro rehearse` measures"
    from spac_repro.rehearsal import document, verdict

    rehearsal = document.read(file)
    if rehearsal.settings_sha256 != run.settings_sha256:
        return f"arithmetic alone; {file} rehearsed other settings"
    return f"{file}: {verdict.summary(verdict.judge(rehearsal, run, None))}"


def _train(request: TrainRequest) -> None:
    """Train in this process; if the run is complete then, verify it and print its results."""
    from spac_repro import pipeline
    from spac_repro.data import sources

    gc.freeze()  # each stage collects garbage; it need not search the modules and classes of the libraries for it
    with output.progress(request.as_json) as progress:
        read = sources.read(request.run, preferences=request.preferences, questions=request.questions, strict=request.strict)
        for line in read.messages():
            progress.message(line)
        results = pipeline.train(
            request.run,
            request.folder,
            read,
            allow_changed_environment=request.allow_changed_environment,
            until=request.until,
            start_from=request.start_from,
            progress=progress,
            check_manifest=_manifest_check(request, progress),
        )
    if not distributed.is_main_process():
        return
    if results is not None:
        _finish(request, results)
    elif request.as_json:
        print(json.dumps({"run": str(request.folder), "complete": False, "iteration": request.until}))
    else:
        print(
            f"{request.folder}: stopped after iteration {request.until} (--until); repeat the command without --until to continue"
        )


def _manifest_check(request: TrainRequest, progress: "Progress") -> Callable[["Manifest"], None]:
    """Return the check of the manifest that runs before anything is written: for --like, against the run that is repeated."""
    if request.like is None:
        return lambda manifest: None
    from spac_repro.trust import rerun

    return rerun.manifest_check(request.like, allow_changed=request.allow_changed_environment, say=progress.message)


def _finish(request: TrainRequest, results: "Results") -> None:
    """Verify a finished run, compare it with the run that it repeats, print both, and exit with 1 if either disagrees."""
    from spac_repro.publish import research_object
    from spac_repro.trust import rerun, terminal, verification

    folder = request.folder
    verdict = verification.verify_and_record(folder)
    research_object.publish_run(folder, request.run)
    comparison, agrees = rerun.compare_with_original(request.like, folder) if request.like else (None, True)
    if request.as_json:
        compared = {"comparison": comparison.as_json()} if comparison else {}
        print(json.dumps({**results.as_json(), "run": str(folder), "verdict": verdict.as_json(), **compared}))
    else:
        _print_results(folder, results)
        output.show(terminal.render_verdict(verdict, brief=True))
        if comparison:
            output.show(terminal.render_comparison(comparison))
    raise typer.Exit(1 if verdict.status == "disagrees" or not agrees else 0)


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
