"""Carries a rehearsal out: small runs of the pipeline, interrupted and resumed, each stage measured."""

import glob
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch

from spac_repro import cost, pipeline
from spac_repro.data import sources
from spac_repro.data.sources import Inputs
from spac_repro.errors import UnfitEnvironmentError, UserError
from spac_repro.model import precision
from spac_repro.optim import distributed, gpu_host
from spac_repro.progress import Progress
from spac_repro.recipe import Run
from spac_repro.rehearsal import plan as plans
from spac_repro.rehearsal import shape
from spac_repro.rehearsal.document import SCHEMA, SIZES, Machine, Rehearsal, Visit
from spac_repro.rehearsal.interruption import Interrupter
from spac_repro.rehearsal.meter import matmul_flops
from spac_repro.rehearsal.plan import Plan
from spac_repro.rehearsal.shape import Shape
from spac_repro.rehearsal.visits import visit
from spac_repro.runs import environment

ROUNDS = 5  # at most
CPU_TOKENS = 256  # of a batch, where a CPU stands in for GPUs
LEAST_DEPTH = 4  # of the deeper depth, unless it is asked for


@dataclass(frozen=True)
class Request:
    """What is to be rehearsed.

    Attributes:
        run: the whole run.
        inputs: its data and questions; None where no data is at hand.
        layers: the deeper of the two depths; None: chosen by the embeddings' size, or what fits (see `depths`).
        tokens: most tokens that a process computes in a batch; None: as in the recipe, or few where a CPU stands in for GPUs.
        minutes: no second or later round is begun that would not end within them.
        place: a folder on the disk where runs will lie.
    """

    run: Run
    inputs: Inputs | None
    layers: int | None
    tokens: int | None
    minutes: float
    place: Path


def rehearse(request: Request, progress: Progress, clock: Callable[[], float] = time.perf_counter) -> Rehearsal:
    """Rehearse a run on this machine. All processes call this together.

    Raises:
        UnfitEnvironmentError: not even two layers fit, or the policy's shape is not known here.
        UserError: the data or the settings are refused.
    """
    begun = time.monotonic()
    run, notes = on_this_machine(request.run)
    if notes and request.tokens is None:
        request = replace(request, tokens=CPU_TOKENS)
        notes.append(f"batches are cut to {CPU_TOKENS} tokens, because a CPU computes them; --tokens N chooses")
    pipeline.prepare_process(run, progress)
    found = shape.of_policy(run.recipe.policy)
    chosen = distributed.on_main_process(lambda: depths(found, run, request.layers))  # free memory differs between processes
    plan = plans.make(run, request.inputs, chosen, found, request.tokens, tuple(notes))
    for line in plan.lines():
        progress.message(line)
    place = distributed.on_main_process(lambda: _make_folder(request.place))
    visits: list[Visit] = []
    try:
        _warm_up(plan, request, place, progress)
        for number in range(ROUNDS):
            order = [(layers, size) for layers in plan.depths for size in SIZES]
            began = time.monotonic()
            for layers, size in order if number % 2 == 0 else reversed(order):  # what drifts with time hits both ends alike
                what = f"round {number + 1}, {layers} layers, {plan.number_of_rows(size)} rows"
                progress.message(what)
                shown = Interrupter(progress, what) if number == 0 else Interrupter()
                visits.append(Visit(round=number, layers=layers, size=size, stages=visit(plan, layers, size, place, clock, shown)))
            end_of_next = 2 * time.monotonic() - began - begun
            if distributed.any_process(end_of_next > 60 * request.minutes):
                break
    finally:
        if distributed.is_main_process():  # alone: another process may have failed
            shutil.rmtree(place, ignore_errors=True)
    return _document(request, plan, visits)


def _warm_up(plan: Plan, request: Request, place: Path, progress: Progress) -> None:
    """Make a visit that is not counted: it imports and compiles what later visits find in memory. Say how long a round may take."""
    layers, size = plan.depths[0], SIZES[0]
    what = f"not counted, {layers} layers, {plan.number_of_rows(size)} rows"
    progress.message(what)
    began = time.monotonic()
    visit(plan, layers, size, place, interrupter=Interrupter(progress, what))
    visits_of_round = len(plan.depths) * len(SIZES)
    least = visits_of_round * (time.monotonic() - began) / 60  # others have as many rows and layers, or more
    if least > request.minutes:
        fewer = "" if request.tokens and request.tokens <= CPU_TOKENS else f"; --tokens {CPU_TOKENS} takes less"
        progress.message(f"the first round takes {least:.0f} minutes or more: it is finished whatever --minutes is{fewer}")


def on_this_machine(run: Run) -> tuple[Run, list[str]]:
    """The run, or the same run in one process on the CPU where its recipe asks for GPUs that are not here; and notes on it."""
    training = run.recipe.training
    if training.device is None or all(need.met for need in gpu_host.needs(gpu_host.processes_here(run.recipe))):
        return run, []
    alone = training.model_copy(update={"device": None, "processes": 1})
    note = f"no GPU for each of {training.processes} processes: one process rehearses on the CPU, and all times are those of a CPU"
    return replace(run, recipe=run.recipe.model_copy(update={"training": alone})), [note]


