"""Everything that is measured on an iterate: gold reward, held-out preferences, leaderboard; and samples for the report."""

from dataclasses import asdict, replace

from transformers import PreTrainedModel

from spac_repro.context import Context, there
from spac_repro.data import triples
from spac_repro.evaluation import contamination, gold, heldout
from spac_repro.evaluation.leaderboard import suites
from spac_repro.model.policy import Policy
from spac_repro.optim import processes
from spac_repro.runs import files
from spac_repro.runs.results import Score
from spac_repro.sampling import selfplay
from spac_repro.seeds import derive

SHOWN = 12  # prompts that every iterate answers for the report


def score(context: Context, t: int) -> None:
    """Leave the scores of iterate t in the run folder, unless they are there."""
    its, settings = context.folder.iteration(t), context.recipe.evaluation
    if there(its.scores_file):
        return
    model = context.load_policy(t).to(context.device).eval()  # type: ignore[arg-type]  # the stubs know no torch.device
    scores = _gold(context, t, model) if settings.gold_prompts else []
    if settings.heldout_pairs:
        scores += _heldout(context, t, model)
    if settings.suite != "none":
        with context.timed(t, "leaderboard"):
            scores += _leaderboard(context, model)
    samples = _samples(context, t, model)

    def keep() -> None:
        files.write_json(its.samples_file, samples)
        files.write_json(its.scores_file, [score.as_dict() for score in scores])

    processes.on_main(keep)


def _gold(context: Context, t: int, model: PreTrainedModel) -> list[Score]:
    """Gold rewards of sampled responses, beside the start's, which iteration 0 keeps."""
    assert context.inputs.world is not None  # the recipe's own check
    settings, kept = context.recipe.evaluation, context.folder.iteration(0).gold_file
    with context.timed(t, "gold reward"):
        rewards = gold.sample(
            model,
            context.renderer.tokenizer,
            context.inputs.world,
            context.recipe.data,
            context.recipe.selfplay,
            prompts=settings.gold_prompts,
            samples=settings.gold_samples,
            seed=derive(context.run.seed, "gold", t),
            advance=context.progress.advance,
        )
    if t == 0:
        processes.on_main(lambda: files.write_json(kept, asdict(rewards)))
    return gold.scores(rewards, gold.Rewards(**files.read_json(kept)))


def _heldout(context: Context, t: int, model: PreTrainedModel) -> list[Score]:
    """How far the iterate has moved on preferences that no training saw; iteration 0 draws them."""
    assert context.inputs.world is not None  # the recipe's own check
    start, scorer, tokens = context.folder.iteration(0), Policy(model), context.recipe.training.micro_batch_tokens
    with context.timed(t, "held-out preferences"):
        if t == 0:
            drawn = heldout.draw(
                scorer,
                context.renderer,
                context.inputs.world,
                context.recipe.selfplay,
                pairs=context.recipe.evaluation.heldout_pairs,
                tokens=tokens,
                seed=derive(context.run.seed, "held-out"),
                advance=context.progress.advance,
            )
            drawn = replace(drawn, reference_sha256=start.weights_sha256)
            processes.on_main(lambda: triples.write(start.heldout_file, drawn, {}))
        remedy = f"remove it and {start.scores_file}, and repeat the command"
        data = triples.read(start.heldout_file, reference=start.weights_sha256, remedy=remedy)
        return heldout.scores(scorer, data, tokens=tokens, advance=context.progress.advance)


def _leaderboard(context: Context, model: PreTrainedModel) -> list[Score]:
    settings = context.recipe.evaluation
    scores = suites.evaluate(
        model,
        context.renderer.tokenizer,
        settings.suite,
        tasks=settings.tasks,
        data=context.inputs.questions,
        world=context.inputs.world,
        limit=settings.limit,
        batch_size=settings.batch_size,
        progress=lambda task, done, total: context.progress.advance(done, total),
    )
    notes = contamination.notes(context)
    return [replace(score, note=notes.get(score.task, score.note)) for score in scores]


def _samples(context: Context, t: int, model: PreTrainedModel) -> list[str]:
    """What iterate t says to the first prompts, for whoever reads the report; DPO's runs hold no other response of a policy."""
    responses = selfplay.respond(
        model,
        context.examples.prompt[:SHOWN],
        context.recipe.selfplay,
        longest_response=context.recipe.data.longest_response,
        pad=context.pad_token,
        stop=context.stop_token,
        seed=derive(context.run.seed, "samples", t),
    )
    return [context.renderer.text(response) for response in responses]
