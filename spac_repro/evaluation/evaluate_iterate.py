"""The evaluation of one iterate: gold reward, held-out preferences, leaderboard; and sample responses for the report."""

from dataclasses import replace

from transformers import PreTrainedModel

from spac_repro.evaluation import contamination, gold, heldout
from spac_repro.evaluation.leaderboard import scoring
from spac_repro.optim import distributed
from spac_repro.run_context import RunContext
from spac_repro.runs import answer_scores, file_hashes
from spac_repro.runs import answers as runs_answers
from spac_repro.runs.answers import About, Answers, TaskAnswers
from spac_repro.runs.results import Score
from spac_repro.sampling import selfplay
from spac_repro.seeds import derive_seed
from spac_repro.spans import span

NUM_SAMPLES = 12  # prompts that every iterate answers for the report


def score(context: RunContext, t: int) -> None:
    """Score iterate t and write answers, scores and samples into the run folder, unless they exist.

    Iteration 0 also leaves what later iterates are compared with. An iterate of which a file was removed is scored again.
    """
    iteration, settings = context.folder.iteration(t), context.recipe.evaluation
    needed = [iteration.scores_file, iteration.samples_file]
    needed += [iteration.answers_file] if file_hashes.wrote(context.folder, iteration.answers_file) else []  # 0.2 wrote none
    needed += [iteration.gold_file] if t == 0 and settings.gold_prompts else []
    needed += [iteration.heldout_file] if t == 0 and context.recipe.has_heldout else []
    if all(map(distributed.exists_on_main_process, needed)):
        return
    model = context.load_policy(t).to(context.device).eval()  # type: ignore[arg-type]  # the stubs know no torch.device
    tasks = [gold.measure(context, t, model)] if settings.gold_prompts else []
    if context.recipe.has_heldout:
        tasks.append(heldout.measure(context, t, model))
    answers = _with_leaderboard(context, t, model, tasks)
    with span("sample responses"):
        samples = _sample_responses(context, t, model)

    def write() -> None:
        entered = file_hashes.before_rename(context.folder, iteration.answers_file)
        runs_answers.write(iteration.answers_file, answers, before_rename=entered)
        file_hashes.write_json(context.folder, iteration.samples_file, samples)
        file_hashes.write_json(context.folder, iteration.scores_file, [score.as_dict() for score in _scores(context, answers)])

    distributed.on_main_process(write)


def _with_leaderboard(context: RunContext, t: int, model: PreTrainedModel, tasks: list[TaskAnswers]) -> Answers:
    """The answers of iterate t to other tasks, and to those of the leaderboard if the suite has any."""
    settings, about = context.recipe.evaluation, About(weights_sha256=context.folder.iteration(t).weights_sha256)
    if settings.suite.has_tasks:
        with context.timed(t, "leaderboard"):
            asked = scoring.ask(
                model,
                context.renderer.tokenizer,
                settings.suite,
                tasks=settings.tasks,
                questions_folder=context.inputs.questions,
                world=context.inputs.world,
                limit=settings.limit,
                batch_size=settings.batch_size,
                weights_sha256=about.weights_sha256,
                progress=lambda task, done, total: context.progress.update(done, total),
                protocol=settings.protocol,
            )
        about, tasks = asked.about, [*tasks, *asked.tasks()]
    return Answers.join(about, tasks)


def _scores(context: RunContext, answers: Answers) -> list[Score]:
    """The scores of the answers, with a note where questions are among the preference prompts."""
    notes = contamination.notes(context)
    scores = answer_scores.scores(answers)
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
