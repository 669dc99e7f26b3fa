"""`spac-repro rehearse`: whether a run fits this machine or a cluster's job, measured on a few layers of its true widths."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from spac_repro import methods
from spac_repro.cli import choices, output, policy_source, preference_source
from spac_repro.cli.choices import Method, one_of
from spac_repro.cli.options import AsJson, MaxPairs, Overrides, Policy, RecipeName, TrainQuestions
from spac_repro.cli.output_path import outside_runs
from spac_repro.cli.train import Preferences, has_process_group, questions_beside
from spac_repro.errors import UnfitEnvironmentError, UserError
from spac_repro.optim import distributed, launch

if TYPE_CHECKING:
    from spac_repro.launchers.profile import Cluster
    from spac_repro.recipe import Run
    from spac_repro.rehearsal.verdict import Verdict


RehearsedMethod = Annotated[Method, typer.Option("--method", parser=one_of(methods.names()), help="Method of the run.")]
Profile = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        autocompletion=choices.cluster_names,
        help="Cluster profile: a name in launchers/clusters/, or a YAML file. On Slurm the rehearsal is one job of its shape.",
    ),
]
Layers = Annotated[
    int | None,
    typer.Option(
        help="Rehearse so many layers, and half as many.", min=2, show_default="4, more where embeddings are large, or what fits"
    ),
]
Tokens = Annotated[
    int | None,
    typer.Option(
        help="Most tokens that a process computes in a batch: fewer rows, then shorter ones.",
        min=1,
        show_default="the recipe's, or 256 where a CPU stands in for GPUs",
    ),
]
Minutes = Annotated[
    float,
    typer.Option(
        help="Begin no second or later round that would not end within so many minutes; the first one is finished.", min=0.1
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        callback=outside_runs,
        help="Document to write. It rehearses on that disk. `train --dry-run` looks for it beside the run folder.",
        show_default="runs/RECIPE/METHOD/rehearsal.json",
    ),
]


def rehearse(
    recipe: RecipeName = "tiny",
    method: RehearsedMethod = "spac",
    policy: Policy = None,
    overrides: Overrides = None,
    preferences: Preferences = None,
    max_pairs: MaxPairs = None,
    questions: TrainQuestions = None,
    cluster: Profile = None,
    layers: Layers = None,
    tokens: Tokens = None,
    minutes: Minutes = 10,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Measure every stage of a run on a few layers of its true widths, and say whether the whole run fits.

    Nothing is downloaded. Weights are random. Every visit is a small run by the same code as `train`: policy, self-play, reference
    log-probabilities, optimizer steps, checkpoint, gathering, saving, hashing and the leaderboard. It is stopped by a signal and
    resumed. Two sizes and two depths give a line in tokens and in layers. Rounds are repeated, at most five, and give the interval.

    Exit codes: 0 the run fits; 2 bad input; 3 it does not fit, and the line says why.
    """
    from spac_repro import recipes
    from spac_repro.launchers.profile import Cluster

    settings = policy_source.overrides(policy, preference_source.overrides(overrides, preferences, max_pairs))
    run = recipes.load(recipe, method=method, overrides=settings)
    profile = Cluster.load(cluster) if cluster else None
    path = out or Path("runs") / run.recipe.name / run.method / "rehearsal.json"
    from spac_repro.rehearsal import document, measure, verdict

    questions = questions or questions_beside(preferences)
    if profile is not None and profile.scheduler == "slurm":
        files = {"--preferences": preferences, "--questions": questions}
        sizes = {"--layers": layers, "--tokens": tokens, "--minutes": minutes}
        _in_a_job(profile, run, path, recipe, settings, files, sizes)
        _finish(verdict.judge(document.read(path), run, profile), path, as_json)
    asked, _ = measure.on_this_machine(run)
    if not distributed.is_launched() and has_process_group(asked):
        try:
            raise typer.Exit(launch.launch(asked.recipe.training.processes, sys.argv[1:]))
        finally:
            measure.remove_leftovers(path.parent)  # of processes that were killed
    with output.progress(as_json) as progress:
        request = measure.Request(
            run=run,
            inputs=measure.inputs_at_hand(run, preferences=preferences, questions=questions),
            layers=layers,
            tokens=tokens,
            minutes=minutes,
            place=path.parent,
        )
        rehearsal = measure.rehearse(request, progress)
    if not distributed.is_main_process():
        return
    document.write(path, rehearsal)
    _finish(verdict.judge(rehearsal, run, profile), path, as_json)


