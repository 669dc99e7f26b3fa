"""The questions of a benchmark: schemas of their rows, files to read them from, and the quota of each subject.

The files of a benchmark lie in one folder, one file per split, as JSON lines (gzipped or not) or Parquet, with the column names of
the public data sets. No loading script is run.
"""

import glob
import gzip
import zlib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, Field, create_model, model_validator

from spac_repro.documents import parquet, strict_json
from spac_repro.documents.location import NamedSource
from spac_repro.documents.text import check_no_lfs_pointer
from spac_repro.documents.validation import validate
from spac_repro.errors import UserError

Rows = list[dict[str, Any]]
Splits = dict[str, Rows]  # split name -> rows

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
MAX_LINE = 1 << 24  # characters of a row
MAX_BYTES = 1 << 28  # of the rows of a split, or characters of a text file
Text = Annotated[str, Field(min_length=1)]


class Row(BaseModel):
    """The columns that prompt and metrics of a benchmark use; other columns are dropped."""

    text_column: ClassVar[str] = "question"  # the column that is compared with training prompts for contamination


class ArcChoices(BaseModel):
    """The choices of an ARC question and their labels."""

    text: Annotated[list[Text], Field(min_length=2)]
    label: list[Text]


class ArcRow(Row):
    """A row of ARC (Clark et al. 2018)."""

    question: Text
    choices: ArcChoices
    answer_key: Annotated[Text, Field(alias="answerKey")]

    @model_validator(mode="after")
    def _answer_is_an_option(self) -> "ArcRow":
        if len(self.choices.label) != len(self.choices.text) or self.answer_key not in self.choices.label:
            raise ValueError(f"answerKey {self.answer_key!r} names none of the choices {self.choices.label}")
        return self


class HellaSwagRow(Row):
    """A row of HellaSwag (Zellers et al. 2019)."""

    text_column: ClassVar[str] = "ctx_a"
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


class Mc2Targets(BaseModel):
    """The answers to a TruthfulQA question, and which of them are true."""

    choices: Annotated[list[str], Field(min_length=2)]  # one of the public answers is empty
    labels: list[Literal[0, 1]]

    @model_validator(mode="after")
    def _some_are_true(self) -> "Mc2Targets":
        if len(self.labels) != len(self.choices) or 1 not in self.labels:
            raise ValueError("labels must be as many as choices, and mark at least one as true")
        return self


class TruthfulQaRow(Row):
    """A row of TruthfulQA (Lin et al. 2022), multiple choice."""

    question: Text
    mc2_targets: Mc2Targets


class MmluRow(Row):
    """A row of MMLU (Hendrycks et al. 2021)."""

    question: Text
    choices: Annotated[list[str], Field(min_length=4, max_length=4)]
    answer: Annotated[int, Field(ge=0, le=3)]
    subject: Text


class WinoGrandeRow(Row):
    """A row of WinoGrande (Sakaguchi et al. 2020)."""

    text_column: ClassVar[str] = "sentence"
    sentence: Annotated[str, Field(pattern="_.*[^ ]")]
    option1: Text
    option2: Text
    answer: Literal["1", "2"]


class Gsm8kRow(Row):
    """A row of GSM8K (Cobbe et al. 2021)."""

    question: Text
    answer: Annotated[str, Field(pattern=r"#### -?[0-9.,]+")]


ROW_SCHEMAS: dict[str, type[Row]] = {
    "arc": ArcRow,
    "hellaswag": HellaSwagRow,
    "truthfulqa": TruthfulQaRow,
    "mmlu": MmluRow,
    "winogrande": WinoGrandeRow,
    "gsm8k": Gsm8kRow,
}
Subject = Annotated[str, Field(pattern=r"^\w[\w -]*$")]  # becomes a part of a file's name


def _check_not_null(value: Any) -> Any:
    if value is None:
        raise ValueError("is null")
    return value


