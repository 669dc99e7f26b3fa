"""answers.parquet: what a model answered to each question of an evaluation; one row an item.

Scores are computed from it (`answer_scores`), and two evaluations are paired by it: equal items have equal `task`, `item_id` and
`content_sha256`. The file holds no clock times, and equal answers give equal bytes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from spac_repro import protocols
from spac_repro.documents import parquet, strict_json
from spac_repro.documents.errors import one_line
from spac_repro.documents.location import NamedSource
from spac_repro.documents.validation import validate
from spac_repro.errors import UserError
from spac_repro.runs import files

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

SCHEMA = 1
ABOUT = b"spac_repro.answers"  # the key of `About` in the file's metadata
MAX_BYTES = 1 << 30  # of all rows, in memory
MAX_VALUE = 1e60  # of a metric: variances of variances of larger ones are not finite
REMEDY = "remove it and evaluate again"

Mean = Literal["items", "subjects", "subjects_by_size", "clusters", "clustered_items", "items_without_error", "recorded"]
Rule = Literal["acc", "acc_norm", "mc2", "exact_match"]


class ExtractionStep(BaseModel):
    """One step from a generated text to the answer in it, as the harness names it."""

    model_config = ConfigDict(frozen=True)

    function: str
    regex_pattern: str | None = None
    group_select: int = 0


class Metric(BaseModel):
    """A metric of a task: how an item's value follows from its answer, and a score from the values of the items.

    Attributes:
        name: The metric, as in `Score` and as a key of the items' `metrics`.
        mean: Over what the score is a mean; `answer_scores` has the formulas. "recorded": it is none, and only recorded here.
        recorded: Value and standard error of a score that is no mean, as the harness computed it.
        rule: How the value of an item follows from its row; None: it is known to the task alone.
        extraction: With the rule exact_match: from `generated` to `extracted`; None: by a function of the task.
        ignored: With the rule exact_match: patterns that are removed before the comparison.
        ignore_case: With the rule exact_match: whether case is ignored.
        ignore_punctuation: With the rule exact_match: whether punctuation is ignored.
        higher_is_better: Whether a higher score is better.
        note: What is said beside the score; None: the task's note.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    mean: Mean = "items"
    recorded: tuple[float, float | None] | None = None
    rule: Rule | None = None
    extraction: tuple[ExtractionStep, ...] | None = None
    ignored: tuple[str, ...] = ()
    ignore_case: bool = False
    ignore_punctuation: bool = False
    higher_is_better: bool = True
    note: str | None = None


class TaskAbout(BaseModel):
    """A task: its metrics, the primary one first."""

    model_config = ConfigDict(frozen=True)

    name: str
    version: str = ""
    metrics: tuple[Metric, ...] = Field(min_length=1)
    note: str = ""


class About(BaseModel):
    """What an answers file is about.

    Attributes:
        harness: The harness and its version; empty where no leaderboard task was asked.
        protocol: The named protocol under which the leaderboard tasks were asked.
        suite: The suite's name; empty where no leaderboard task was asked.
        suite_files: The hash of each file of a user's suite.
        weights_sha256: The hash of the weights that answered; empty where it is not known.
        tasks: The tasks in the order of their rows.
        averaged: The tasks of which the average is taken; empty where a task of the suite was left out.
    """

    model_config = ConfigDict(frozen=True)

    schema_version: int = Field(default=SCHEMA, alias="schema")
    harness: str = ""
    protocol: protocols.Name = "current"
    suite: str = ""
    suite_files: dict[str, str] | None = None
    weights_sha256: str = ""
    tasks: tuple[TaskAbout, ...] = ()
    averaged: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """The answer to one item. The fields are the columns of the file.

    Attributes:
        task: The task, as in `Score`.
        item_id: The item's name within its task: its position in the questions' file, behind the subject if there is one.
        content_sha256: The hash of the item's own content: question, choices, and what is right.
        gold: What is right: the position of a choice from 0, a JSON list of positions, or a text.
        metrics: The value of each metric.
        tokens: Tokens of the longest request: prompt and answer, before any cut.
        cut: Whether a prompt was cut to the model's context.
        correct: Whether the answer is right, by the primary metric; None where its value is neither 0 nor 1.
        subject: The item's subject, in a task that has subjects.
        cluster: Items with the same cluster depend on each other.
        log_probs: The log-probability of each choice, in nats; None for a generated answer.
        choice_lengths: Characters of each choice.
        generated: The generated text; None for choices.
        extracted: By metric, the answer that was found in the generated text.
    """

    task: str
    item_id: str
    content_sha256: str
    gold: str
    metrics: Mapping[str, float]
    tokens: int
    cut: bool = False
    correct: bool | None = None
    subject: str | None = None
    cluster: str | None = None
    log_probs: Sequence[float] | None = None
    choice_lengths: Sequence[int] | None = None
    generated: str | None = None
    extracted: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskAnswers:
    """One task, and the answers to its items."""

    about: TaskAbout
    rows: Sequence[Answer]


