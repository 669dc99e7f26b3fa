"""The scores of a sweep in one table: mean and interval over seeds, for each setting, method, iteration and task."""

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spac_repro.documents.errors import one_line
from spac_repro.errors import UserError
from spac_repro.launchers.matrix import SweepRun
from spac_repro.launchers.sweep_folder import SweepFolder
from spac_repro.runs import file_hashes, files
from spac_repro.runs.folder import RunFolder

STATISTICS = ("mean", "sd", "low", "high")


@dataclass(frozen=True)
class ScoreTable:
    """The scores of a sweep.

    Attributes:
        title: the sweep's name.
        columns: names of the columns. `low` and `high` are the bounds of the 95 % interval of the mean.
        rows: the rows, by column.
        missing: names of the runs without results.
    """

    title: str
    columns: list[str]
    rows: list[dict[str, Any]]
    missing: list[str]


def collect(folder: SweepFolder) -> ScoreTable:
    """Collect the scores of a sweep. Each mean is over the completed seeds; the row says how many they are, and which are missing.

    Raises:
        UserError: the results of a run cannot be read.
    """
    groups: dict[tuple[str, str], list[SweepRun]] = {}
    for run in folder.runs.values():
        groups.setdefault((run.name.rpartition("/")[0], run.method), []).append(run)
    varied = list(dict.fromkeys(key for run in folder.runs.values() for key in run.varied))
    rows = [row for runs in groups.values() for row in _rows(folder, runs, varied)]
    missing = [run.name for run in folder.runs.values() if not folder.run_folder(run).complete]
    columns = [*varied, "method", "iteration", "task", "metric", *STATISTICS, "seeds", "missing_seeds"]
    return ScoreTable(folder.name, columns, rows, missing)


def _rows(folder: SweepFolder, runs: Sequence[SweepRun], varied: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of runs that only differ in their seed."""
    values: dict[tuple[int, str, str], list[float]] = {}
    missing = [run.seed for run in runs if not folder.run_folder(run).complete]
    for run in runs:
        if run.seed in missing:
            continue
        for iterate in _checked_run(folder, run).results.iterations:
            for score in iterate.scores:
                values.setdefault((iterate.iteration, score.task, score.metric), []).append(score.value)
    head = {**{key: _setting_text(runs[0].varied.get(key)) for key in varied}, "method": runs[0].method}
    tail = {"missing_seeds": " ".join(map(str, missing))}
    if not values:  # an empty row, so that the group does not look as if it had never been asked for
        empty = {"iteration": None, "task": None, "metric": None, **dict.fromkeys(STATISTICS), "seeds": 0}
        yield {**head, **empty, **tail}
    for (iteration, task, metric), of_seeds in values.items():
        yield {
            **head,
            "iteration": iteration,
            "task": task,
            "metric": metric,
            **mean_and_interval(of_seeds),
            "seeds": len(of_seeds),
            **tail,
        }


def _checked_run(folder: SweepFolder, run: SweepRun) -> RunFolder:
    """The folder of a completed run, whose files and settings were checked."""
    found = file_hashes.open_checked(folder.run_folder(run).path)
    settings = found.manifest.settings_sha256
    if settings not in (None, run.settings_sha256) or found.manifest.seed != run.seed:
        raise UserError(f"{found}: it holds another run than the sweep's {run.name}; remove it and repeat `sweep submit`")
    return found


def mean_and_interval(values: Sequence[float]) -> dict[str, float | None]:
    """Mean, sample standard deviation, and the 95 % interval of the mean by Student's t; None where one value is too few."""
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return {"mean": mean, "sd": None, "low": None, "high": None}
    from scipy.stats import t

    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(t.ppf(0.975, n - 1)) * sd / math.sqrt(n)
    return {"mean": mean, "sd": sd, "low": mean - half, "high": mean + half}


def write(table: ScoreTable, folder: Path) -> list[Path]:
    """Write the table as results.parquet, .csv, .md and .tex, and return these files."""
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


def render(table: ScoreTable) -> Any:
    """Return the table for a terminal (rich)."""
    from rich.table import Table as Rich

    rich = Rich(title=table.title, title_justify="left")
    for column in table.columns:
        rich.add_column(one_line(column), overflow="fold")
    for row in table.rows:
        rich.add_row(*(_text(row[column]) for column in table.columns))
    return rich


def _csv(table: ScoreTable) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, table.columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({column: _csv_cell(value) for column, value in row.items()} for row in table.rows)
    return text.getvalue()


def _csv_cell(value: Any) -> Any:
    """The value. A text that a spreadsheet would take for a formula gets an apostrophe before it."""
    if not isinstance(value, str):
        return value
    text = one_line(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _markdown(table: ScoreTable) -> str:
    lines = [table.columns, ["---"] * len(table.columns), *([_text(row[column]) for column in table.columns] for row in table.rows)]
    body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return body + "\n" + "".join(f"\nMissing: {run}\n" for run in table.missing)


def _latex(table: ScoreTable) -> str:
    """A tabular for the booktabs package."""
    align = "".join("r" if column in (*STATISTICS, "iteration", "seeds") else "l" for column in table.columns)
    body = [" & ".join(_escape(_text(row[column])) for column in table.columns) + r" \\" for row in table.rows]
    head = " & ".join(map(_escape, table.columns)) + r" \\"
    lines = [rf"\begin{{tabular}}{{{align}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]
    return "\n".join([*lines, *(f"% missing: {run}" for run in table.missing)]) + "\n"


_LATEX = {character: f"\\{character}" for character in "&%$#_{}"}
_LATEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def _escape(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else one_line(value)


def _setting_text(value: Any) -> str:
    """The value of a varied setting as text, because one column may hold numbers and null."""
    return "null" if value is None else str(value)
