"""A table of published scores, put into a file of expected results.

The table is a CSV file with one line a model: `method`, `iteration`, and one column a task of the file, `average` if the paper has
it. A line whose method is `n` states how many questions each task has. Numbers are percent or shares, as the caller says.
"""

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spac_repro import protocols
from spac_repro.documents import yaml_subset
from spac_repro.documents.errors import one_line, user_error
from spac_repro.documents.suggestions import did_you_mean
from spac_repro.documents.text import read_text
from spac_repro.documents.validation import validate
from spac_repro.errors import UserError
from spac_repro.methods import names
from spac_repro.runs import files
from spac_repro.trust.expected import (
    START,
    ExpectedResults,
    ExpectedRow,
    NotTranscribed,
    Published,
    check_expected,
    expected_path,
    load_expected,
)

AVERAGE = "average"
MAX_BYTES = 1 << 16
UNITS = ("percent", "share")
NUMBER = re.compile(r"-?([0-9]{1,9}(\.[0-9]{0,15})?|\.[0-9]{1,15})")  # as tables print them: `float` takes 6_0, 6e1 and nan too


@dataclass(frozen=True)
class Line:
    """The scores of one model, as shares."""

    number: int  # of the line in the file
    method: str
    iteration: int
    scores: Mapping[str, float]  # by task, the average among them


@dataclass(frozen=True)
class Imported:
    """What an import did."""

    rows: int  # added
    removed: tuple[str, ...]  # models whose untranscribed rows the table does not have
    skipped: tuple[str, ...]  # models that the file has already, with the same scores
    unknown: tuple[str, ...]  # methods that neither the file nor the package has, each with the name that may be meant


def import_table(
    table: Path,
    recipe: str,
    output: Path,
    *,
    citation: str,
    unit: str,
    protocol: str = "",
    base: Path | None = None,
) -> Imported:
    """Write a copy of a recipe's expected results with the rows of a table.

    Args:
        table: the CSV file.
        recipe: name of the recipe.
        output: the file to write; must not exist.
        citation: where the numbers were published: paper, table, rows.
        unit: of the numbers, one of `UNITS`.
        protocol: name of the evaluation's protocol, if it is stated.
        base: the file of expected results to copy; by default the package's for the recipe.

    Raises:
        UserError: the output exists; the table is wrong, its average does not recompute, or it contradicts the copied file.
    """
    if output.exists():
        raise UserError(f"{output}: exists; nothing is overwritten: name another file")
    if protocol:
        protocols.get(protocol)
    if not citation.strip():
        raise UserError("--citation is empty; name paper, table and rows, so that others can find the numbers")
    source_file = base or expected_path(recipe)
    if not source_file.exists():
        raise UserError(f"the recipe {recipe} has no expected results to add rows to; name a file with --expected")
    load_expected(source_file)  # what is wrong with the file itself is said before the table is looked at
    document = yaml_subset.read(source_file)
    expected = validate(ExpectedResults, document.value, document)  # without derived tolerances: the copy derives its own
    if expected.recipe != recipe:
        raise UserError(f"{source_file}: is about the recipe {expected.recipe}, not about {recipe}")
    lines = read_table(table, _sample_rows(expected), unit)
    merged, done = _merge(expected, lines, table, citation.strip(), protocol)
    text = f"# {one_line(source_file.name)} with the rows of a table, added by `spac-repro expected import`\n{merged.as_yaml()}"
    check_expected(yaml_subset.parse(text, str(output)))
    files.write_bytes(output, text.encode())
    return done


def _sample_rows(expected: ExpectedResults) -> dict[str, ExpectedRow]:
    """One row of each task: its metric, n and version are those of every row."""
    return {row.task: row for row in sorted(expected.rows, key=lambda row: row.value is not None)}