@cache
def row_with_columns(columns: tuple[str, ...], text_column: str | None = None) -> type[Row]:
    """A schema for rows that must have certain columns, of any type.

    Args:
        columns: the required columns.
        text_column: the one with the text of the question; None: the first.
    """
    text_column = text_column or columns[0]
    kinds = {text_column: Text, "subject": Subject}
    # The fields are numbered because a column may have any name.
    fields = {
        f"column_{number}": (kinds.get(column, Annotated[Any, AfterValidator(_check_not_null)]), Field(alias=column))
        for number, column in enumerate(columns)
    }
    row: type[Row] = create_model("Columns", __base__=Row, **fields)  # type: ignore[call-overload]
    row.text_column = text_column
    return row


def read_split(folder: Path, split: str, row_model: type[Row]) -> Rows:
    """Read and validate the rows of one split.

    Raises:
        UserError: the file is missing, empty or wrong; the message names the file and the line or row.
    """
    path = _find_file(folder, split)
    columns = [field.alias or name for name, field in row_model.model_fields.items()]
    from_parquet = path.suffix == ".parquet"
    rows = []
    for number, values in (
        enumerate(parquet.rows(path, columns, max_bytes=MAX_BYTES), start=1) if from_parquet else json_lines(path)
    ):
        row = validate(row_model, values, NamedSource(f"{path}, row {number}"), remedy="correct or remove this row")
        rows.append(row.model_dump(by_alias=True))
    if not rows:
        raise UserError(f"{path} holds no rows; give the whole file of the benchmark")
    return rows


def _find_file(folder: Path, split: str) -> Path:
    found = [path for suffix in SUFFIXES if (path := folder / f"{split}{suffix}").is_file()]
    if len(found) > 1:
        raise UserError(f"{folder} has {' and '.join(path.name for path in found)}; keep one of them")
    if not found:
        # On the hub, a split is one file or several: train-00000-of-00001.parquet.
        found = sorted(folder.glob(f"{glob.escape(split)}-[0-9]*-of-[0-9]*.parquet"))
        if len(found) > 1:
            raise UserError(f"{folder} has the split {split} in {len(found)} files; join them into {split}.parquet")
    if not found:
        raise UserError(f"{folder} has no {split}{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}; put the questions there")
    return found[0]


def json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Read a file of JSON lines, gzipped or not.

    Yields:
        The number of each line that is not empty, and its value.

    Raises:
        UserError: the file cannot be read, is too long, or a line is not JSON.
    """
    number = total = 0
    check_no_lfs_pointer(path)
    try:
        with gzip.open(path, "rt", encoding="utf-8-sig") if path.suffix == ".gz" else path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(iter(lambda: lines.readline(MAX_LINE + 1), ""), start=1):
                if len(line) > MAX_LINE:
                    raise UserError(f"{path}, line {number}: longer than {MAX_LINE:,} characters; fetch the file again")
                total += len(line)
                if total > MAX_BYTES:
                    raise UserError(f"{path}: longer than {MAX_BYTES:,} characters; check that this is the right file")
                if line.strip():
                    yield number, strict_json.parse(line, str(path), line=number, remedy="correct or remove this line")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{path}, after line {number}: cannot be read ({error}); fetch the file again") from None


def even_quotas(total: int, sizes: Sequence[int]) -> list[int]:
    """Divide `total` questions among subjects as evenly as their sizes allow.

    A remainder goes to subjects at even distances. Equal arguments give equal quotas, so a limit always selects the same questions.

    Args:
        total: number of questions in all.
        sizes: number of questions that each subject has.

    Returns:
        The number of questions for each subject.
    """
    quotas = [0] * len(sizes)
    while (left := min(total, sum(sizes)) - sum(quotas)) > 0:
        room = [subject for subject, size in enumerate(sizes) if quotas[subject] < size]
        for subject in room if left >= len(room) else (room[i * len(room) // left] for i in range(left)):
            quotas[subject] += 1
    return quotas
