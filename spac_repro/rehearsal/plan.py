"""What a rehearsal computes: its rows, its two sizes and two depths, and how often the whole run does each stage."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from spac_repro import engines, methods, suites
from spac_repro.data.preferences import Preference
from spac_repro.data.rendering import Renderer
from spac_repro.data.sources import Inputs
from spac_repro.errors import UserError
from spac_repro.evaluation.leaderboard import scoring
from spac_repro.methods import ReferenceMethodSettings
from spac_repro.recipe import Recipe, Run
from spac_repro.rehearsal import rows, shape
from spac_repro.rehearsal.document import SIZES, Work
from spac_repro.rehearsal.shape import Shape

# Optimizer steps of a visit: three before it is interrupted, and three after it is resumed. The first of each three is not counted,
# and the median of the other four bears one that something disturbed.
STEPS = 6
INTERRUPTED_AFTER = 3


@dataclass(frozen=True)
class Batch:
    """How many rows and tokens one process computes at once, at size 1."""

    step: int  # examples of an optimizer step
    decoded: int  # prompts that are decoded at the same time
    micro_batch_tokens: int
    prompt_limit: int
    response_limit: int


@dataclass(frozen=True)
class Plan:
    """A rehearsal before it is carried out."""

    run: Run  # the whole run, with the processes that rehearse it
    inputs: Inputs  # world and questions; its preferences are the candidates
    shape: Shape
    depths: tuple[int, ...]
    batch: Batch
    pairs: int  # preference pairs of the whole run
    lengths: rows.Lengths  # of the whole run
    cut: rows.Lengths  # as the rehearsal cuts them
    row_source: str
    heldout: int  # pairs of the whole run that are held out
    questions: Mapping[str, int]  # of the whole run, by task
    notes: tuple[str, ...]

    @property
    def responses(self) -> int:
        """Responses of an example."""
        return len(methods.get(self.run.method).responses)

    @property
    def limit(self) -> int:
        """Questions of each task at size 1: a batch, of an even number."""
        return 2 * max(1, math.ceil(self.run.recipe.evaluation.batch_size / 2))

    def number_of_rows(self, size: float) -> int:
        """Preference pairs of a visit: as many as are decoded at the same time, and as two optimizer steps take."""
        processes = self.run.recipe.training.processes
        return processes * max(_scaled(self.batch.decoded, size), 2 * _scaled(self.batch.step, size))

    def lines(self) -> list[str]:
        """What will be done, and what the user must know, before it begins."""
        numbers = " and ".join(str(self.number_of_rows(size)) for size in SIZES)
        depths = " and ".join(map(str, self.depths))
        batch, names = self.batch, f"{self.run.recipe.name} · {self.run.method}"
        return [
            f"{names}: {depths} of {self.shape.layers} layers, each with {numbers} preference pairs; prompts of at most "
            f"{batch.prompt_limit} tokens, responses of {batch.response_limit}",
            *(f"note: {note}" for note in self.notes),
        ]

    def at(self, size: float) -> Run:
        """The run of a visit: one iteration of a few steps on few rows, with everything else as in the recipe."""
        recipe, batch, number = self.run.recipe, self.batch, self.number_of_rows(size)
        training, evaluation, selfplay = recipe.training, recipe.evaluation, recipe.selfplay
        step, decoded = training.processes * _scaled(batch.step, size), _scaled(batch.decoded, size)
        limits = {"max_prompt_tokens": batch.prompt_limit, "max_response_tokens": batch.response_limit}
        start = recipe.supervised_start
        updates: dict[str, Any] = {
            "data": recipe.data.model_copy(
                update={
                    **limits,
                    "max_pairs": None,
                    "overlong_prompts": "truncate",
                    "heldout_prompts": recipe.data.heldout_prompts if self.inputs.heldout else None,
                }
            ),
            "selfplay": selfplay.model_copy(
                update={"prompts_per_seed": decoded, "decode_batch_size": decoded if selfplay.decode_batch_size else None}
            ),
            "supervised_start": start
            and start.model_copy(update={"num_demonstrations": STEPS * start.global_batch_size, "epochs": 1}),
            "training": training.model_copy(
                update={
                    "iterations": 1,
                    "epochs_per_iteration": math.ceil(STEPS * step / number),
                    "global_batch_size": step,
                    "micro_batch_tokens": _scaled(batch.micro_batch_tokens, size),
                    "save_steps": 10**9,
                    "save_total_limit": 1,
                }
            ),
            "evaluation": evaluation.model_copy(
                update={
                    "suite": evaluation.suite if self.questions else suites.NONE,
                    "tasks": evaluation.tasks if self.questions else None,
                    "limit": _scaled(self.limit, size),
                    "gold_prompts": min(evaluation.gold_prompts, number),
                    "heldout_pairs": min(evaluation.heldout_pairs, number),
                }
            ),
        }
        return replace(self.run, recipe=recipe.model_copy(update=updates))

    def work(self) -> dict[str, Work]:
        """How often the whole run does each stage, by its name, and how much more of it than a visit of size 1."""
        recipe, method, pairs = self.run.recipe, methods.get(self.run.method), self.pairs
        training, evaluation, batch = recipe.training, recipe.evaluation, self.batch
        iterations, processes = training.iterations, training.processes
        steps = math.ceil(pairs / training.global_batch_size) * training.epochs_per_iteration
        example, cut = self.lengths.example(self.responses), self.cut.example(self.responses)
        decoded, rows_of_visit = _decoded(recipe), self.number_of_rows(1.0)
        tokens = (training.global_batch_size / processes * example) / (batch.step * cut)
        generated = (decoded * self.lengths.example(1)) / (batch.decoded * self.cut.example(1))
        micro = training.micro_batch_tokens / batch.micro_batch_tokens
        of_start = (
            isinstance(self.run.method_settings, ReferenceMethodSettings) and self.run.method_settings.reference_policy == "start"
        )
        again = iterations - 1 if of_start and method.uses_self_play else 0
        references = (1 if of_start and not method.uses_self_play else iterations) if method.has_reference else 0
        iterates = iterations + 1
        loads = iterations + again + iterates + (iterations if engines.get(training.engine).shards_optimizer else 0)
        saved = iterations * ((steps - 1) // training.save_steps)
        found = {
            "load": Work(count=loads),
            "hash": Work(count=loads + iterates),
            "save": Work(count=iterates),
            "engine": Work(count=iterations),
            "self-play": Work(count=iterations * math.ceil(pairs / decoded / processes), times=generated, most=generated),
            "reference log-probabilities": Work(count=references * pairs * example / (rows_of_visit * cut), most_tokens=micro),
            "step": Work(count=iterations * steps, times=tokens, most_tokens=micro),
            "checkpoint write": Work(count=saved),
            "checkpoint check": Work(count=0),
            "checkpoint read": Work(count=0),
            "gather": Work(count=iterations),
            "training": Work(count=iterations),
            "audit": Work(count=iterations * pairs / rows_of_visit),
            "sample responses": Work(count=iterates),
            "gold reward": Work(count=iterates * evaluation.gold_prompts / rows_of_visit),
            "held-out preferences": Work(count=iterates * self.heldout / rows_of_visit),
            **{task: Work(count=iterates, times=number / self.limit, by_rows=True) for task, number in self.questions.items()},
        }
        if start := recipe.supervised_start:
            total = math.ceil(start.num_demonstrations / start.global_batch_size) * start.epochs
            found["supervised step"] = Work(count=total)
        return found


def _scaled(number: int, size: float) -> int:
    return max(1, round(number * size))


def _decoded(recipe: Recipe) -> int:
    """Prompts that one process decodes at the same time."""
    return recipe.selfplay.decode_batch_size or recipe.selfplay.prompts_per_seed


def make(
    run: Run, inputs: Inputs | None, depths: tuple[int, ...], found: Shape, tokens: int | None, notes: tuple[str, ...]
) -> Plan:
    """Plan a rehearsal.

    Args:
        run: the run, with the processes that rehearse it.
        inputs: the data and questions; where no data is at hand, lengths are drawn.
        depths: numbers of layers.
        found: the shape of the policy.
        tokens: most tokens that a process computes in a batch; None: as in the recipe.
        notes: what the user must know.

    Raises:
        UserError: so few tokens hold no two examples.
    """
    recipe, names = run.recipe, methods.get(run.method).responses
    at_hand = inputs.preferences if inputs else ()
    pairs = len(at_hand) or recipe.data.max_pairs
    assert pairs is not None  # `measure.inputs_at_hand` has checked it
    limits = recipe.data.max_prompt_tokens, recipe.data.max_response_tokens
    pool = rows.candidates(at_hand) if at_hand else rows.drawn(*limits, bytewise=found.stand_in)
    where = f"the lengths of the first {len(pool)} pairs of the data"
    if not at_hand:
        where = f"drawn lengths: log-normal, with means of {rows.PROMPT} and {rows.RESPONSE} tokens before they are cut [assumed]"
    lengths = _lengths(found, recipe, pool, *limits)
    batch = _batch(recipe, lengths, len(names), tokens)
    cut = _lengths(found, recipe, pool, batch.prompt_limit, batch.response_limit)
    questions, more = _questions(run, inputs, found)
    kept = inputs.heldout if inputs else ()
    given = Inputs(
        pool, inputs.world if inputs else None, inputs.questions if inputs else None, heldout=list(islice(kept, rows.CANDIDATES))
    )
    held = recipe.evaluation.heldout_pairs or len(kept)
    return Plan(run, given, found, depths, batch, pairs, lengths, cut, where, held, questions, (*notes, *more))


def renderer(found: Shape, recipe: Recipe, prompt_limit: int, response_limit: int) -> Renderer:
    """A renderer with these limits in tokens."""
    limits = {"max_prompt_tokens": prompt_limit, "max_response_tokens": response_limit, "overlong_prompts": "truncate"}
    return Renderer(found.tokenizer, recipe.data.model_copy(update=limits))


def _lengths(found: Shape, recipe: Recipe, pool: list[Preference], prompt_limit: int, response_limit: int) -> rows.Lengths:
    return rows.mean_lengths(renderer(found, recipe, prompt_limit, response_limit).tokenize(pool))


def _batch(recipe: Recipe, lengths: rows.Lengths, responses: int, tokens: int | None) -> Batch:
    """The recipe's batches, or smaller ones: fewer rows, and shorter ones where two rows are still too many tokens.

    Raises:
        UserError: so few tokens hold no two examples.
    """
    data, training = recipe.data, recipe.training
    step, decoded = math.ceil(training.global_batch_size / training.processes), _decoded(recipe)
    if tokens is None:
        return Batch(step, decoded, training.micro_batch_tokens, data.max_prompt_tokens, data.max_response_tokens)
    if tokens < 16 * (1 + responses):
        raise UserError(f"--tokens {tokens} holds no two examples; give at least {16 * (1 + responses)}")
    prompt, response = data.max_prompt_tokens, data.max_response_tokens
    if 2 * lengths.example(responses) > tokens:
        share = tokens / 2 / (prompt + responses * response)
        prompt, response = int(prompt * share), int(response * share)
    short = rows.Lengths(min(lengths.prompt, prompt), min(lengths.response, response))
    return Batch(
        step=min(step, max(2, int(tokens / short.example(responses)))),
        decoded=min(decoded, max(2, int(tokens / short.example(1)))),
        micro_batch_tokens=min(training.micro_batch_tokens, tokens),
        prompt_limit=prompt,
        response_limit=response,
    )


def _questions(run: Run, inputs: Inputs | None, found: Shape) -> tuple[dict[str, int], list[str]]:
    """The number of questions of each task of the whole run; none, and why, where they are not at hand."""
    evaluation = run.recipe.evaluation
    if not evaluation.suite.has_tasks:
        return {}, []
    if found.stand_in:
        return {}, ["the leaderboard is not rehearsed: the policy's tokenizer is not at hand"]
    questions, world = (inputs.questions, inputs.world) if inputs else (None, None)
    if questions is None and world is None:
        return {}, ["the leaderboard is not rehearsed: its questions are not at hand; name them with --questions"]
    asked = scoring.read_questions(
        evaluation.suite, tasks=evaluation.tasks, questions_folder=questions, world=world, limit=evaluation.limit
    )
    return {task.name: sum(len(splits[task.test_split]) for splits in parts.values()) for task, parts in asked.items()}, []


def stops(plan: Plan, chosen: list[Preference], size_run: Run) -> list[int]:
    """Stop tokens that none of the rows has, with which responses have the data's mean length."""
    data = size_run.recipe.data
    tokenized = renderer(plan.shape, size_run.recipe, data.max_prompt_tokens, data.max_response_tokens).tokenize(chosen)
    used = {token for column in (tokenized.prompt, tokenized.chosen, tokenized.rejected) for row in column for token in row}
    return shape.stops_for(plan.shape, used, plan.cut.response)


def folder_name(layers: int, size: float) -> Path:
    """The run folder of a visit, in the folder of the rehearsal."""
    return Path(f"{layers}-layers-{'half' if size < 1 else 'full'}")