@dataclass(frozen=True)
class Answers:
    """The answers of one evaluation, in the order of tasks and items."""

    about: About
    table: "pa.Table"  # the columns are the fields of `Answer`

    @classmethod
    def of(cls, about: About, rows: Iterable[Answer]) -> "Answers":
        """Make a table of rows, which come in the order of `about.tasks`."""
        import pyarrow as pa

        columns: dict[str, list[Any]] = {column.name: [] for column in fields(Answer)}
        for row in rows:
            for name, values in columns.items():
                values.append(getattr(row, name))
        for name in ("metrics", "extracted"):
            columns[name] = [list(value.items()) for value in columns[name]]
        return cls(about, pa.table(columns, schema=_schema()))

    @classmethod
    def join(cls, about: About, tasks: Sequence[TaskAnswers]) -> "Answers":
        """Join the answers of several tasks; `about` gets the tasks."""
        described = about.model_copy(update={"tasks": tuple(task.about for task in tasks)})
        return cls.of(described, (row for task in tasks for row in task.rows))

    def tasks(self) -> list[TaskAnswers]:
        """Return the answers by task."""
        by_task = self.by_task()
        return [TaskAnswers(task, by_task[task.name]) for task in self.about.tasks]

    def rows(self, task: str | None = None) -> Iterator[Answer]:
        """Return the rows of a task, or of all tasks."""
        for row in self.table.to_pylist():
            if task is None or row["task"] == task:
                yield Answer(**row | {name: dict(row[name]) for name in ("metrics", "extracted")})

    def by_task(self) -> dict[str, list[Answer]]:
        """Return the rows by task, in the order of the tasks."""
        found: dict[str, list[Answer]] = {task.name: [] for task in self.about.tasks}
        for row in self.rows():
            found[row.task].append(row)
        return found


def _schema() -> "pa.Schema":
    import pyarrow as pa

    optional = {
        "correct": pa.bool_(),
        "subject": pa.string(),
        "cluster": pa.string(),
        "log_probs": pa.list_(pa.float64()),
        "choice_lengths": pa.list_(pa.int32()),
        "generated": pa.string(),
    }
    required = {
        "metrics": pa.map_(pa.string(), pa.float64()),
        "extracted": pa.map_(pa.string(), pa.string()),
        "tokens": pa.int32(),
        "cut": pa.bool_(),
    }
    names = [column.name for column in fields(Answer)]
    types = {**optional, **required}
    return pa.schema([pa.field(name, types.get(name, pa.string()), nullable=name in optional) for name in names])


def write(path: Path, answers: Answers, *, before_rename: files.Hook = files.no_hook) -> None:
    """Write answers atomically. Equal answers give equal bytes.

    Args:
        path: The file.
        answers: The answers.
        before_rename: Called with the path of the complete temporary file.
    """
    import json

    import pyarrow.parquet as pq

    about = json.dumps(answers.about.model_dump(mode="json", by_alias=True), sort_keys=True, ensure_ascii=False)
    table = answers.table.replace_schema_metadata({ABOUT: about.encode()})
    numbers = ["log_probs.list.element", "metrics.key_value.value"]
    leaves = [name for name in _leaves() if name not in numbers]
    with files.atomic_file(path, before_rename=before_rename) as file:
        pq.write_table(
            table,
            file,
            compression="zstd",
            compression_level=9,
            use_dictionary=leaves,
            use_byte_stream_split=numbers,  # the equal bytes of numbers side by side: they compress better
            write_page_checksum=True,
        )


def _leaves() -> list[str]:
    """The names of the columns in Parquet, where a list and a map have columns of their own."""
    in_list, in_map = (".list.element",), (".key_value.key", ".key_value.value")
    nested = {"log_probs": in_list, "choice_lengths": in_list, "metrics": in_map, "extracted": in_map}
    return [f"{column.name}{part}" for column in fields(Answer) for part in nested.get(column.name, ("",))]


