"""Runs lm-eval on given questions, silently and deterministically, and returns the answers.

It calls `lm_eval.evaluate`, not `simple_evaluate`: the latter collects a report on the machine, which takes two seconds per call,
and seeds the global random generators of the process. Nothing here uses these.
"""

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets
import lm_eval
import lm_eval.api.task
import lm_eval.utils
import transformers
from jinja2 import Environment
from jinja2.sandbox import SandboxedEnvironment
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from spac_repro import protocols
from spac_repro.documents import yaml_subset
from spac_repro.errors import UserError
from spac_repro.evaluation.leaderboard import answer_rows
from spac_repro.evaluation.leaderboard.packed_hflm import PackedHFLM
from spac_repro.evaluation.leaderboard.task import Subtasks, Task
from spac_repro.runs.answers import TaskAnswers
from spac_repro.spans import span

Progress = Callable[[str, int, int], None]  # task, requests answered, requests in all


class _TruncationCounter(logging.Handler):
    """Counts the harness's warnings about truncated prompts, the only ones that affect a score."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.truncated = 0

    def note(self, context: int) -> str:
        return f"{self.truncated} prompts cut to the model's {context} tokens" if self.truncated else ""

    def emit(self, record: logging.LogRecord) -> None:
        self.truncated += "runcat" in record.getMessage()


def _sandboxed(templates: Environment) -> Environment:
    """The harness's Jinja environment in a sandbox, so that the templates of a user's task file cannot run code."""
    sandbox = SandboxedEnvironment(undefined=templates.undefined, keep_trailing_newline=templates.keep_trailing_newline)
    sandbox.filters.update(templates.filters)
    return sandbox


@contextmanager
def silenced() -> Iterator[_TruncationCounter]:
    """Switch off log lines, progress bars and code in templates, of the harness and its libraries; restore them afterwards."""
    counter, templates = _TruncationCounter(), lm_eval.utils.env
    logger = logging.getLogger("lm_eval")
    level, propagate, bars = logger.level, logger.propagate, datasets.is_progress_bar_enabled()
    verbosity, tqdm = transformers.logging.get_verbosity(), lm_eval.api.task.tqdm
    logger.addHandler(counter)
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    datasets.disable_progress_bars()
    lm_eval.api.task.tqdm = lambda items, **_: items  # this bar cannot be switched off
    lm_eval.utils.env = _sandboxed(templates)
    try:
        yield counter
    finally:
        lm_eval.utils.env = templates
        lm_eval.api.task.tqdm = tqdm
        if bars:
            datasets.enable_progress_bars()
        transformers.logging.set_verbosity(verbosity)
        logger.propagate = propagate
        logger.setLevel(level)
        logger.removeHandler(counter)


def load_rows(*, rows: str, **_: Any) -> datasets.DatasetDict:
    """Load the JSON lines in the folder `rows`, one file per split. Written task files name this function as `custom_dataset`.

    The `json` builder of datasets would copy each file into a cache first, which takes minutes for 57 subjects.
    """
    splits = {}
    for path in sorted(Path(rows).glob("*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            splits[path.stem] = datasets.Dataset.from_list([json.loads(line) for line in lines])
    return datasets.DatasetDict(splits)


def share_of_leading_answers(doc: dict[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """TruthfulQA's mc2 where the answers before the first false one are taken to be all that are true, as up to lm-eval 0.4.0."""
    probabilities = [math.exp(logprob) for logprob, _ in results]
    return {"acc": sum(probabilities[: doc["mc2_targets"]["labels"].index(0)]) / sum(probabilities)}


