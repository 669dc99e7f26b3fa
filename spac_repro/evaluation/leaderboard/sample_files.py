"""Reads the answers that the command line of lm-eval logs with `--log_samples`, as those of an evaluation of this package.

A question has the hash that the package's own answers give it: of the columns that the package reads of its row, or of the whole
row where the task is not the package's. So files of both kinds can be paired.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from spac_repro import suites
from spac_repro.documents.location import NamedSource
from spac_repro.documents.validation import validate
from spac_repro.errors import UserError
from spac_repro.evaluation.leaderboard.question_files import json_lines
from spac_repro.evaluation.leaderboard.task import Task
from spac_repro.evaluation.leaderboard.task_file import tasks_of
from spac_repro.runs import answers, files
from spac_repro.runs.answers import About, Answer, Answers, Mean, Metric, TaskAbout

_NAME = re.compile(r"(?:samples_)?(?P<task>.+?)(?:_\d{4}-\d\d-\d\dT[\d.:-]+)?")
_REMEDY = "log the samples again with a newer lm-eval"


class Sample(BaseModel):
    """What lm-eval logs about a question and a filter; the metrics have keys of their own beside these."""

    model_config = ConfigDict(extra="allow", frozen=True)

    doc_id: Annotated[int, Field(ge=0)]
    doc: dict[str, Any]
    target: Any
    resps: list[Any] = Field(min_length=1)
    filtered_resps: list[Any] = Field(min_length=1)
    filter: str
    metrics: list[str] = Field(min_length=1)


class _Named(NamedTuple):
    """A file, and what its name says it is about."""

    path: Path
    name: str  # of the task, with the subject
    task: Task | None  # of the package
    subject: str | None

    @property
    def shown_task(self) -> str:
        return self.task.name if self.task else self.name


def find(path: Path) -> list[Path]:
    """The sample files at a path: itself, or those in the folder; none if it is neither."""
    if path.is_file():
        return [path] if path.suffix == ".jsonl" else []
    return sorted(path.glob("samples_*.jsonl")) if path.is_dir() else []


def read(paths: Sequence[Path]) -> Answers:
    """Read the sample files of one evaluation, each of another task or subject.

    Raises:
        UserError: a file is not of lm-eval, lacks a field or a metric, or two are about one task; the message names file and line.
    """
    known = {task.name: task for suite in suites.builtin() for task in tasks_of(suite)}
    named = [_named(path, known) for path in paths]
    seen: dict[str, Path] = {}
    for each in named:
        if each.name in seen:
            raise UserError(f"{each.path} and {seen[each.name].name} are both about {each.name}; keep the files of one evaluation")
        seen[each.name] = each.path
    tasks: dict[str, list[_Named]] = {}
    for each in named:
        tasks.setdefault(each.shown_task, []).append(each)
    rows = {name: [row for each in own for row in _rows(each)] for name, own in tasks.items()}
    abouts = tuple(_about(name, tasks[name], rows[name]) for name in tasks)
    return Answers.of(About(harness="lm_eval", tasks=abouts), [row for own in rows.values() for row in own])


def _named(path: Path, known: Mapping[str, Task]) -> _Named:
    match = _NAME.fullmatch(path.stem)
    name = match["task"] if match else path.stem
    if name in known:
        return _Named(path, name, known[name], None)
    for task in known.values():
        if task.by_subject and (subject := name.removeprefix(f"{task.name}_")) in task.prompt.stock_subjects():
            return _Named(path, name, task, subject)
    return _Named(path, name, None, None)


def _rows(named: _Named) -> Iterator[Answer]:
    """The answers of a file, in the order of its questions."""
    by_question: dict[int, dict[str, tuple[str, Sample]]] = {}
    for number, values in json_lines(named.path):
        where = f"{named.path}, line {number}"
        sample = validate(Sample, values, NamedSource(where), remedy=_REMEDY)
        by_filter = by_question.setdefault(sample.doc_id, {})
        if sample.filter in by_filter:
            raise UserError(
                f"{where}: question {sample.doc_id} is there twice; lm-eval appends to a file: keep one evaluation in it"
            )
        by_filter[sample.filter] = (where, sample)
    if not by_question:
        raise UserError(f"{named.path} holds no samples; {_REMEDY}")
    for number, by_filter in sorted(by_question.items()):
        yield _row(named, number, by_filter)


def _row(named: _Named, number: int, by_filter: Mapping[str, tuple[str, Sample]]) -> Answer:
    where, first = next(iter(by_filter.values()))
    row: Mapping[str, Any] = first.doc
    if named.task is not None:
        checked = validate(named.task.row_model, first.doc, NamedSource(where, ("doc",)), remedy=_REMEDY)
        row = checked.model_dump(by_alias=True)
    metrics, extracted = _values(named, number, by_filter)
    if not metrics:
        raise UserError(f"{where}: no metric has a number for each question; {_REMEDY}")
    primary = next(iter(metrics.values()))
    log_probs = _log_probs(first)
    return Answer(
        task=named.shown_task,
        item_id=f"{number}" if named.subject is None else f"{named.subject}/{number}",
        content_sha256=files.sha256_json(row),
        gold=first.target if isinstance(first.target, str) else json.dumps(first.target),
        metrics=metrics,
        tokens=0,
        correct=bool(primary) if primary in (0.0, 1.0) else None,
        subject=named.subject,
        log_probs=log_probs,
        generated=_text(first.resps) if log_probs is None else None,
        extracted=extracted,
    )


def _values(named: _Named, number: int, by_filter: Mapping[str, tuple[str, Sample]]) -> tuple[dict[str, float], dict[str, str]]:
    """The value of each metric, and what its filter extracted from a generated text."""
    wanted = named.task.metrics if named.task else _every_metric(by_filter)
    values, extracted = {}, {}
    for name, key in wanted.items():
        measured, _, chosen = key.partition(",")
        if chosen not in by_filter:
            raise UserError(f"{named.path}: question {number} of {named.name} has no line with the filter {chosen}; {_REMEDY}")
        where, sample = by_filter[chosen]
        values[name] = _number(where, measured, (sample.model_extra or {}).get(measured))
        if _log_probs(sample) is None and (text := _text(sample.filtered_resps)) is not None:
            extracted[name] = text
    return values, extracted


def _every_metric(by_filter: Mapping[str, tuple[str, Sample]]) -> dict[str, str]:
    """The metrics of a task that the package does not have, under the names of `harness_tasks`: those with a number a question."""
    keys = [
        (measured, chosen)
        for chosen, (_, sample) in by_filter.items()
        for measured in sample.metrics
        if not isinstance((sample.model_extra or {}).get(measured, 0.0), list | dict)
    ]
    measured_by = [measured for measured, _ in keys]
    return {
        measured if measured_by.count(measured) == 1 else f"{measured}@{chosen}": f"{measured},{chosen}"
        for measured, chosen in keys
    }


def _number(where: str, metric: str, value: Any) -> float:
    if not isinstance(value, int | float) or not abs(value) <= answers.MAX_VALUE:
        what = "is missing" if value is None else f"is {str(value)[:40]!r} and no number"
        raise UserError(f"{where}: the metric {metric} {what}; {_REMEDY}")
    return float(value)


def _log_probs(sample: Sample) -> list[float] | None:
    """The log-probability of each choice, which lm-eval writes as pairs of texts; None for generated text."""
    if not all(isinstance(response, list) and response and isinstance(response[0], list) for response in sample.resps):
        return None
    try:
        return [float(response[0][0]) for response in sample.resps]
    except (ValueError, TypeError, LookupError):
        return None


def _text(responses: Sequence[Any]) -> str | None:
    first = responses[0]
    while isinstance(first, list) and first:
        first = first[0]
    return first if isinstance(first, str) else None


def _about(name: str, named: Sequence[_Named], rows: Sequence[Answer]) -> TaskAbout:
    """A task, which has one file, or one for each subject."""
    names = list(rows[0].metrics)
    if odd := next((row for row in rows if list(row.metrics) != names), None):
        raise UserError(
            f"{named[0].path}: question {odd.item_id} of {name} has other metrics than question {rows[0].item_id}; {_REMEDY}"
        )
    return TaskAbout(name=name, metrics=tuple(Metric(name=metric, mean=_mean(named[0].task, metric)) for metric in names))


def _mean(task: Task | None, metric: str) -> Mean:
    if task is None or not task.by_subject:
        return "items"
    return "subjects" if metric == task.subjects_metric else "subjects_by_size"
