"""Questions as data: what a row of each benchmark must hold, where rows come from, and which of them are asked.

A benchmark's files lie in one folder, one file a split, as JSON lines (gzipped or not) or Parquet, with the column names of
the public data sets. Files are data, never code: no loading script is run.
"""

import gzip
import zlib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, Field, create_model, model_validator

from spac_repro.documents import strict_json
from spac_repro.documents.source import NamedSource
from spac_repro.documents.validation import validate
from spac_repro.errors import UserError

Rows = list[dict[str, Any]]
Splits = dict[str, Rows]  # split name -> rows

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
Text = Annotated[str, Field(min_length=1)]


class Row(BaseModel):
    """The columns that a benchmark's prompt and score are made of; other columns are dropped."""

    words: ClassVar[str] = "question"  # the column that holds what is asked, for measuring contamination by training prompts


class Options(BaseModel):
    text: Annotated[list[Text], Field(min_length=2)]
    label: list[Text]


class ArcRow(Row):
    question: Text
    choices: Options
    answer_key: Annotated[Text, Field(alias="answerKey")]

    @model_validator(mode="after")
    def _answer_is_an_option(self) -> "ArcRow":
        if len(self.choices.label) != len(self.choices.text) or self.answer_key not in self.choices.label:
            raise ValueError(f"answerKey {self.answer_key!r} names none of the choices {self.choices.label}")
        return self


class HellaSwagRow(Row):
    words: ClassVar[str] = "ctx_a"
    activity_label: str
    ctx_a: Text
    ctx_b: str
    endings: Annotated[list[Text], Field(min_length=2)]
    label: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _label_is_an_ending(self) -> "HellaSwagRow":
        if self.label >= len(self.endings):
            raise ValueError(f"label {self.label} names none of the {len(self.endings)} endings")
        return self


class Answers(BaseModel):
    choices: Annotated[list[str], Field(min_length=2)]  # one of the public answers is empty
    labels: list[Literal[0, 1]]

    @model_validator(mode="after")
    def _some_are_true(self) -> "Answers":
        if len(self.labels) != len(self.choices) or 1 not in self.labels:
            raise ValueError("labels must be as many as choices, and mark at least one as true")
        return self


class TruthfulQaRow(Row):
    question: Text
    mc2_targets: Answers


class MmluRow(Row):
    question: Text
    choices: Annotated[list[str], Field(min_length=4, max_length=4)]
    answer: Annotated[int, Field(ge=0, le=3)]
    subject: Text


class WinoGrandeRow(Row):
    words: ClassVar[str] = "sentence"
    sentence: Annotated[str, Field(pattern="_.*[^ ]")]
    option1: Text
    option2: Text
    answer: Literal["1", "2"]


class Gsm8kRow(Row):
    question: Text
    answer: Annotated[str, Field(pattern=r"#### -?[0-9.,]+")]


ROWS: dict[str, type[Row]] = {
    "arc": ArcRow,
    "hellaswag": HellaSwagRow,
    "truthfulqa": TruthfulQaRow,
    "mmlu": MmluRow,
    "winogrande": WinoGrandeRow,
    "gsm8k": Gsm8kRow,
}
Subject = Annotated[str, Field(pattern=r"^\w[\w -]*$")]  # becomes part of a file's name


def _there(value: Any) -> Any:
    if value is None:
        raise ValueError("holds nothing")
    return value


@cache
def required(columns: tuple[str, ...], words: str | None = None) -> type[Row]:
    """The check of rows of which no more is known than the columns that each must have. `words`: one of them; None: the first."""
    words = words or columns[0]
    kinds = {words: Text, "subject": Subject}
    # Numbered, since a column may have any name.
    fields = {
        f"column_{number}": (kinds.get(column, Annotated[Any, AfterValidator(_there)]), Field(alias=column))
        for number, column in enumerate(columns)
    }
    row: type[Row] = create_model("Columns", __base__=Row, **fields)  # type: ignore[call-overload]
    row.words = words
    return row


def read_split(folder: Path, split: str, row: type[Row]) -> Rows:
    """The rows of one split of one benchmark, checked against what the benchmark needs.

    Raises UserError, naming the file and the line or row, where the file is missing, empty or not what it should be.
    """
    path = _find(folder, split)
    rows = []
    for number, values in _parquet(path) if path.suffix == ".parquet" else _json_lines(path):
        found = validate(row, values, NamedSource(f"{path}, row {number}"), remedy="mend or remove this row")
        rows.append(found.model_dump(by_alias=True))
    if not rows:
        raise UserError(f"{path} holds no rows; give the whole file of the benchmark")
    return rows


def _find(folder: Path, split: str) -> Path:
    found = [path for suffix in SUFFIXES if (path := folder / f"{split}{suffix}").is_file()]
    if len(found) > 1:
        raise UserError(f"{folder} has {' and '.join(path.name for path in found)}; keep one of them")
    if not found:
        raise UserError(f"{folder} has no {split}{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}; put the questions there")
    return found[0]


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8-sig") if path.suffix == ".gz" else path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, strict_json.parse(line, str(path), line=number, remedy="mend or remove this line")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{path}, after line {number}: cannot be read ({error}); fetch the file again") from None


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]}); fetch the file again") from None
    return enumerate(rows, start=1)


def spread(total: int, sizes: Sequence[int]) -> list[int]:
    """How many of `total` questions each subject is asked: as evenly as their sizes allow, a remainder at even distances.

    A pure function of its arguments, so the same limit always asks the same questions: the first ones of each subject.
    """
    quotas = [0] * len(sizes)
    while (left := min(total, sum(sizes)) - sum(quotas)) > 0:
        room = [subject for subject, size in enumerate(sizes) if quotas[subject] < size]
        for subject in room if left >= len(room) else (room[i * len(room) // left] for i in range(left)):
            quotas[subject] += 1
    return quotas