def depths(found: Shape, run: Run, layers: int | None) -> tuple[int, ...]:
    """The two depths that are rehearsed, the shallower first.

    What two depths differ by is extrapolated, with its noise: by 2 and 4 of 30 layers, 13 times. So the layers by which they differ
    have about as many parameters as the embeddings, beside which small layers vanish.

    Raises:
        UnfitEnvironmentError: the deeper one does not fit into memory, by arithmetic; or not even two layers do.
    """
    embeddings = found.parameters(1) - found.parameters_of_a_layer
    deepest = min(layers or max(LEAST_DEPTH, 2 * round(embeddings / found.parameters_of_a_layer)), found.layers)
    room = _memory(run)
    while (needed := _needed(found, run, deepest)) > room:
        if layers is not None or deepest <= min(2, found.layers):
            what = f"{deepest} layers of {run.recipe.policy.name}'s widths"
            raise UnfitEnvironmentError(
                f"does not fit: {what} take {needed / 1e9:.1f} GB of weights, gradients and optimizer state, and "
                f"{room / 1e9:.1f} GB are free; "
                + ("rehearse fewer with --layers" if deepest > 2 else "rehearse on a larger machine")
            )
        deepest -= 1
    return (deepest,) if deepest == 1 else (max(1, deepest // 2), deepest)


def _needed(found: Shape, run: Run, layers: int) -> float:
    """Bytes of weights, gradients and optimizer state of one process; an adapter's own, which are few, are left out."""
    parameters = found.parameters(layers)
    return cost.training_state(run.recipe, parameters, 0 if run.recipe.policy.adapter else parameters)[0]


def _memory(run: Run) -> float:
    """Free bytes for each process."""
    if torch.cuda.is_available():
        return float(torch.cuda.mem_get_info()[0])
    return psutil.virtual_memory().available / gpu_host.processes_here(run.recipe)


def _make_folder(place: Path) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    remove_leftovers(place)
    return Path(tempfile.mkdtemp(prefix=f"{_of_this_machine()}{os.getpid()}-", dir=place))


def remove_leftovers(place: Path) -> None:
    """Remove the folders of rehearsals of this machine whose process was killed before it could do that itself."""
    for folder in place.glob(f"{glob.escape(_of_this_machine())}*"):
        process = folder.name.removeprefix(_of_this_machine()).partition("-")[0]
        if process.isdigit() and not psutil.pid_exists(int(process)):
            shutil.rmtree(folder, ignore_errors=True)


def _of_this_machine() -> str:
    return f".rehearsal-{socket.gethostname()}-"


def inputs_at_hand(run: Run, *, preferences: str | None, questions: Path | None) -> Inputs | None:
    """Read the data and the questions of a run that are on this machine.

    Returns:
        None where the data is on the hub: then lengths are drawn.

    Raises:
        UserError: a row is bad, or not even the number of preference pairs is known.
    """
    name, data = run.recipe.name, run.recipe.data
    if preferences is None and data.source != "world" and data.max_pairs is None:
        raise UserError(f"recipe {name} has no preferences; name some with --preferences FILE, or their number with --max-pairs")
    if preferences is None and data.source != "world":
        return Inputs([], None, questions) if questions else None
    return sources.read(run, preferences=preferences, questions=questions)


# The document


def _document(request: Request, plan: Plan, visits: list[Visit]) -> Rehearsal:
    run, found, training = request.run, plan.shape, request.run.recipe.training
    proved = ["training stopped at a signal, and went on from its checkpoint"]
    if plan.run.recipe.training.processes > 1:
        proved.insert(0, f"{plan.run.recipe.training.processes} processes connected")
    return Rehearsal(
        schema=SCHEMA,
        recipe=run.recipe.name,
        method=run.method,
        settings_sha256=run.settings_sha256,
        pairs=plan.pairs,
        processes=training.processes,
        rehearsed_processes=plan.run.recipe.training.processes,
        asks_for_gpus=training.device is not None,
        environment=environment.describe(),
        rows=plan.row_source,
        shape=found.source,
        tokens=request.tokens,
        layers=found.layers,
        depths=plan.depths,
        parameters={layers: found.parameters(layers) for layers in {*plan.depths, found.layers}},
        untouched=found.untouched,
        passes=4 if training.gradient_checkpointing else 3,
        machine=_machine(request, plan),
        work=plan.work(),
        visits=tuple(visits),
        notes=plan.notes,
        proved=tuple(proved),
    )


def _machine(request: Request, plan: Plan) -> Machine:
    recipe, config = plan.run.recipe, plan.shape.config
    cuda = torch.cuda.is_available()
    half = recipe.training.compute_dtype == "bfloat16"
    with precision.of(recipe):
        flops = matmul_flops(
            min(4096, plan.batch.micro_batch_tokens),
            int(config.hidden_size),
            int(config.intermediate_size),
            torch.bfloat16 if half else torch.float32,
            torch.device("cuda" if cuda else "cpu"),
        )
    described = environment.describe()
    return Machine(
        name=described["gpus"][0] if described["gpus"] else described["cpu"],
        processes_here=gpu_host.processes_here(recipe),
        host=psutil.virtual_memory().total,
        device=torch.cuda.get_device_properties(0).total_memory if cuda else None,
        disk=shutil.disk_usage(request.place).free,
        flops=flops,
    )
