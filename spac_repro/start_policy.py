"""Iteration 0: the start policy π_0, before any preference pair.

It comes from supervised training on demonstrations where the recipe asks for that; otherwise it is the model that the recipe names.
It depends on the recipe and the seed but not on the method, so several runs can use one start policy.
"""

import os
import random
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from spac_repro import engines
from spac_repro.data import tokenizers
from spac_repro.data.example import TokenizedExample
from spac_repro.errors import UserError
from spac_repro.model.packing import pack
from spac_repro.model.policy import Policy
from spac_repro.optim import distributed
from spac_repro.optim.engine import EngineFactory
from spac_repro.optim.loop import CheckpointPolicy, Objective, Schedule, create_optimizer, training_loop
from spac_repro.optim.metrics_writer import MetricsWriter
from spac_repro.publish.model_card import model_card
from spac_repro.recipe import complete, start_settings
from spac_repro.run_context import RunContext
from spac_repro.runs import file_hashes, files, ownership
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.iteration import CARD
from spac_repro.runs.manifest import Manifest, leaf_differences

FEW_SHOT_TURNS = 6  # demonstrations in a few-shot row: the mini leaderboard asks a question after five shots


def prepare(context: RunContext, model: PreTrainedModel, metrics: MetricsWriter) -> None:
    """Leave the start policy in the run folder, unless it is there.

    One process computes it, even in a run of several: only the built-in world has a supervised start, which takes a minute, and so
    the start policy is the same for any number of processes.

    Args:
        context: the run.
        model: the policy as the recipe creates it.
        metrics: gets a line for every optimizer step.
    """
    if context.folder.iteration(0).has_policy:
        shutil.rmtree(context.folder.iteration(0).checkpoints, ignore_errors=True)  # where a killed process left them
        return
    settings = context.recipe.supervised_start
    with distributed.as_single_process(), context.timed(0, "supervised start" if settings else "start"):
        if settings is not None:
            _train_supervised(context, model, metrics)
        context.save_policy(0, model)
        shutil.rmtree(context.folder.iteration(0).checkpoints, ignore_errors=True)


def _train_supervised(context: RunContext, model: PreTrainedModel, metrics: MetricsWriter) -> None:
    settings, world, training = context.recipe.supervised_start, context.inputs.world, context.recipe.training
    folder = context.folder.iteration(0)
    assert settings is not None
    assert world is not None  # the recipe was checked for it
    demonstrations = world.demonstrations(settings.num_demonstrations)
    schedule = Schedule(
        # Every length is 1, so that a step is one micro-batch: splitting it would change which demonstrations share a row.
        lengths=[1] * len(demonstrations),
        batch_size=settings.global_batch_size,
        micro_batch_tokens=settings.global_batch_size,
        epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="linear",
        warmup_ratio=settings.warmup_ratio,
        seed=(context.run.seed, "order", 0),
    )
    policy = Policy(model).to(context.device).train()
    optimizer = create_optimizer("adamw", policy, weight_decay=settings.weight_decay)
    training_loop(
        EngineFactory(engines.REPLICATED, policy, optimizer, training.max_grad_norm, bfloat16=training.compute_dtype == "bfloat16"),
        partial(
            make_objective,
            tokenizer=context.renderer.tokenizer,
            end_token_id=context.renderer.end_token_id,
            demonstrations=demonstrations,
            few_shot_fraction=settings.few_shot_fraction,
        ),
        schedule,
        iteration=0,
        checkpointing=CheckpointPolicy(
            folder.checkpoints, training.save_steps, training.save_total_limit, context.computed_from(0)
        ),
        metrics=metrics,
        warn=context.progress.message,
        advance=context.progress.update,
    )


