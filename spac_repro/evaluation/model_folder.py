"""Evaluation of a model folder, or of the last iterate of a run, on a suite (`spac-repro evaluate`)."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from spac_repro import protocols
from spac_repro.data import sources
from spac_repro.documents.location import NamedSource
from spac_repro.documents.validation import validate
from spac_repro.errors import UserError
from spac_repro.evaluation.leaderboard import scoring
from spac_repro.model import adapter_folder, policy, precision
from spac_repro.progress import Progress
from spac_repro.recipe import WorldSettings
from spac_repro.runs import iterates
from spac_repro.runs.answers import Answers
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.iterates import ModelFolder
from spac_repro.suites import Suite


def evaluate(
    target: Path,
    suite: Suite,
    *,
    questions_folder: Path | None,
    tasks: Sequence[str] | None,
    limit: int | None,
    batch_size: int,
    base: Path | None = None,
    progress: Progress,
    protocol: str = protocols.CURRENT,
) -> Answers:
    """Ask a model the questions of a suite.

    Args:
        target: a run folder (its last iterate is scored), an iterate's policy folder, any Hugging Face model folder, or
            an adapter folder.
        suite: the suite.
        questions_folder: the folder with the questions; None: they come from the hub, or from the built-in world.
        tasks: names of tasks; None: all tasks of the suite.
        limit: at most this many questions per task.
        batch_size: affects speed, and scores only by rounding.
        base: the folder of an adapter's base; None: where the adapter or its run says that it is.
        progress: told how many requests are answered.
        protocol: the name of the evaluation protocol.

    Raises:
        UserError: not a model or run folder, pickle weights, an unknown task, bad questions, an adapter of another base, or a suite
            about the built-in world for a model whose run does not use it.
    """
    scoring.select_tasks(suite.under(protocols.get(protocol).name), tasks)
    folder = iterates.find(target)
    settings = _world(folder.run)
    model, tokenizer = _load(folder, base)
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
            protocol=protocol,
        )


def _load(folder: ModelFolder, base: Path | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model folder, or an adapter folder on its base, which is the start policy where the adapter belongs to a run."""
    if adapter_folder.is_adapter(folder.path):
        return adapter_folder.load(folder.path, base=base or folder.base())
    if base is not None:
        raise UserError(f"{folder.path} is a whole model and has no base; omit --base")
    return policy.load(folder.path)


def _world(run: RunFolder | None) -> WorldSettings | None:
    settings = run.manifest.settings.get("data", {}).get("world") if run else None
    if run is None or settings is None:
        return None
    return validate(WorldSettings, settings, NamedSource(str(run.manifest_file), ("settings", "data", "world")))
