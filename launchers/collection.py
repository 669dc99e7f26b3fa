"""What a sweep measured, in one table: over the seeds of each (settings, method, iteration, task), and what is missing."""

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spac_repro.launchers.ledger import Ledger
from spac_repro.launchers.matrix import Cell
from spac_repro.runs import files, record

NUMBERS = ("mean", "sd", "low", "high")


@dataclass(frozen=True)
class Table:
    """Rows with the keys `columns`; low and high bound the 95 % interval of the mean."""

    title: str
    columns: list[str]
    rows: list[dict[str, Any]]
    missing: list[str]  # cells without results


def collect(book: Ledger) -> Table:
    """The table of a sweep. A mean is over the seeds that are there; the row says how many, and which are not."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in book.cells.values():
        groups.setdefault((cell.name.rpartition("/")[0], cell.method), []).append(cell)
    varied = list(dict.fromkeys(key for cell in book.cells.values() for key in cell.varied))
    rows = [row for cells in groups.values() for row in _rows(book, cells, varied)]
    missing = [cell.name for cell in book.cells.values() if not book.run(cell).complete]
    columns = [*varied, "method", "iteration", "task", "metric", *NUMBERS, "seeds", "missing_seeds"]
    return Table(book.name, columns, rows, missing)


def _rows(book: Ledger, cells: Sequence[Cell], varied: Sequence[str]) -> Iterator[dict[str, Any]]:
    values: dict[tuple[int, str, str], list[float]] = {}
    missing = [cell.seed for cell in cells if not book.run(cell).complete]
    for cell in cells:
        if cell.seed in missing:
            continue
        for iterate in record.open_checked(book.run_folder(cell)).results.iterations:
            for score in iterate.scores:
                values.setdefault((iterate.iteration, score.task, score.metric), []).append(score.value)
    head = {**{key: _plain(cells[0].varied.get(key)) for key in varied}, "method": cells[0].method}
    tail = {"missing_seeds": " ".join(map(str, missing))}
    if not values:  # a row of its own: a group that is not there must not look like one that was not asked for
        nothing = {"iteration": None, "task": None, "metric": None, **dict.fromkeys(NUMBERS), "seeds": 0}
        yield {**head, **nothing, **tail}
    for (iteration, task, metric), of_seeds in values.items():
        yield {**head, "iteration": iteration, "task": task, "metric": metric, **summary(of_seeds), "seeds": len(of_seeds), **tail}


def summary(values: Sequence[float]) -> dict[str, float | None]:
    """Mean, standard deviation, and the 95 % interval of the mean by Student's t; None where one value cannot say."""
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return {"mean": mean, "sd": None, "low": None, "high": None}
    from scipy.stats import t

    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(t.ppf(0.975, n - 1)) * sd / math.sqrt(n)
    return {"mean": mean, "sd": sd, "low": mean - half, "high": mean + half}


def write(table: Table, folder: Path) -> list[Path]:
    """The table as results.parquet, .csv, .md and .tex."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sheet = pa.table({column: [row[column] for row in table.rows] for column in table.columns})
    buffer = io.BytesIO()
    pq.write_table(sheet, buffer)
    contents = {
        "parquet": buffer.getvalue(),
        "csv": _csv(table).encode(),
        "md": _markdown(table).encode(),
        "tex": _latex(table).encode(),
    }
    written = [folder / f"results.{suffix}" for suffix in contents]
    for file, content in zip(written, contents.values(), strict=True):
        files.write_bytes(file, content)
    return written


def render(table: Table) -> Any:
    """The table for a terminal."""
    from rich.table import Table as Rich

    rich = Rich(title=table.title, title_justify="left")
    for column in table.columns:
        rich.add_column(column, overflow="fold")
    for row in table.rows:
        rich.add_row(*(_text(row[column]) for column in table.columns))
    return rich


def _csv(table: Table) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, table.columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table.rows)
    return text.getvalue()


def _markdown(table: Table) -> str:
    lines = [table.columns, ["---"] * len(table.columns), *([_text(row[column]) for column in table.columns] for row in table.rows)]
    body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return body + "\n" + "".join(f"\nMissing: {cell}\n" for cell in table.missing)


def _latex(table: Table) -> str:
    """A tabular for the booktabs package."""
    align = "".join("r" if column in (*NUMBERS, "iteration", "seeds") else "l" for column in table.columns)
    body = [" & ".join(_escape(_text(row[column])) for column in table.columns) + r" \\" for row in table.rows]
    head = " & ".join(map(_escape, table.columns)) + r" \\"
    lines = [rf"\begin{{tabular}}{{{align}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]
    return "\n".join([*lines, *(f"% missing: {cell}" for cell in table.missing)]) + "\n"


def _escape(text: str) -> str:
    for character in "&%$#_{}":
        text = text.replace(character, f"\\{character}")
    return text


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> str:
    """A varied value as text: one column may hold numbers and null."""
    return "null" if value is None else str(value)