def write_task(task: Task, subtasks: Subtasks, folder: Path) -> None:
    """Write a task in the harness's form: a task file for each subtask, with its questions in a folder beside it.

    Args:
        task: the task.
        subtasks: its questions.
        folder: an empty folder.
    """
    for subtask, splits in subtasks.items():
        rows = folder / subtask
        rows.mkdir()
        for split, questions in splits.items():
            (rows / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions), encoding="utf-8")
        included = task.prompt.stock_file(subject=subtask.removeprefix(f"{task.name}_"))
        keys = {"task": subtask, **task.harness_keys(), "dataset_kwargs": {"rows": str(rows)}}
        if included is not None:
            keys["include"] = str(included)
        if included is None or _stock_splits(included) != task.splits:
            keys |= task.harness_splits()
        loader = f"custom_dataset: !function {__name__}.{load_rows.__name__}\n"
        if task.true_answers == "leading":
            loader += f"process_results: !function {__name__}.{share_of_leading_answers.__name__}\n"
        (folder / f"{subtask}.yaml").write_text(yaml_subset.dump(keys) + loader, encoding="utf-8")
    if task.by_subject:
        (folder / f"{task.name}.yaml").write_text(yaml_subset.dump(task.harness_group(list(subtasks))), encoding="utf-8")


def _stock_splits(stock: Path) -> tuple[str, ...]:
    """The splits of a stock task file, in the form of `Task.splits`.

    Right ones are not overridden, because the harness samples other few-shot examples if the same split has another key.
    """
    keys = load_yaml(stock, resolve_func=False)
    fewshot_split, test_split = (
        keys.get(a) or keys.get(b) for a, b in (("fewshot_split", "training_split"), ("test_split", "validation_split"))
    )
    return (test_split,) if fewshot_split is None else (fewshot_split, test_split)


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Mapping[Task, Subtasks],
    *,
    batch_size: int,
    seed: int,
    progress: Progress | None = None,
    protocol: str = protocols.CURRENT,
) -> list[TaskAnswers]:
    """Ask a model the given questions, task by task, so that the answers of a task do not depend on other tasks.

    The model keeps its mode (train or eval).

    Args:
        model: the model.
        tokenizer: its tokenizer.
        questions: the questions of each task.
        batch_size: of generation, and of models that cannot be packed.
        seed: of the few-shot examples.
        progress: called with (task, requests answered, requests in all).
        protocol: how texts become tokens, and logits log-probabilities.
    """
    was_training = model.training
    found: list[TaskAnswers] = []
    with silenced() as counter:
        try:
            lm = PackedHFLM(model, tokenizer, batch_size, protocols.get(protocol))
            for task, subtasks in questions.items():
                _check_context(task, lm.max_length)
                lm.on_progress = partial(progress, task.name) if progress is not None else lm.on_progress
                counter.truncated = 0
                lm.lengths.clear()
                with span(task.name), TemporaryDirectory(prefix="leaderboard-") as folder, _name_task_in_errors(task):
                    loaded, results = _run_harness(lm, task, subtasks, Path(folder), seed)
                    notes = filter(None, (counter.note(lm.max_length), task.note(subtasks)))
                    found.append(answer_rows.collect(task, subtasks, loaded, results, lm.lengths, "; ".join(notes)))
        finally:
            model.train(was_training)
    return found


@contextmanager
def _name_task_in_errors(task: Task) -> Iterator[None]:
    """Add the name of the task to errors."""
    try:
        yield
    except Exception as error:
        error.add_note(f"task {task.name}")
        raise


def _check_context(task: Task, context: int) -> None:
    if task.max_gen_toks >= context:
        raise UserError(
            f"{task.name} generates up to {task.max_gen_toks} tokens, and the model's context is {context}; "
            "leave the task out with --tasks"
        )


def _run_harness(lm: PackedHFLM, task: Task, subtasks: Subtasks, folder: Path, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run the harness on one task, whose files are written into the empty `folder`; return its own tasks and its results."""
    write_task(task, subtasks, folder)
    loaded = TaskManager(include_path=str(folder), include_defaults=False).load([task.name])
    for subtask in loaded["tasks"].values():
        subtask.set_fewshot_seed(seed)
    results: dict[str, Any] | None = lm_eval.evaluate(lm=lm, task_dict=loaded, log_samples=True)
    assert results is not None  # None only on other ranks of the harness's own data parallelism
    return loaded["tasks"], results