def _in_a_job(
    profile: "Cluster",
    run: "Run",
    path: Path,
    recipe: str,
    settings: Sequence[str],
    files: Mapping[str, str | Path | None],
    sizes: Mapping[str, float | None],
) -> None:
    """Let a job of Slurm rehearse, and leave its document at `path`."""
    from spac_repro.launchers import rehearsal
    from spac_repro.rehearsal import document

    if run.recipe.training.processes != profile.processes:
        raise UserError(
            f"the recipe has training.processes={run.recipe.training.processes}, but the profile starts {profile.processes}; "
            f"--set training.processes={profile.processes}, or change the profile"
        )
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    arguments = ["--json", "--method", run.method, "--recipe", rehearsal.absolute(recipe), "--out", str(path)]
    for setting in settings:
        arguments += ["--set", setting]
    arguments += [word for name, file in files.items() if file for word in (name, rehearsal.absolute(file))]
    arguments += [word for name, size in sizes.items() if size is not None for word in (name, f"{size:g}")]
    minutes = sizes["--minutes"] or 0
    proved = rehearsal.submit_and_wait(profile, arguments, path, minutes=minutes, say=lambda line: print(line, file=sys.stderr))
    found = document.read(path)
    document.write(path, found.model_copy(update={"proved": (*found.proved, *proved)}))


def _finish(found: "Verdict", path: Path, as_json: bool) -> NoReturn:
    """Print a verdict, and exit with 3 if the run does not fit."""
    if as_json:
        print(json.dumps({"file": str(path), **found.as_json()}))
    else:
        _print(found, path)
        if found.reasons:
            raise UnfitEnvironmentError(f"{found.rehearsal.recipe} {found.line}")
    raise typer.Exit(UnfitEnvironmentError.exit_code if found.reasons else 0)


def _print(found: "Verdict", path: Path) -> None:
    from spac_repro.rehearsal.extrapolation import coverage
    from spac_repro.rehearsal.verdict import duration
    from spac_repro.runs import disk

    rehearsal = found.rehearsal
    depths = " and ".join(map(str, rehearsal.depths))
    title = f"{rehearsal.recipe} · {rehearsal.method} · {depths} of {rehearsal.layers} layers on {rehearsal.machine.name}"
    table = output.table(title, "stage", "times", "each", "memory", "of the GPU", "tokens/s", "of matmul")
    for stage in found.stages:
        if not stage.count:
            continue
        each = stage.seconds
        table.add_row(
            stage.name,
            f"{stage.count:,.0f}" if stage.count >= 10 else f"{stage.count:.3g}",
            f"{duration(each.middle)} ({duration(each.low)} to {duration(each.high)})",
            disk.size(stage.host.middle),
            disk.size(stage.device.middle) if stage.device else "",
            f"{stage.tokens_per_second:,.0f}" if stage.tokens_per_second else "",
            f"{stage.share_of_matmul:.0%}" if stage.share_of_matmul else "",
        )
    output.show(table)
    total = found.seconds
    print(f"whole run  {duration(total.middle)}, between {duration(total.low)} and {duration(total.high)}")
    rounds = rehearsal.rounds
    kind = (
        f"{rounds} rounds: the median lies between them with probability {coverage(rounds):.0%}"
        if rounds > 1
        else "one round: no interval"
    )
    print(f"interval   {kind}; tokens/s and share of matmul at {rehearsal.depths[-1]} layers, all else at {rehearsal.layers}")
    if found.planned_gpu_hours is not None:
        ours = total.middle * rehearsal.rehearsed_processes / 3600
        print(f"plan       {found.planned_gpu_hours:.2g} hours of an A100 by `train --dry-run`; here {ours:.2g} hours of a process")
    print(f"rows       {rehearsal.rows}; widths: {rehearsal.shape}")
    for kind, lines in (("proved", rehearsal.proved), ("note", found.notes)):
        for line in lines:
            print(f"{kind:<10} {line}")
    print(f"file       {path}")
    if not found.reasons:
        print("fits")
