"""A task of a leaderboard, as its YAML file says it: its prompt, its shots, its metrics, and where its questions come from."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from spac_repro.documents.settings import Settings
from spac_repro.documents.source import NamedSource
from spac_repro.documents.suggestions import did_you_mean
from spac_repro.documents.validation import validate
from spac_repro.errors import UnfitEnvironmentError, UserError
from spac_repro.evaluation.leaderboard.prompt import SUBJECT, Written
from spac_repro.evaluation.leaderboard.questions import ROWS, Row, Rows, Splits, read_split, required, spread

Leaves = dict[str, Splits]  # the harness's task name -> its questions; several where a task is asked by subject

if TYPE_CHECKING:
    RowName = str
else:
    RowName = Literal[tuple(ROWS)]

Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=100)]
Key = Annotated[str, Field(pattern=r"^[a-z0-9_]+,[A-Za-z0-9_-]+$")]  # "metric,filter"


class Hub(Settings):
    """A data set of the hub and its configuration, in which "{subject}" stands for a subject."""

    data_set: str
    configuration: str | None = None


class Task(Settings):
    """What is known about a task, and its questions.

    `metrics` maps our name of a metric to the harness's key ("metric,filter"); the first is the one that counts in the average.
    A task that is asked by subject has two for one key: the plain mean over its subjects, and the mean over its questions.
    """

    name: Word
    prompt: Written
    shots: Annotated[int, Field(ge=0)] = 0
    examples: Word | None = None  # the split that few-shot examples are drawn from
    asked: Word  # the split whose questions are asked
    metrics: Annotated[dict[Word, Key], Field(min_length=1)]
    row: RowName | None = None  # a check of rows that the package has …
    columns: Annotated[tuple[str, ...], Field(min_length=1)] | None = None  # … or the columns that every row must have
    overlap: str | None = None  # with `columns`: the one that is held against training prompts; None: the first
    folder: Word | None = None  # under --questions; None: the task's name
    hub: Hub | None = None  # None: questions come from files only
    by_subject: bool = False  # a column `subject` says which
    generates: Annotated[int, Field(ge=0)] = 0  # new tokens, where the answer is generated
    version: int | float = 1.0  # of a prompt that is written here, and of a group of subjects; a stock prompt has its own

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def splits(self) -> tuple[str, ...]:
        return (self.asked,) if self.examples is None else (self.examples, self.asked)

    @property
    def data_folder(self) -> str:
        """Where the questions lie, under the folder of all questions."""
        return self.folder or self.name

    @property
    def primary(self) -> str:
        return next(iter(self.metrics))

    @property
    def check(self) -> type[Row]:
        """What every row is held against."""
        return ROWS[self.row] if self.row is not None else required(self.columns or (), self.overlap)

    # What the harness is told

    def harness_keys(self) -> dict[str, Any]:
        """The harness's keys of the task, beside those of the included file. What a task file says once is derived here."""
        keys = self.prompt.keys()
        if self.prompt.include is None:
            metrics = dict.fromkeys(key.partition(",")[0] for key in self.metrics.values())
            keys["metric_list"] = [{"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in metrics]
        if self.prompt.include is None or self.prompt.keys():
            keys["metadata"] = {"version": self.version}
        if self.prompt.generates:
            keys["generation_kwargs"] |= {"max_gen_toks": self.generates, "do_sample": False, "temperature": 0.0}
        return {**keys, "num_fewshot": self.shots}

    def harness_splits(self) -> dict[str, str | None]:
        """The harness's keys of the splits, where an included file has other ones."""
        return {"test_split": self.asked, "validation_split": None, "training_split": None, "fewshot_split": self.examples}

    def harness_group(self, leaves: list[str]) -> dict[str, Any]:
        """The harness's group of a task's subjects: their mean is weighted by how many questions each has."""
        metrics = dict.fromkeys(key.partition(",")[0] for key in self.metrics.values())
        return {
            "group": self.name,
            "task": leaves,
            "aggregate_metric_list": [{"metric": metric, "weight_by_size": True} for metric in metrics],
            "metadata": {"version": self.version},
        }

    # Questions

    def from_files(self, data: Path) -> Leaves:
        """The questions in DATA/<folder>/<split>.jsonl, .jsonl.gz or .parquet. Raises UserError naming file and line."""
        folder = data / self.data_folder
        if not folder.is_dir():
            raise UserError(f"{data} has no folder {folder.name}; add it, or leave {self.name} out with --tasks")
        splits = {split: read_split(folder, split, self.check) for split in self.splits}
        self._check_subjects(splits[self.asked], str(folder))
        return self.grouped(splits, str(folder))

    def from_hub(self) -> Leaves:
        """The questions in the task's data set: from the local cache, or from the hub where it may be asked.

        Raises UnfitEnvironmentError where neither has them, UserError where the task names no data set.
        """
        import datasets
        import huggingface_hub.utils.logging as hub_logging

        if self.hub is None:
            raise UserError(f"{self.name} names no data set of the hub; give its questions with --questions DIR")
        hub_logging.set_verbosity_error()  # its retries are many lines; what comes of them is one
        path, name = self.hub.data_set, self.hub.configuration
        subjects = self.prompt.stock_subjects() if name and SUBJECT in name else [""]
        rows: Splits = {split: [] for split in self.splits}
        try:
            for subject in subjects:
                for split in self.splits:
                    rows[split] += datasets.load_dataset(path, name and name.replace(SUBJECT, subject), split=split).to_list()
        except Exception as error:  # the hub's client fails in many ways; all mean that the questions cannot be had here
            raise UnfitEnvironmentError(
                f"{self.name}: the data set {path} is neither cached nor to be had from the hub ({type(error).__name__}); "
                "prefetch it where there is a network, or give the questions with --questions DIR"
            ) from None
        place, remedy = NamedSource(f"{self.name}: the data set {path} has changed"), "give the questions with --questions DIR"
        checked = {
            split: [validate(self.check, row, place, remedy=remedy).model_dump(by_alias=True) for row in rows[split]]
            for split in rows
        }
        return self.grouped(checked, path)

    def grouped(self, splits: Splits, place: str) -> Leaves:
        """One leaf, or one for each subject, each with enough examples for its prompt. `place` names the source in errors."""
        if not self.by_subject:
            leaves = {self.name: splits}
        else:
            subjects = sorted({row["subject"] for row in splits[self.asked]})
            leaves = {
                f"{self.name}_{subject}": {
                    split: [row for row in rows if row["subject"] == subject] for split, rows in splits.items()
                }
                for subject in subjects
            }
        for leaf, its in leaves.items():
            if self.examples is not None and len(its[self.examples]) < self.shots:
                raise UserError(
                    f"{place}: {leaf} has {len(its[self.examples])} rows in its split {self.examples}, "
                    f"and a {self.shots}-shot prompt needs {self.shots}; give the whole split"
                )
        return leaves

    def _check_subjects(self, rows: Rows, place: str) -> None:
        known = self.prompt.stock_subjects()
        for subject in sorted({row["subject"] for row in rows} - set(known)) if known else ():
            raise UserError(f"{place}: unknown subject {subject!r}{did_you_mean(subject, known)}; mend the column")

    def first(self, leaves: Leaves, limit: int | None) -> Leaves:
        """The leaves with at most `limit` questions to ask in all; the examples stay whole, so the prompts stay the same."""
        if limit is None:
            return leaves
        quotas = spread(limit, [len(splits[self.asked]) for splits in leaves.values()])
        cut = {
            leaf: splits | {self.asked: splits[self.asked][:quota]}
            for (leaf, splits), quota in zip(leaves.items(), quotas, strict=True)
        }
        return {leaf: splits for leaf, splits in cut.items() if splits[self.asked]}

    def words(self, leaves: Leaves) -> list[str]:
        """What each question asks, in the order asked; few-shot examples and answers left out."""
        rows: Rows = [row for splits in leaves.values() for row in splits[self.asked]]
        return [row[self.check.words] for row in rows]
