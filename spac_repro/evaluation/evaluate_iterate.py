"""The evaluation of one iterate: gold reward, held-out preferences, leaderboard; and sample responses for the report."""

from dataclasses import replace

from transformers import PreTrainedModel

from spac_repro.evaluation import contamination, gold, heldout
from spac_repro.evaluation.leaderboard import scoring
from spac_repro.optim import distributed
from spac_repro.run_context import RunContext
from spac_repro.runs import file_hashes
from spac_repro.runs.results import Score
from spac_repro.sampling import selfplay
from spac_repro.seeds import derive_seed

NUM_SAMPLES = 12  # prompts that every iterate answers for the report


def score(context: RunContext, t: int) -> None:
    """Score iterate t and write scores and samples into the run folder, unless they exist.

    Iteration 0 also leaves what later iterates are compared with. An iterate of which a file was removed is scored again.
    """
    iteration, settings = context.folder.iteration(t), context.recipe.evaluation
    needed = [iteration.scores_file, iteration.samples_file]
    needed += [iteration.gold_file] if t == 0 and settings.gold_prompts else []
    needed += [iteration.heldout_file] if t == 0 and context.recipe.has_heldout else []
    if all(map(distributed.exists_on_main_process, needed)):
        return
    model = context.load_policy(t).to(context.device).eval()  # type: ignore[arg-type]  # the stubs know no torch.device
    scores = gold.measure(context, t, model) if settings.gold_prompts else []
    if context.recipe.has_heldout:
        scores += heldout.measure(context, t, model)
    if settings.suite.has_tasks:
        with context.timed(t, "leaderboard"):
            scores += _leaderboard_scores(context, model)
    samples = _sample_responses(context, t, model)

    def write() -> None:
        file_hashes.write_json(context.folder, iteration.samples_file, samples)
        file_hashes.write_json(context.folder, iteration.scores_file, [score.as_dict() for score in scores])

    distributed.on_main_process(write)


def _leaderboard_scores(context: RunContext, model: PreTrainedModel) -> list[Score]:
    settings = context.recipe.evaluation
    scores = scoring.evaluate(
        model,
        context.renderer.tokenizer,
        settings.suite,
        tasks=settings.tasks,
        questions_folder=context.inputs.questions,
        world=context.inputs.world,
        limit=settings.limit,
        batch_size=settings.batch_size,
        progress=lambda task, done, total: context.progress.update(done, total),
    )
    notes = contamination.notes(context)
    return [replace(score, note="; ".join(filter(None, (score.note, notes.get(score.task))))) for score in scores]


def _sample_responses(context: RunContext, t: int, model: PreTrainedModel) -> list[str]:
    """Responses of iterate t to the first prompts, as text. Runs of DPO hold no other responses of a policy."""
    responses = selfplay.sample_responses(
        model,
        context.examples.prompt[:NUM_SAMPLES],
        context.recipe.selfplay,
        max_response_tokens=context.recipe.data.max_response_tokens,
        pad_token_id=context.renderer.pad_token_id,
        stop_token_ids=context.renderer.stop_token_ids,
        seed=derive_seed(context.run.seed, "samples", t),
    )
    return [context.renderer.decode(response) for response in responses]
