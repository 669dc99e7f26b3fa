"""Any other task of lm-eval by its name (`evaluate --suite lm-eval:NAME,…`): asked, recorded and paired as a suite's tasks are.

Prompt, few-shot examples, metrics and questions are the harness's own. A group stands for its tasks. Nothing is averaged.
"""

from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

import lm_eval
from lm_eval.tasks import TaskManager
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from spac_repro import protocols
from spac_repro.documents.errors import one_line
from spac_repro.documents.suggestions import did_you_mean
from spac_repro.errors import UnfitEnvironmentError, UserError
from spac_repro.evaluation.leaderboard import answer_rows
from spac_repro.evaluation.leaderboard.harness import Progress, silenced
from spac_repro.evaluation.leaderboard.packed_hflm import PackedHFLM
from spac_repro.evaluation.leaderboard.task import Task
from spac_repro.runs.answers import TaskAnswers

TEST = "test"


@cache
def manager() -> TaskManager:
    """The harness's list of its tasks. It reads thousands of files, which takes seconds."""
    return TaskManager()


def check(names: Sequence[str]) -> None:
    """Check that the harness has these tasks or groups.

    Raises:
        UserError: it lacks one; the message suggests a similar name.
    """
    known = manager().all_tasks
    for name in names:
        if name not in known:
            raise UserError(f"lm-eval has no task {name!r}{did_you_mean(name, known)}; `lm_eval ls tasks` lists them")


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    names: Sequence[str],
    *,
    limit: int | None,
    batch_size: int,
    seed: int,
    protocol: str,
    progress: Progress | None = None,
) -> list[TaskAnswers]:
    """Ask a model the harness's own questions of these tasks. The model keeps its mode (train or eval).

    Args:
        model: the model.
        tokenizer: its tokenizer.
        names: tasks or groups of the harness.
        limit: at most this many questions per task, the first ones.
        batch_size: of generation, and of models that cannot be packed.
        seed: of the few-shot examples.
        protocol: how texts become tokens, and logits log-probabilities.
        progress: called with (task, requests answered, requests in all).

    Raises:
        UserError: an unknown task.
        UnfitEnvironmentError: the questions are neither cached nor available.
    """
    check(names)
    was_training, found = model.training, []
    with silenced() as counter:
        try:
            lm = PackedHFLM(model, tokenizer, batch_size, protocols.get(protocol))
            for name, task in _load(names).items():
                task.set_fewshot_seed(seed)
                lm.on_progress = partial(progress, name) if progress is not None else lm.on_progress
                counter.truncated = 0
                lm.lengths.clear()
                results: Any = lm_eval.evaluate(lm=lm, task_dict={"tasks": {name: task}}, limit=limit, log_samples=True)
                asked = {name: {TEST: [dict(row) for row in task.eval_docs]}}
                note = counter.note(lm.max_length)
                found.append(answer_rows.collect(_as_task(name, results), asked, {name: task}, results, lm.lengths, note))
        finally:
            model.train(was_training)
    return found


def _load(names: Sequence[str]) -> dict[str, Any]:
    """The harness's tasks, those of groups among them, with their questions."""
    try:
        tasks: dict[str, Any] = manager().load([*names])["tasks"]
    except Exception as error:  # data sets and their hub raise many types
        raise UnfitEnvironmentError(
            f"{', '.join(names)}: lm-eval cannot load the questions ({one_line(f'{type(error).__name__}: {error}', 120)}); "
            "evaluate where there is a network, or with a cache of the data set"
        ) from None
    return tasks


def _as_task(name: str, results: Mapping[str, Any]) -> Task:
    """The task in the package's form: its metrics in the harness's order. With several filters a metric is named with its own."""
    keys = [key for key in results["results"][name] if "," in key and "_stderr," not in key]
    plain = [key.partition(",")[0] for key in keys]
    metrics = {metric if plain.count(metric) == 1 else key.replace(",", "@"): key for metric, key in zip(plain, keys, strict=True)}
    return Task.model_construct(name=name, metrics=metrics, test_split=TEST)
