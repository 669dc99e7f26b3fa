"""Tables of what differences between evaluation protocols are worth, from the records of experiments/protocol_worth.py."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import paired_records
import records

from spac_repro.runs import files
from spac_repro.trust.paired_scores import PairedScore


@dataclass(frozen=True)
class Row:
    """What a difference is worth: B − A."""

    difference: str
    score: PairedScore


def record(name: str, rows: Sequence[Row]) -> Path:
    """Keep the rows for the tables of docs/."""
    file = records.FOLDER / f"{name}.worth.json"
    files.write_json(file, [{"difference": row.difference, "score": asdict(row.score)} for row in rows])
    return file


def worth(names: str, options: Mapping[str, str]) -> list[list[str]]:
    """What differences are worth, of records joined by `+`; of a row that several have, the first one's."""
    rows: dict[tuple[str, str], Row] = {}
    for name in names.split("+"):
        file = records.FOLDER / f"{name}.worth.json"
        for each in files.read_json(file):
            row = Row(each["difference"], paired_records.score_of(each["score"], file))
            rows.setdefault((row.difference, row.score.task), row)
    order = list(dict.fromkeys(difference for difference, _ in rows))
    return cells(sorted(rows.values(), key=lambda row: order.index(row.difference)))


def cells(rows: Sequence[Row]) -> list[list[str]]:
    """The rows as a table, its heads first."""
    lines = [["difference", "score", "questions", "A", "B", "gained, lost", "B − A, 95 % interval", "p", "detectable"]]
    for row in rows:
        score = row.score
        flips = "" if score.gained is None else f"{score.gained}, {score.lost}"
        interval = "" if score.low is None or score.high is None else f" [{score.low:+.3f}, {score.high:+.3f}]"
        p = "" if score.p is None else f"{score.p.value:.2g}"
        detectable = "" if score.detectable is None else f"{score.detectable:.3f}"
        shares = [f"{value:.3f}" for value in (score.a, score.b)]
        name = f"`{score.task}` {score.metric}"
        difference = f"{score.difference:+.3f}{interval}"
        lines.append([row.difference, name, str(score.questions), *shares, flips, difference, p, detectable])
    return lines


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table as Markdown."""
    head, *rest = lines
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rest))