def read(path: Path) -> Answers:
    """Read the answers of an evaluation.

    Raises:
        UserError: The file is missing, damaged, not an answers file, or needs a newer version.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise UserError(f"{path}: no such file; `spac-repro evaluate … --answers FILE` writes one, and a run each iterate's")
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            metadata, table = file.metadata.metadata or {}, pa.Table.from_batches(_batches(path, file), file.schema_arrow)
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise UserError(f"{path} is damaged ({one_line(error, 100)}); {REMEDY}") from None
    if ABOUT not in metadata:
        raise UserError(f"{path}: not an answers file of spac-repro (its metadata has no {ABOUT.decode()}); name another file")
    about = _read_about(path, metadata[ABOUT])
    answers = Answers(about, _in_schema(path, table))
    _check_rows(path, answers)
    return answers


def _batches(path: Path, file: "pq.ParquetFile") -> "Iterator[pa.RecordBatch]":
    """Read a few rows at a time: a repeated value is stored once, and a small file can unfold to more than the memory holds."""
    unfolded = 0
    for batch in file.iter_batches(batch_size=parquet.rows_per_batch(path, file.schema_arrow.names)):
        unfolded += max(batch.nbytes, batch.num_rows)
        if unfolded > MAX_BYTES:
            raise UserError(f"{path}: unfolds to more than {MAX_BYTES:,} bytes; {REMEDY}")
        yield batch


def _read_about(path: Path, text: bytes) -> About:
    content = strict_json.parse(text, f"{path}: metadata", dict, remedy=REMEDY)
    files.check_schema(path, content, SCHEMA)
    about = validate(About, content, NamedSource(str(path)), remedy=REMEDY)
    names = [task.name for task in about.tasks]
    if len(set(names)) < len(names) or not set(about.averaged) <= set(names):
        raise UserError(f"{path}: metadata: a task is there twice, or is averaged and not there; {REMEDY}")
    for task in about.tasks:
        if any(metric.mean == "recorded" and metric.recorded is None for metric in task.metrics):
            raise UserError(f"{path}: metadata: a score of {one_line(task.name, 60)} is recorded and has no value; {REMEDY}")
    return about


def _in_schema(path: Path, table: "pa.Table") -> "pa.Table":
    """The table with the columns of `Answer`; a file without one of them, or with another type, is refused."""
    import pyarrow as pa

    wanted = _schema()
    for column in wanted:
        found = table.schema.field(column.name) if column.name in table.column_names else None
        if found is None or found.type != column.type:
            what = "no column" if found is None else f"type {found.type} instead of {column.type} in the column"
            raise UserError(f"{path}: {what} {column.name}; {REMEDY}")
        if not column.nullable and table[column.name].null_count:
            raise UserError(f"{path}: the column {column.name} has {table[column.name].null_count} empty cells; {REMEDY}")
    return pa.table([table[name].combine_chunks() for name in wanted.names], schema=wanted)


def _check_rows(path: Path, answers: Answers) -> None:
    """Check that every row is of a task that the file describes, has the task's metrics, and is there once; no task is empty."""
    metrics = {task.name: {metric.name for metric in task.metrics if metric.mean != "recorded"} for task in answers.about.tasks}
    seen: set[tuple[str, str]] = set()
    for row in answers.rows():
        where = f"{path}: item {one_line(row.item_id, 40)} of {one_line(row.task, 60)}"
        if row.task not in metrics:
            raise UserError(f"{where}: the file describes no such task; {REMEDY}")
        if missing := sorted(metrics[row.task] - row.metrics.keys()):
            raise UserError(f"{where}: no value of {one_line(missing[0], 60)}; {REMEDY}")
        if not all(value is not None and abs(value) <= MAX_VALUE for value in row.metrics.values()):
            raise UserError(f"{where}: a metric is too large, or no number; {REMEDY}")
        if not _whole(row):
            raise UserError(f"{where}: its choices or extracted answers are incomplete; {REMEDY}")
        if (row.task, row.item_id) in seen:
            raise UserError(f"{where}: there twice; {REMEDY}")
        seen.add((row.task, row.item_id))
    if empty := sorted({task for task, names in metrics.items() if names} - {task for task, _ in seen}):
        raise UserError(f"{path}: no item of the task {one_line(empty[0], 60)}; {REMEDY}")


def _whole(row: Answer) -> bool:
    """Whether the parts of a row fit each other: Arrow promises neither values in a list nor equal lengths of two."""
    log_probs, lengths = row.log_probs, row.choice_lengths
    if None in row.extracted.values() or None in (*(log_probs or ()), *(lengths or ())):
        return False
    return log_probs is None or (len(log_probs) > 0 and lengths is None) or 0 < len(log_probs) == len(lengths or ())
