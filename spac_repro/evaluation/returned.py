"""The policies that a run can return, with the scores that its iterates have.

* an iterate: the last one, as most methods return, or one that is chosen by a score.
* the *mixture*: one of the iterates 1 … T is drawn uniformly, and answers. SPAC's guarantee is about it (docs/method.md). Its
  scores follow exactly from the answers of the iterates.
* the *average* of the iterates' weights (`model.weight_average`). Its scores are measured: responses are sampled and
  log-probabilities computed as for an iterate.

Mixture and average are also taken with the start policy as one more iterate: the theory's first iterate is the start.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from spac_repro.data import dataset, sources
from spac_repro.data.rendering import Renderer
from spac_repro.errors import UserError
from spac_repro.evaluation import gold, heldout
from spac_repro.evaluation.gold import GoldRewards
from spac_repro.model import generation_config, precision, weight_average
from spac_repro.model.policy import Policy
from spac_repro.progress import Progress
from spac_repro.recipe import Run
from spac_repro.runs import answer_scores, file_hashes, files
from spac_repro.runs.answers import TaskAnswers
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.results import Score
from spac_repro.seeds import derive_seed
from spac_repro.trust import rerun

TASKS = ("gold", "heldout")  # of the leaderboard, `evaluate` asks an exported average
Tables = dict[str, TaskAnswers]  # by task


@dataclass(frozen=True)
class Returned:
    """A policy that a run can return, with its scores."""

    policy: str  # "start", "iterate 3", "mixture", "average with the start"
    scores: tuple[Score, ...]

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return asdict(self)


def recorded(folder: Path) -> Run:
    """The run that a finished run folder records.

    Raises:
        UserError: not the folder of a finished run, or of another version.
    """
    run = RunFolder.open(folder)
    if not run.complete:
        raise UserError(f"{folder}: the run is unfinished; repeat its `train` command to go on")
    from_folder = run.manifest.settings.get("policy", {}).get("source") == "folder"
    return rerun.recorded_run(folder, policy=run.iteration(0).policy if from_folder else None)


def score(folder: Path, progress: Progress) -> list[Returned]:
    """Score every policy that a finished run can return on gold reward and held-out preferences, as far as the run measured them.

    Args:
        folder: the run folder. Nothing is written into it.
        progress: where to report.

    Raises:
        UserError: the run is unfinished, kept no answers, or measured neither score; an iterate was removed, or a file was changed.
    """
    recipe_run, run = recorded(folder), file_hashes.open_checked(folder)
    numbers = [each.iteration for each in run.results.iterations]
    iterates = [_answers(run, t) for t in numbers]
    found = [Returned("start" if t == 0 else f"iterate {t}", _scores(tables)) for t, tables in zip(numbers, iterates, strict=True)]
    ranges = {"": numbers[1:], " with the start": numbers}
    for suffix, chosen in ranges.items():
        found.append(Returned(f"mixture{suffix}", _scores(_mixture([iterates[t] for t in chosen], iterates[0]))))
    for suffix, chosen in ranges.items():
        progress.start_stage(f"average{suffix}")
        measured = measure(recipe_run, run, chosen, f"average{suffix}", advance=progress.update)
        found.append(Returned(f"average{suffix}", _scores(measured)))
    return found


def measure(
    recipe_run: Run, run: RunFolder, iterations: list[int], draw: str | int, *, advance: Callable[[int, int], None]
) -> Tables:
    """Measure the average of iterates as the run measured each iterate.

    Args:
        recipe_run: the recipe, method and seed of the run.
        run: the run folder.
        iterations: the numbers of the iterates.
        draw: names the draw of the responses; with one iterate and its number, they are those of the run.
        advance: called with (items done, items in all).
    """
    recipe, start = recipe_run.recipe, run.iteration(0)
    found: Tables = {}
    with precision.of(recipe):
        model, tokenizer = weight_average.of_run(run, iterations, recipe.policy)
        model = model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu")).eval()  # type: ignore[arg-type]
        if recipe.evaluation.gold_prompts and recipe.data.world is not None:
            rewards, sampled = gold.sample_rewards(
                model,
                Renderer(tokenizer, recipe.data, generation_config.stop_token_ids(model)),
                sources.build_world(recipe.data.world),
                recipe.selfplay,
                prompts=recipe.evaluation.gold_prompts,
                samples=recipe.evaluation.gold_samples_per_prompt,
                seed=derive_seed(recipe_run.seed, "gold", draw),
                advance=advance,
            )
            found["gold"] = gold.answers(rewards, GoldRewards(**files.read_json(start.gold_file)), sampled)
        if recipe.has_heldout:
            data = dataset.read(start.heldout_file, reference_sha256=start.weights_sha256, remedy="train the run again")
            batch_tokens, each = recipe.training.micro_batch_tokens, recipe.data.world is None
            found["heldout"] = heldout.answers(Policy(model), data, batch_tokens=batch_tokens, each_response=each, advance=advance)
    return found


def _answers(run: RunFolder, t: int) -> Tables:
    found = run.iteration(t).answers()
    if found is None:
        raise UserError(f"{run}: iterate {t} has no {run.iteration(t).answers_file.name}; train the run again with this version")
    tables = {task.about.name: task for task in found.tasks() if task.about.name in TASKS}
    if not tables:
        raise UserError(f"{run}: it measured neither gold reward nor held-out preferences; export an average and use `evaluate`")
    return tables


def _mixture(iterates: list[Tables], start: Tables) -> Tables:
    found: Tables = {}
    if "gold" in start:
        found["gold"] = gold.mixture([each["gold"] for each in iterates])
    if "heldout" in start:
        found["heldout"] = heldout.mixture([each["heldout"] for each in iterates], start["heldout"])
    return found


def _scores(tables: Tables) -> tuple[Score, ...]:
    return tuple(score for task in tables.values() for score in answer_scores.task_scores(task))
