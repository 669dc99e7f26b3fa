"""Everything that is measured on an iterate: gold reward, held-out preferences, leaderboard; and samples for the report."""

from dataclasses import replace

from transformers import PreTrainedModel

from spac_repro.evaluation import contamination, gold, heldout
from spac_repro.evaluation.leaderboard import scoring
from spac_repro.optim import distributed
from spac_repro.run_context import RunContext
from spac_repro.runs import record
from spac_repro.runs.results import Score
from spac_repro.sampling import selfplay
from spac_repro.seeds import derive_seed

SHOWN = 12  # prompts that every iterate answers for the report


def score(context: RunContext, t: int) -> None:
    """Leave the scores of iterate t in the run folder, unless they are there."""
    its, settings = context.folder.iteration(t), context.recipe.evaluation
    if distributed.path_exists(its.scores_file):
        return
    model = context.load_policy(t).to(context.device).eval()  # type: ignore[arg-type]  # the stubs know no torch.device
    scores = gold.measure(context, t, model) if settings.gold_prompts else []
    if settings.heldout_pairs:
        scores += heldout.measure(context, t, model)
    if settings.suite.has_tasks:
        with context.timed(t, "leaderboard"):
            scores += _leaderboard(context, model)
    samples = _samples(context, t, model)

    def keep() -> None:
        record.write_json(context.folder, its.samples_file, samples)
        record.write_json(context.folder, its.scores_file, [score.as_dict() for score in scores])

    distributed.on_main_process(keep)


def _leaderboard(context: RunContext, model: PreTrainedModel) -> list[Score]:
    settings = context.recipe.evaluation
    scores = scoring.evaluate(
        model,
        context.renderer.tokenizer,
        settings.suite,
        tasks=settings.tasks,
        data=context.inputs.questions,
        world=context.inputs.world,
        limit=settings.limit,
        batch_size=settings.batch_size,
        progress=lambda task, done, total: context.progress.update(done, total),
    )
    notes = contamination.notes(context)
    return [replace(score, note=notes.get(score.task, score.note)) for score in scores]


def _samples(context: RunContext, t: int, model: PreTrainedModel) -> list[str]:
    """What iterate t says to the first prompts, for whoever reads the report; DPO's runs hold no other response of a policy."""
    responses = selfplay.sample_responses(
        model,
        context.examples.prompt[:SHOWN],
        context.recipe.selfplay,
        max_response_tokens=context.recipe.data.max_response_tokens,
        pad_token_id=context.renderer.pad_token_id,
        eos_token_id=context.renderer.eos_token_id,
        seed=derive_seed(context.run.seed, "samples", t),
    )
    return [context.renderer.decode(response) for response in responses]
