"""Evaluation of a model folder, or of the last iterate of a run, on a suite (`spac-repro evaluate`)."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch

from spac_repro.data import sources
from spac_repro.documents.location import NamedSource
from spac_repro.documents.validation import validate
from spac_repro.errors import UserError
from spac_repro.evaluation.leaderboard import scoring
from spac_repro.model import policy, precision
from spac_repro.progress import Progress
from spac_repro.recipe import WorldSettings
from spac_repro.runs import file_hashes
from spac_repro.runs.answers import Answers
from spac_repro.runs.folder import RunFolder, number_of_iterate, run_of_policy
from spac_repro.suites import Suite


def evaluate(
    target: Path,
    suite: Suite,
    *,
    questions_folder: Path | None,
    tasks: Sequence[str] | None,
    limit: int | None,
    batch_size: int,
    progress: Progress,
) -> Answers:
    """Ask a model the questions of a suite.

    Args:
        target: a run folder (its last iterate is scored), an iterate's policy folder, or any Hugging Face model folder.
        suite: the suite.
        questions_folder: the folder with the questions; None: they come from the hub, or from the built-in world.
        tasks: names of tasks; None: all tasks of the suite.
        limit: at most this many questions per task.
        batch_size: affects speed, and scores only by rounding.
        progress: told how many requests are answered.

    Raises:
        UserError: not a model or run folder, pickle weights, an unknown task, bad questions, or a suite about the built-in world
            for a model whose run does not use it.
    """
    scoring.select_tasks(suite, tasks)
    folder, settings = _model_folder_and_world(target)
    model, tokenizer = policy.load(folder)
    policy.use_packed_attention(model, "sdpa")
    model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))  # type: ignore[arg-type]
    model.eval()  # type: ignore[no-untyped-call]
    if suite.uses_world and settings is None:
        raise UserError(f"{target}: the suite {suite.name} asks about the built-in world; give a run whose recipe uses it")
    with precision.emulate_bf16_matmul() if model.dtype == torch.bfloat16 else nullcontext():  # as in the run that made it
        return scoring.ask(
            model,
            tokenizer,
            suite,
            tasks=tasks,
            questions_folder=questions_folder,
            world=sources.build_world(settings) if settings else None,
            limit=limit,
            batch_size=batch_size,
            weights_sha256=policy.weights_sha256(model),
            progress=lambda task, done, total: progress.update(done, total),
        )


def _model_folder_and_world(target: Path) -> tuple[Path, WorldSettings | None]:
    """The model folder of `target`, and the built-in world of its run; None if it has none."""
    if not target.is_dir():
        raise UserError(f"{target}: no such folder; give a Hugging Face model folder or a run folder")
    if not RunFolder(target).has_manifest:
        run = run_of_policy(target)
        number = number_of_iterate(target)
        if run and number is not None:
            file_hashes.check_iterate(run, number)
        return target, _world(run)
    run = RunFolder.open(target)
    last = run.last_iterate()
    if last is None:
        raise UserError(f"{target}: the run has no finished iterate yet; repeat its train command")
    if run.complete and last.number != run.results.iterations[-1].iteration:
        raise UserError(f"{target}: its last iterate was removed; to score an earlier one, name its folder, such as {last.policy}")
    file_hashes.check_iterate(run, last.number)
    return last.policy, _world(run)


def _world(run: RunFolder | None) -> WorldSettings | None:
    settings = run.manifest.settings.get("data", {}).get("world") if run else None
    if run is None or settings is None:
        return None
    return validate(WorldSettings, settings, NamedSource(str(run.manifest_file), ("settings", "data", "world")))