def read_table(path: Path, tasks: Mapping[str, ExpectedRow], unit: str) -> list[Line]:
    """Read and check a CSV file of scores.

    Args:
        path: the file.
        tasks: for each task, a row with its metric and n.
        unit: of the numbers, one of `UNITS`.

    Raises:
        UserError: the file is wrong; the message names file, line and column.
    """
    reader = csv.reader(io.StringIO(read_text(path, max_bytes=MAX_BYTES, missing_file_remedy="name a CSV file")), strict=True)
    try:
        records = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(map(str.strip, cells))]
    except csv.Error as error:
        raise user_error(str(path), f"not CSV ({error})", line=reader.line_num) from None
    if not records:
        raise user_error(str(path), "empty", remedy=f"the first line must be {_header(tasks)}")
    header = _check_header(path, records[0][1], tasks)
    lines: list[Line] = []
    for number, cells in records[1:]:
        if len(cells) != len(header):
            raise user_error(str(path), f"has {len(cells)} columns, and the first line {len(header)}", line=number)
        record = dict(zip(header, cells, strict=True))
        if record["method"] == "n":
            _check_n(path, number, record, tasks)
            continue
        lines.append(_line(path, number, record, unit))
        if any((line.method, line.iteration) == (lines[-1].method, lines[-1].iteration) for line in lines[:-1]):
            raise user_error(str(path), f"{lines[-1].method} iteration {lines[-1].iteration} occurs twice", line=number)
    if not lines:
        raise user_error(str(path), "has no scores below its first line")
    for line in lines:
        if unit == "percent" and max(line.scores.values()) <= 0.01:
            problem, remedy = "no number is above 1, so these look like shares", "say --unit share, with all lines as shares"
            raise user_error(str(path), problem, line=line.number, remedy=remedy)
    return lines


def _header(tasks: Mapping[str, ExpectedRow]) -> str:
    return ",".join(("method", "iteration", *(task for task in tasks if task != AVERAGE), AVERAGE))


def _check_header(path: Path, header: Sequence[str], tasks: Mapping[str, ExpectedRow]) -> Sequence[str]:
    known = ["method", "iteration", *tasks]
    if len(header) == 1:
        raise user_error(str(path), "only one column", line=1, remedy=f"put commas between the columns {_header(tasks)}")
    for name in header:
        if name not in known:
            raise user_error(
                str(path), f"unknown column {name!r}{did_you_mean(name, known)}", line=1, remedy=f"use {_header(tasks)}"
            )
        if header.count(name) > 1:
            raise user_error(str(path), f"the column {name!r} occurs twice", line=1)
    if missing := next((name for name in known if name not in header and name != AVERAGE), None):
        raise user_error(str(path), f"no column {missing!r}, and an average without it cannot be checked", line=1)
    return header


def _check_n(path: Path, number: int, record: Mapping[str, str], tasks: Mapping[str, ExpectedRow]) -> None:
    for task, row in tasks.items():
        cell = record.get(task, "")
        if cell and cell != str(row.n):
            problem = f"n is {cell}, and the recipe asks {row.n} questions"
            raise user_error(str(path), problem, line=number, key=task, remedy="scores on other questions cannot be compared")


def _line(path: Path, number: int, record: Mapping[str, str], unit: str) -> Line:
    if not record["method"]:
        raise user_error(str(path), "no method", line=number)
    if not record["method"].isprintable():
        raise user_error(str(path), f"{one_line(record['method'], 40)!r} is no name of a method", line=number)
    if not (record["iteration"].isascii() and record["iteration"].isdigit()) or len(record["iteration"]) > 6:
        raise user_error(str(path), f"iteration is {record['iteration']!r}, not a whole number", line=number)
    iteration = int(record["iteration"])
    if (iteration == 0) != (record["method"] == START):
        raise user_error(str(path), f"iteration 0 is the method {START!r}, and every other method counts from 1", line=number)
    cells = {name: cell for name, cell in record.items() if name not in ("method", "iteration") and (cell or name != AVERAGE)}
    scores = {name: _score(path, number, name, cell, unit) for name, cell in cells.items()}
    mean = math.fsum(score for name, score in scores.items() if name != AVERAGE) / (len(scores) - (AVERAGE in scores))
    if AVERAGE in scores:
        scale = 100 if unit == "percent" else 1
        digits = {name: len(cell.partition(".")[2]) for name, cell in cells.items()}
        of_tasks = [10.0**-count for name, count in digits.items() if name != AVERAGE]
        rounding = 0.5 * (10.0 ** -digits[AVERAGE] + math.fsum(of_tasks) / len(of_tasks)) / scale
        if abs(scores[AVERAGE] - mean) > rounding + 1e-9:
            found = f"is {cells[AVERAGE]}, and the mean of the tasks is {mean * scale:.{max(digits.values())}f}"
            raise user_error(
                str(path), found, line=number, key=AVERAGE, remedy="a number was mistyped, or the average has other tasks"
            )
    return Line(number, record["method"], iteration, {**scores, AVERAGE: scores.get(AVERAGE, round(mean, 6))})


