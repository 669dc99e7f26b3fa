"""Iteration 0, whole: the policy before any preference.

Supervised on demonstrations where the recipe says so, the policy as it was created elsewhere; or shared with another run, since it
depends on the recipe and the seed and not on the method.
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
from spac_repro.context import Context
from spac_repro.data import tokenizers
from spac_repro.data.groups import Group
from spac_repro.errors import UserError
from spac_repro.model.packing import pack
from spac_repro.model.policy import Policy
from spac_repro.optim import processes
from spac_repro.optim.engine import Build
from spac_repro.optim.loop import CheckpointPolicy, Objective, Schedule, optimise, optimizer_for
from spac_repro.optim.metrics import Metrics
from spac_repro.publish.model_card import card
from spac_repro.recipe import complete, start_settings
from spac_repro.runs import files
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.iteration import CARD
from spac_repro.runs.manifest import Manifest, leaf_differences

FEW_SHOT = 6  # demonstrations in a few-shot row: the five shots and the question of the mini leaderboard


def make(context: Context, model: PreTrainedModel, log: Metrics) -> None:
    """Leave iterate 0 in the run folder, unless it is there. `model` is the policy as the recipe creates it.

    Never divided among processes: only the built-in world has a supervised start, of a minute, and so it is the same for any
    number of them.
    """
    if context.folder.iteration(0).has_policy:
        return
    settings = context.recipe.start
    with processes.alone(), context.timed(0, "supervised start" if settings else "start"):
        if settings is not None:
            _supervise(context, model, log)
        context.save_policy(0, model)
        shutil.rmtree(context.folder.iteration(0).checkpoints, ignore_errors=True)


def _supervise(context: Context, model: PreTrainedModel, log: Metrics) -> None:
    settings, world, training = context.recipe.start, context.inputs.world, context.recipe.training
    assert settings is not None
    assert world is not None  # the recipe's own check
    demonstrations = world.demonstrations(settings.demonstrations)
    schedule = Schedule(
        # A step at once, however long its demonstrations are: cut up, others would stand together in a row.
        sizes=[1] * len(demonstrations),
        batch_size=settings.batch_size,
        micro_batch_tokens=settings.batch_size,
        epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        shape="linear",
        warmup=settings.warmup,
        seed=(context.run.seed, "order", 0),
    )
    policy = Policy(model).to(context.device).train()
    optimizer = optimizer_for("adamw", policy, weight_decay=settings.weight_decay)
    optimise(
        Build(engines.REPLICATED, policy, optimizer, training.max_grad_norm, bfloat16=training.precision == "bfloat16"),
        partial(
            objective,
            tokenizer=context.renderer.tokenizer,
            demonstrations=demonstrations,
            few_shot_share=settings.few_shot_share,
        ),
        schedule,
        iteration=0,
        keeping=CheckpointPolicy(context.folder.iteration(0).checkpoints, training.checkpoint_every, training.checkpoints_kept),
        metrics=log,
        warn=context.progress.say,
        advance=context.progress.advance,
    )


def objective(policy: Any, *, tokenizer: Any, demonstrations: Sequence[tuple[str, str]], few_shot_share: float) -> Objective:
    """−log π(response | what stands before it), in units of the demonstrations' mean response length.

    A step's demonstrations stand alone, each with its end-of-sequence; or, in a share of the steps, several stand in a row as in
    a few-shot prompt, each but for a line break after the one before. A line break opens such a row, so that the two can be told
    apart from the first token on.
    """
    prompts = [tokenizers.tokens(tokenizer, prompt) for prompt, _ in demonstrations]
    responses = [tokenizers.tokens(tokenizer, response) for _, response in demonstrations]
    begin, stop, newline = tokenizers.begin(tokenizer), tokenizers.stop(tokenizer), tokenizers.tokens(tokenizer, "\n")
    unit = 1 + sum(map(len, responses)) / len(responses)

    def alone(i: int) -> Group:
        return _row([([begin, *prompts[i]], [*responses[i], stop])])

    def together(some: Sequence[int]) -> Group:
        return _row([([begin, *newline], []), *((prompts[i], [*responses[i], *newline]) for i in some)])

    def losses(examples: Sequence[int]) -> tuple[Tensor, dict[str, Tensor]]:
        if random.Random(f"few-shot {examples[0]}").random() < few_shot_share:
            rows = [together(examples[begin : begin + FEW_SHOT]) for begin in range(0, len(examples), FEW_SHOT)]
        else:
            rows = [alone(i) for i in examples]
        return -policy(pack(rows, device=policy.model.device)) / unit, {}

    return losses


def _row(turns: Sequence[tuple[list[int], list[int]]]) -> Group:
    """Turns of (given, learned) tokens end to end, after the first token of all."""
    tokens = [token for given, learned in turns for token in (*given, *learned)]
    marks = [mark for given, learned in turns for mark in (*[False] * len(given), *[True] * len(learned))]
    return Group(tokens[:1], [tokens[1:]], [marks[1:]])


# Sharing the start of another run


def check(other: Path, manifest: Manifest) -> None:
    """See that iteration 0 of another run is, bit for bit, what the run of this manifest would compute.

    Raises:
        UserError: there is no finished start in that folder, or it is one of other settings, seed, inputs or environment.
    """
    folder = RunFolder(other)
    if not (folder.has_manifest and folder.iteration(0).finished):
        raise UserError(f"{other} has no finished start; make one there with this command, --until 0 and --out {other}")
    there = folder.manifest
    if there.segments:
        raise UserError(f"{other} was carried out in more than one environment; its start cannot be shared")
    for key, old, new in leaf_differences(_bearing_on_it(there), _bearing_on_it(manifest)):
        raise UserError(f"the start of {other} is not this run's: {key} is {old!r} there and {new!r} here; leave --start-from out")


def _bearing_on_it(manifest: Manifest) -> dict[str, Any]:
    """What of a run bears on its iteration 0. A method or an engine from outside does not: the start is computed without either."""
    environment = {name: value for name, value in manifest.environment.items() if name != "plugins"}
    settings = start_settings(complete(manifest.settings))
    return {"seed": manifest.seed, "inputs": manifest.inputs, "environment": environment, "settings": settings}


def share(context: Context, other: Path) -> None:
    """Link iteration 0 of another run, which was checked, into this run's folder, with a card of its own; the policy comes last."""
    source, target = RunFolder(other).iteration(0), context.folder.iteration(0)
    if target.has_policy:
        return
    context.progress.stage("iteration 0: shared")
    target.path.mkdir(parents=True, exist_ok=True)
    for file in (source.gold_file, source.heldout_file, source.samples_file, source.scores_file):
        if file.exists() and not (target.path / file.name).exists():
            _link(file, target.path / file.name)
    steps = [step for step in RunFolder(other).metrics() if step.iteration == 0]
    files.write_bytes(context.folder.metrics_file, b"".join(step.encode() for step in steps))
    with files.atomic_folder(target.policy) as policy:
        for file in source.policy.iterdir():
            if file.name != CARD:
                _link(file, policy / file.name)
        files.write_bytes(policy / CARD, card(context.run, 0).encode())


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)
