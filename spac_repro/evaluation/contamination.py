"""Contamination of the leaderboard's questions by preference prompts, measured and reported before training."""

from spac_repro.data import contamination
from spac_repro.evaluation.leaderboard import scoring
from spac_repro.run_context import RunContext
from spac_repro.runs import file_hashes


def measure(context: RunContext) -> None:
    """Write the contamination to the run folder, unless it is there or the suite has no external questions."""
    folder, settings = context.folder, context.recipe.evaluation
    if folder.contamination_file.exists() or settings.suite.uses_world or not settings.suite.has_tasks:
        return
    context.progress.start_stage("contamination of the questions by the preferences")
    questions = scoring.read_questions(
        settings.suite, tasks=settings.tasks, questions_folder=context.inputs.questions, limit=settings.limit
    )
    prompts = ("\n".join(message["content"] for message in row.prompt) for row in context.inputs.preferences)
    texts = {task.name: task.question_texts(subtasks) for task, subtasks in questions.items()}
    measured = contamination.measure(prompts, texts)
    for name, task in measured.tasks.items():
        context.progress.message(f"{name}: {task.note or 'no question is among the preference prompts'}")
    file_hashes.write_json(folder, folder.contamination_file, measured.as_json())


def notes(context: RunContext) -> dict[str, str]:
    """Return the note of each contaminated task."""
    tasks = (context.folder.contamination() or {"tasks": {}})["tasks"]
    counts = {name: (len(task["item_indexes"]), task["items"]) for name, task in tasks.items()}
    return {name: contamination.note(*count) for name, count in counts.items() if count[0]}
