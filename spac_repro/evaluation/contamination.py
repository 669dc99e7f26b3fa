"""Which prompts of the preferences are also questions of the leaderboard: measured, and reported, before training."""

from spac_repro.data import contamination
from spac_repro.evaluation.leaderboard import scoring
from spac_repro.run_context import RunContext
from spac_repro.runs import record


def measure(context: RunContext) -> None:
    """Leave the overlap in the run folder, unless it is there or there is nothing to measure."""
    folder, settings = context.folder, context.recipe.evaluation
    if folder.contamination_file.exists() or settings.suite.uses_world or not settings.suite.has_tasks:
        return
    context.progress.start_stage("overlap of preferences with questions")
    asked = scoring.questions(settings.suite, tasks=settings.tasks, data=context.inputs.questions, limit=settings.limit)
    prompts = ("\n".join(message["content"] for message in row.prompt) for row in context.inputs.preferences)
    found = contamination.measure(prompts, {task.name: task.words(leaves) for task, leaves in asked.items()})
    for name, task in found.tasks.items():
        context.progress.message(f"{name}: {task.note or 'no overlap with the preferences'}")
    record.write_json(folder, folder.contamination_file, found.as_json())


def notes(context: RunContext) -> dict[str, str]:
    """The mark of each task whose questions are partly in the preferences."""
    tasks = (context.folder.contamination() or {"tasks": {}})["tasks"]
    return {name: f"overlap: {len(t['item_indexes'])} of {t['items']} items" for name, t in tasks.items() if t["item_indexes"]}
