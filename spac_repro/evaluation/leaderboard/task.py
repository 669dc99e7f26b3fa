"""A task of a leaderboard: its prompt, its shots, its metrics, and where its questions come from."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from spac_repro.documents.names import did_you_mean
from spac_repro.documents.place import Whole
from spac_repro.documents.validation import validate
from spac_repro.errors import UnfitEnvironmentError, UserError
from spac_repro.evaluation.leaderboard.questions import Row, Rows, Splits, read_split, spread

Leaves = dict[str, Splits]  # the harness's task name -> its questions; several where a task is asked by subject


@dataclass(frozen=True, eq=False)
class Task:
    """What the harness is told about a task.

    `metrics` maps our name of a metric to the harness's key ("metric,filter"); the first is the one that counts in the average.
    A task with a `group` file is asked by subject: `prompt` and `hub` then hold "{subject}".
    """

    name: str
    prompt: Path  # the harness's task file
    row: type[Row]
    shots: int
    examples: str | None  # the split that few-shot examples are drawn from
    asked: str  # the split whose questions are asked
    metrics: Mapping[str, str]
    folder: str = ""  # under --data
    hub: tuple[str, str | None] = ("", None)  # data set and configuration
    group: Path | None = None
    generates: int = 0  # new tokens, where the answer is generated

    @property
    def splits(self) -> tuple[str, ...]:
        return (self.asked,) if self.examples is None else (self.examples, self.asked)

    @property
    def primary(self) -> str:
        return next(iter(self.metrics))

    def from_files(self, data: Path) -> Leaves:
        """The questions in DATA/<folder>/<split>.jsonl, .jsonl.gz or .parquet. Raises UserError naming file and line."""
        folder = data / self.folder
        if not folder.is_dir():
            raise UserError(f"{data} has no folder {self.folder}; add it, or leave {self.name} out with --tasks")
        splits = {split: read_split(folder, split, self.row) for split in self.splits}
        self._check_subjects(splits[self.asked], str(folder))
        return self.by_subject(splits, str(folder))

    def from_hub(self) -> Leaves:
        """The questions in the harness's stock data sets: from the local cache, or from the hub where it may be asked.

        Raises UnfitEnvironmentError where neither has them.
        """
        import datasets
        import huggingface_hub.utils.logging as hub_logging

        hub_logging.set_verbosity_error()  # its retries are many lines; what comes of them is one
        path, name = self.hub
        names = [name] if self.group is None else [str(name).format(subject=subject) for subject in self.stock_subjects()]
        rows: Splits = {split: [] for split in self.splits}
        try:
            for name in names:
                for split in self.splits:
                    rows[split] += datasets.load_dataset(path, name, split=split).to_list()
        except Exception as error:  # the hub's client fails in many ways; all mean that the questions cannot be had here
            raise UnfitEnvironmentError(
                f"{self.name}: the data set {path} is neither cached nor to be had from the hub ({type(error).__name__}); "
                "prefetch it where there is a network, or give the questions with --data DIR"
            ) from None
        place, remedy = Whole(f"{self.name}: the data set {path} has changed"), "give the questions with --data DIR"
        checked: Splits = {}
        for split, its in rows.items():
            checked[split] = [validate(self.row, row, place, remedy=remedy).model_dump(by_alias=True) for row in its]
        return self.by_subject(checked, path)

    def by_subject(self, splits: Splits, place: str) -> Leaves:
        """One leaf, or one for each subject, each with enough examples for its prompt. `place` names the source in errors."""
        if self.group is None:
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

    def stock_subjects(self) -> list[str]:
        """The subjects that there are task files for."""
        prefix, suffix = self.prompt.name.split("{subject}")
        names = (path.name for path in self.prompt.parent.glob(f"{prefix}*{suffix}"))
        return sorted(name.removeprefix(prefix).removesuffix(suffix) for name in names)

    def _check_subjects(self, rows: Rows, place: str) -> None:
        known = self.stock_subjects() if self.group is not None else []
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
        return [row[self.row.words] for row in rows]