def make_objective(
    policy: Any, *, tokenizer: Any, end_token_id: int, demonstrations: Sequence[tuple[str, str]], few_shot_fraction: float
) -> Objective:
    """Make the supervised loss: −log π(response | what precedes it), divided by the mean response length in tokens.

    In most steps every demonstration is a row of its own and ends with `end_token_id`. In a share of the steps, several
    demonstrations form one row as in a few-shot prompt, each followed by a line break. Such a row begins with a line break, so that
    the model can tell the two kinds apart from the first token on.

    Args:
        policy: a `Policy`, or an engine's wrapper around one.
        tokenizer: the policy's tokenizer.
        end_token_id: ends a response.
        demonstrations: (prompt, response) pairs.
        few_shot_fraction: the share of steps with few-shot rows. The step's examples decide, so a resumed run makes the same.

    Returns:
        An objective over the demonstrations' indices. In a few-shot step it returns one loss per row: [rows].
    """
    prompts = [tokenizers.token_ids(tokenizer, prompt) for prompt, _ in demonstrations]
    responses = [tokenizers.token_ids(tokenizer, response) for _, response in demonstrations]
    bos = tokenizers.bos_token_id(tokenizer)
    newline = tokenizers.token_ids(tokenizer, "\n")
    mean_length = 1 + sum(map(len, responses)) / len(responses)

    def single_row(i: int) -> TokenizedExample:
        return _row([([bos, *prompts[i]], [*responses[i], end_token_id])])

    def few_shot_row(indices: Sequence[int]) -> TokenizedExample:
        return _row([([bos, *newline], []), *((prompts[i], [*responses[i], *newline]) for i in indices)])

    def objective(examples: Sequence[int]) -> tuple[Tensor, dict[str, Tensor]]:
        if random.Random(f"few-shot {examples[0]}").random() < few_shot_fraction:
            rows = [few_shot_row(examples[i : i + FEW_SHOT_TURNS]) for i in range(0, len(examples), FEW_SHOT_TURNS)]
        else:
            rows = [single_row(i) for i in examples]
        return -policy(pack(rows, device=policy.model.device)) / mean_length, {}

    return objective


def _row(turns: Sequence[tuple[list[int], list[int]]]) -> TokenizedExample:
    """Concatenate (prompt tokens, target tokens) turns into one row; the first token is its prompt, only targets have a loss."""
    tokens = [token for prompt, target in turns for token in (*prompt, *target)]
    targets = [is_target for prompt, target in turns for is_target in (*[False] * len(prompt), *[True] * len(target))]
    return TokenizedExample(tokens[:1], [tokens[1:]], [targets[1:]])


# The start policy of another run


def check_reusable(other: Path, manifest: Manifest) -> None:
    """Check that the start policy of another run is, bit for bit, the one that the run of this manifest would compute.

    Raises:
        UserError: that folder has no finished start policy, or its settings, seed, inputs or environment differ.
    """
    folder = RunFolder(other)
    if not (folder.has_manifest and folder.iteration(0).finished):
        raise UserError(f"{other} has no finished start policy; make one with this command, --until 0 and --out {other}")
    file_hashes.check(folder)
    file_hashes.check_iterate(folder, 0)
    theirs = folder.manifest
    if theirs.segments:
        raise UserError(
            f"{other} was computed in more than one environment, so its start policy cannot be reused; omit --start-from"
        )
    for key, their_value, our_value in leaf_differences(_start_identity(theirs), _start_identity(manifest)):
        raise UserError(
            f"the start policy of {other} is not this run's: {key} is {their_value!r} there and {our_value!r} here; "
            "omit --start-from"
        )


def _start_identity(manifest: Manifest) -> dict[str, Any]:
    """The part of a manifest that determines iteration 0. Neither the plugins of methods and engines nor an adapter take part."""
    environment = {name: value for name, value in manifest.environment.items() if name not in ("plugins", "adapter")}
    settings = start_settings(complete(manifest.settings))
    return {"seed": manifest.seed, "inputs": manifest.inputs, "environment": environment, "settings": settings}


def reuse(context: RunContext, other: Path) -> None:
    """Link iteration 0 of another run, checked by `check_reusable`, into this run's folder, with a model card of its own."""
    source, target = RunFolder(other).iteration(0), context.folder.iteration(0)
    if target.has_policy:
        return
    context.progress.start_stage("iteration 0: reused")
    ownership.make_folder(target.path)
    for file in (source.gold_file, source.heldout_file, source.answers_file, source.samples_file, source.scores_file):
        if file.exists() and not (target.path / file.name).exists():
            file_hashes.link(context.folder, file, target.path / file.name)
    steps = [step for step in RunFolder(other).metrics() if step.iteration == 0]
    files.write_bytes(context.folder.metrics_file, b"".join(step.encode() for step in steps))
    entered = file_hashes.finish_iteration(context.folder, target.policy)
    with files.atomic_folder(target.policy, before_rename=entered) as policy:  # last, because it marks the iteration as done
        for file in source.policy.iterdir():
            if file.name != CARD:
                _link(file, policy / file.name)
        files.write_bytes(policy / CARD, model_card(context.run, 0).encode())


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)
