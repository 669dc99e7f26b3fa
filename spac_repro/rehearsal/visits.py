"""A visit: a small run by the pipeline itself, stopped by a signal and resumed, and what was measured in it."""

import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median

from spac_repro import pipeline
from spac_repro.documents.errors import one_line
from spac_repro.errors import UnfitEnvironmentError
from spac_repro.model import freed_memory
from spac_repro.optim import distributed, signals
from spac_repro.recipe import Run
from spac_repro.rehearsal import plan as plans
from spac_repro.rehearsal import rows, shape
from spac_repro.rehearsal.document import Measured
from spac_repro.rehearsal.interruption import Interrupter
from spac_repro.rehearsal.meter import Meter, Occurrence
from spac_repro.rehearsal.plan import Plan


def visit(
    plan: Plan,
    layers: int,
    size: float,
    place: Path,
    clock: Callable[[], float] = time.perf_counter,
    interrupter: Interrupter | None = None,
) -> dict[str, Measured]:
    """Carry out a small run with the pipeline itself, stop it by a signal in its training, and resume it.

    Args:
        plan: the rehearsal.
        layers: the depth.
        size: of the rows.
        place: where the run folder is made; it is removed afterwards.
        clock: of the measurement.
        interrupter: sends the signal; None: one that shows no progress.

    Returns:
        What was measured, by stage.
    """
    run, folder = plan.at(size), place / plans.folder_name(layers, size)
    chosen = rows.spread(plan.inputs.preferences, plans.renderer(plan.shape, run.recipe, *_limits(run)), plan.number_of_rows(size))
    stops = plans.stops(plan, chosen, run)
    meter, interrupter = Meter(clock), interrupter or Interrupter()
    attempts: list[list[Occurrence]] = []
    signals.install_handlers()
    try:
        for _ in range(2):
            meter.ended = []
            try:
                with _memory_errors(layers), meter.measuring(int(plan.shape.config.vocab_size)):
                    pipeline.train(
                        run,
                        folder,
                        replace(plan.inputs, preferences=chosen, heldout=plan.inputs.heldout[: plan.number_of_rows(size)]),
                        allow_changed_environment=False,
                        create_policy=lambda settings, *, seed, check_tokenizer: (
                            shape.create(plan.shape, layers, seed, stops),
                            plan.shape.tokenizer,
                        ),
                        progress=interrupter,
                    )
            except signals.Stopped:
                if not distributed.any_process(interrupter.sent) or attempts:
                    raise
                signals.forget()
            attempts.append(meter.ended)
        found = _largest(_measured(attempts))  # all processes are done with the folder
    finally:
        if distributed.is_main_process():
            shutil.rmtree(folder, ignore_errors=True)
    freed_memory.release()
    return found


def _limits(run: Run) -> tuple[int, int]:
    return run.recipe.data.max_prompt_tokens, run.recipe.data.max_response_tokens


@contextmanager
def _memory_errors(layers: int) -> Iterator[None]:
    """Turn an allocation that fails into an error of one line."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        raise UnfitEnvironmentError(
            f"does not fit: memory ran out with {layers} layers ({one_line(str(error), 80)}); rehearse fewer layers with --layers, "
            "or fewer tokens with --tokens"
        ) from None


def _measured(attempts: Iterable[list[Occurrence]]) -> dict[str, Measured]:
    """The medians of each stage. The first optimizer step of an attempt is left out: it also makes what later ones use again."""
    by_name: dict[str, list[Occurrence]] = {}
    for ended in attempts:
        began: set[str] = set()
        for each in ended:
            repeated = each.name.endswith("step")
            if repeated and each.name not in began:
                began.add(each.name)
                continue
            by_name.setdefault(each.name, []).append(each)
    return {name: _median(found) for name, found in by_name.items()}


def _median(found: list[Occurrence]) -> Measured:
    tokens = fmean(each.tokens for each in found)
    by_token = tokens and all(each.tokens for each in found)  # steps have unequally many

    def middle(value: Callable[[Occurrence], float]) -> float:
        return tokens * median(value(each) / each.tokens for each in found) if by_token else median(map(value, found))

    return Measured(
        seconds=middle(lambda each: each.seconds),
        layer_seconds=middle(lambda each: each.layer_seconds),
        update_seconds=middle(lambda each: each.update_seconds),
        tokens=tokens,
        most_tokens=max(each.most_tokens for each in found),
        host=max(each.host for each in found),
        device=None if found[0].device is None else max(each.device or 0 for each in found),
    )


def _largest(own: dict[str, Measured]) -> dict[str, Measured]:
    """The main process's stages, with the largest peaks of all processes."""
    everyone = distributed.all_gather({distributed.rank(): own})

    def largest(name: str) -> Measured:
        theirs = [stages[name] for stages in everyone.values() if name in stages]
        devices = [each.device for each in theirs if each.device is not None]
        return theirs[0].model_copy(
            update={
                **{part: max(getattr(each, part) for each in theirs) for part in ("seconds", "layer_seconds", "update_seconds")},
                "host": max(each.host for each in theirs),
                "device": max(devices) if devices else None,
            }
        )

    return {name: largest(name) for name in everyone[0]}
