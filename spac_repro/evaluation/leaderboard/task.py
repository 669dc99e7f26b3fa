"""A leaderboard task as its YAML file defines it: prompt, few-shot examples, metrics, and the source of its questions."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from spac_repro.documents.base_model import Settings
from spac_repro.documents.location import NamedSource
from spac_repro.documents.suggestions import did_you_mean
from spac_repro.documents.validation import validate
from spac_repro.errors import UnfitEnvironmentError, UserError
from spac_repro.evaluation.leaderboard.question_files import (
    ROW_SCHEMAS,
    Row,
    Rows,
    Splits,
    even_quotas,
    read_split,
    row_with_columns,
)
from spac_repro.evaluation.leaderboard.task_keys import SUBJECT, PromptOrStockName

Subtasks = dict[str, Splits]  # the harness's task name -> its questions; one per subject if a task has subjects

if TYPE_CHECKING:
    RowSchema = str
else:
    RowSchema = Literal[tuple(ROW_SCHEMAS)]

Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=100)]
Key = Annotated[str, Field(pattern=r"^[a-z0-9_]+,[A-Za-z0-9_-]+$")]  # "metric,filter"


class Hub(Settings):
    """A data set on the hub and its configuration; "{subject}" in the latter stands for a subject."""

    dataset: str
    config: str | None = None


class Task(Settings):
    """A leaderboard task.

    `metrics` maps our name of a metric to the harness's key ("metric,filter"). The primary one, by default the first, counts in
    the average. A task with subjects has two metrics for one key: the plain mean over its subjects, and the mean over its
    questions.
    """

    name: Word
    prompt: PromptOrStockName
    num_fewshot: Annotated[int, Field(ge=0)] = 0
    fewshot_split: Word | None = None  # the split that few-shot examples are drawn from
    test_split: Word  # the split whose questions are asked
    metrics: Annotated[dict[Word, Key], Field(min_length=1)]
    primary: Word | None = None  # the metric that counts in the average; None: the first
    row_schema: RowSchema | None = None  # a schema of rows that the package has …
    columns: Annotated[tuple[str, ...], Field(min_length=1)] | None = None  # … or the columns that every row must have
    contamination_column: str | None = None  # with `columns`: the one compared with training prompts; None: the first
    folder: Word | None = None  # under the folder of all questions; None: the task's name
    hub: Hub | None = None  # None: questions come from files only
    by_subject: bool = False  # the column `subject` holds the subject
    max_gen_toks: Annotated[int, Field(ge=0)] = 0  # of a generated answer; 0 for multiple choice
    regexes_to_ignore: tuple[str, ...] | None = None  # removed from a generated answer before comparison; None: the prompt's own
    true_answers: Literal["labels", "leading"] = "labels"  # of TruthfulQA: those labelled so, or those before the first false one
    version: int | float = 1.0  # of a prompt written in the file, and of a group of subjects; a stock prompt has its own version

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits whose questions are read: few-shot split, if any, and test split."""
        return (self.test_split,) if self.fewshot_split is None else (self.fewshot_split, self.test_split)

    @property
    def data_folder(self) -> str:
        """The folder of the task's questions, under the folder of all questions."""
        return self.folder or self.name

    @property
    def primary_metric(self) -> str:
        """The metric that counts in the average."""
        return self.primary or next(iter(self.metrics))

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The names of the metrics, the primary one first."""
        return (self.primary_metric, *(name for name in self.metrics if name != self.primary_metric))

    @property
    def subjects_metric(self) -> str:
        """Of a task with subjects, the metric that is the plain mean over them: the first one. The other is over all questions."""
        return next(iter(self.metrics))

    @property
    def row_model(self) -> type[Row]:
        """The model that validates every row."""
        if self.row_schema is not None:
            return ROW_SCHEMAS[self.row_schema]
        return row_with_columns(self.columns or (), self.contamination_column)

    # The harness's own form of the task

    def harness_keys(self) -> dict[str, Any]:
        """The task in the harness's keys, without those of the included file."""
        keys = self.prompt.harness_keys()
        if self.prompt.include is None:
            metrics = dict.fromkeys(key.partition(",")[0] for key in self.metrics.values())
            keys["metric_list"] = [{"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in metrics]
        if self.prompt.include is None or self.prompt.harness_keys() or self.true_answers != "labels":
            keys["metadata"] = {"version": self.version}
        if self.regexes_to_ignore is not None:
            ignored = {"ignore_case": True, "ignore_punctuation": False, "regexes_to_ignore": list(self.regexes_to_ignore)}
            keys["metric_list"] = [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True, **ignored}]
        if self.prompt.is_generative:
            keys["generation_kwargs"] |= {"max_gen_toks": self.max_gen_toks, "do_sample": False, "temperature": 0.0}
        return {**keys, "num_fewshot": self.num_fewshot}

    def harness_splits(self) -> dict[str, str | None]:
        """The harness's keys of the splits, for an included file that names others."""
        return {
            "test_split": self.test_split,
            "validation_split": None,
            "training_split": None,
            "fewshot_split": self.fewshot_split,
        }

    def harness_group(self, subtasks: list[str]) -> dict[str, Any]:
        """The harness's group of a task's subjects. Its mean is weighted by their numbers of questions."""
        metrics = dict.fromkeys(key.partition(",")[0] for key in self.metrics.values())
        return {
            "group": self.name,
            "task": subtasks,
            "aggregate_metric_list": [{"metric": metric, "weight_by_size": True} for metric in metrics],
            "metadata": {"version": self.version},
        }

    # Questions

    def questions_from_files(self, questions_folder: Path) -> Subtasks:
        """Read the questions from QUESTIONS_FOLDER/<folder>/<split>.jsonl, .jsonl.gz or .parquet.

        Raises:
            UserError: a file is missing or wrong; the message names file and line.
        """
        folder = questions_folder / self.data_folder
        if not folder.is_dir():
            raise UserError(f"{questions_folder} has no folder {folder.name}; add it, or leave {self.name} out with --tasks")
        splits = {split: read_split(folder, split, self.row_model) for split in self.splits}
        self._check_subjects(splits[self.test_split], str(folder))
        return self.by_subtask(splits, str(folder))

    def questions_from_hub(self) -> Subtasks:
        """Read the questions from the task's data set, in the local cache or on the hub.

        Raises:
            UnfitEnvironmentError: neither has them.
            UserError: the task names no data set.
        """
        import datasets
        import huggingface_hub.utils.logging as hub_logging

        if self.hub is None:
            raise UserError(f"{self.name} names no data set of the hub; give its questions with --questions DIR")
        hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # otherwise every retry is logged
        path, name = self.hub.dataset, self.hub.config
        subjects = self.prompt.stock_subjects() if name and SUBJECT in name else [""]
        rows: Splits = {split: [] for split in self.splits}
        try:
            for subject in subjects:
                for split in self.splits:
                    rows[split] += datasets.load_dataset(path, name and name.replace(SUBJECT, subject), split=split).to_list()
        except Exception as error:  # the hub's client raises many types; all mean that the questions are not available
            raise UnfitEnvironmentError(
                f"{self.name}: the data set {path} is neither cached nor available from the hub ({type(error).__name__}); "
                "prefetch it where there is a network, or give the questions with --questions DIR"
            ) from None
        place, remedy = NamedSource(f"{self.name}: the data set {path} has changed"), "give the questions with --questions DIR"
        checked = {
            split: [validate(self.row_model, row, place, remedy=remedy).model_dump(by_alias=True) for row in rows[split]]
            for split in rows
        }
        return self.by_subtask(checked, path)

    def by_subtask(self, splits: Splits, source: str) -> Subtasks:
        """Divide the questions into one subtask, or one per subject.

        Args:
            splits: the questions of the task by split.
            source: where they come from, for error messages.

        Raises:
            UserError: a subtask has fewer few-shot examples than its prompt needs, or every question is among them.
        """
        if not self.by_subject:
            subtasks = {self.name: splits}
        else:
            subjects = sorted({row["subject"] for row in splits[self.test_split]})
            subtasks = {
                f"{self.name}_{subject}": {
                    split: [row for row in rows if row["subject"] == subject] for split, rows in splits.items()
                }
                for subject in subjects
            }
        if self.fewshot_split is not None:
            for subtask, of_subtask in subtasks.items():
                if (count := len(of_subtask[self.fewshot_split])) < self.num_fewshot:
                    raise UserError(
                        f"{source}: {subtask} has {count} rows in its split {self.fewshot_split}, "
                        f"and a {self.num_fewshot}-shot prompt needs {self.num_fewshot}; give the whole split"
                    )
        if self.num_fewshot and self._repeated(splits) == len(splits[self.test_split]):
            raise UserError(
                f"{source}: every question of {self.name} is also in its split {self.fewshot_split}, "
                "so prompts would hold the answers; give the benchmark's own splits"
            )
        return subtasks

    def _repeated(self, splits: Splits) -> int:
        """The number of test questions that are rows of the few-shot split too, answers included."""
        if not self.num_fewshot or self.fewshot_split is None:
            return 0
        examples = {repr(row) for row in splits[self.fewshot_split]}
        return sum(repr(row) in examples for row in splits[self.test_split])

    def note(self, subtasks: Subtasks) -> str:
        """Say how many test questions may be asked with their own answers before them; empty where none is."""
        questions = sum(len(splits[self.test_split]) for splits in subtasks.values())
        repeated = sum(map(self._repeated, subtasks.values()))
        return f"{repeated} of {questions} questions are also among the few-shot examples" if repeated else ""

    def _check_subjects(self, rows: Rows, source: str) -> None:
        known = self.prompt.stock_subjects()
        for subject in sorted({row["subject"] for row in rows} - set(known)) if known else ():
            raise UserError(f"{source}: unknown subject {subject!r}{did_you_mean(subject, known)}; correct the column")

    def limited(self, subtasks: Subtasks, limit: int | None) -> Subtasks:
        """Keep at most `limit` test questions in all. Few-shot examples are kept whole, so that prompts stay the same."""
        if limit is None:
            return subtasks
        quotas = even_quotas(limit, [len(splits[self.test_split]) for splits in subtasks.values()])
        cut = {
            subtask: splits | {self.test_split: splits[self.test_split][:quota]}
            for (subtask, splits), quota in zip(subtasks.items(), quotas, strict=True)
        }
        return {subtask: splits for subtask, splits in cut.items() if splits[self.test_split]}

    def question_texts(self, subtasks: Subtasks) -> list[str]:
        """The text of each test question, in order, without few-shot examples and answers."""
        rows: Rows = [row for splits in subtasks.values() for row in splits[self.test_split]]
        return [row[self.row_model.text_column] for row in rows]