def _score(path: Path, number: int, name: str, cell: str, unit: str) -> float:
    if not NUMBER.fullmatch(cell):
        raise user_error(str(path), f"{one_line(cell, 30)!r} is not a number such as 61.5", line=number, key=name)
    value = float(cell)
    most = 100 if unit == "percent" else 1
    if not 0 <= value <= most:
        remedy = "say --unit percent" if unit == "share" and 1 < value <= 100 else ""
        raise user_error(str(path), f"{one_line(cell, 30)} is not between 0 and {most}", line=number, key=name, remedy=remedy)
    return round(value / most, 8)


def _merge(
    expected: ExpectedResults, lines: Sequence[Line], table: Path, citation: str, protocol: str
) -> tuple[ExpectedResults, Imported]:
    """The expected results with the rows of the table in place of the untranscribed rows of its methods."""
    present = {(row.method, row.iteration, row.task): row for row in expected.rows}
    new, skipped = [], []
    for line in lines:
        had = [present[key] for task in line.scores if (key := (line.method, line.iteration, task)) in present]
        known = [row for row in had if row.value is not None]
        if other := next((row for row in known if abs((row.value or 0.0) - line.scores[row.task]) > 1e-9), None):
            problem = f"{other.key} is {other.value} there, from {other.source}, and {line.scores[other.task]:.4f} here"
            raise user_error(str(table), problem, line=line.number, remedy="leave the line out")
        skipped += [f"{line.method} {line.iteration}"] if known else []
        new += [] if known else [line]
    if not new:
        raise UserError(f"{table}: the file of expected results has all of these rows already")
    methods = {line.method for line in new}
    untranscribed = [row for row in expected.rows if row.method in methods and row.value is None]
    name = untranscribed[0].source if untranscribed else "imported"
    if not untranscribed and name in expected.sources:
        raise UserError(f"{table}: the file has a source {name!r} already; name a file without it with --expected")
    primary = {(row.method, row.task) for row in untranscribed if row.primary}
    added = tuple(_rows(new, _sample_rows(expected), name, primary))
    kept = tuple(row for row in expected.rows if row not in untranscribed and row.source != name)
    gone = {(row.method, row.iteration) for row in expected.rows if row not in kept} - {
        (line.method, line.iteration) for line in new
    }
    sources = {**expected.sources, name: Published(kind="published", citation=citation, protocol=protocol or None)}
    used = {row.source for row in (*kept, *added)}
    sources = {key: source for key, source in sources.items() if key in used or not isinstance(source, NotTranscribed)}
    merged = expected.model_copy(update={"rows": (*kept, *added), "sources": sources})
    removed = tuple(f"{method} {iteration}" for method, iteration in sorted(gone, key=str))
    named = {*(row.method for row in expected.rows), *names()}
    unknown = tuple(f"{name}{did_you_mean(name.lower(), named)}" for name in sorted(methods - named))
    return merged, Imported(len(added), removed, tuple(skipped), unknown)


def _rows(
    lines: Sequence[Line], tasks: Mapping[str, ExpectedRow], source: str, primary: set[tuple[str, str]]
) -> Iterator[ExpectedRow]:
    """The rows of the lines. What was primary of a method stays so, in its last iteration."""
    last = {line.method: max(each.iteration for each in lines if each.method == line.method) for line in lines}
    for line in lines:
        for task, sample in tasks.items():
            yield ExpectedRow(
                source=source,
                method=line.method,
                iteration=line.iteration,
                task=task,
                metric=sample.metric,
                value=line.scores[task],
                n=sample.n,
                version=sample.version,
                primary=(line.method, task) in primary and line.iteration == last[line.method],
            )
