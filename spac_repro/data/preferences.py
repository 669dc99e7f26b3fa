"""Preference pairs from files or the Hugging Face hub: read row by row, checked, and identified by a fingerprint."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

from spac_repro.data import columns, memory_map, pairs, row_sources
from spac_repro.data.dialogue import Messages
from spac_repro.data.reading_summary import ReadingSummary, Tally
from spac_repro.data.row_files import Records
from spac_repro.documents.errors import user_error
from spac_repro.errors import UserError

FIELDS = ("prompt", "chosen", "rejected")


@dataclass(frozen=True)
class Preference:
    """One prompt with a chosen and a rejected response.

    Attributes:
        prompt: the messages before the response; a plain-text prompt is one user message.
        chosen: text of the last assistant turn.
        rejected: text of the last assistant turn.
    """

    prompt: Messages
    chosen: str
    rejected: str


@dataclass(frozen=True)
class Reading:
    """Preference pairs in their order, memory-mapped, and what was found beside them."""

    preferences: Sequence[Preference]
    summary: ReadingSummary


def read(source: str, *, revision: str | None = None, limit: int | None = None, strict: bool = False) -> Reading:
    """Read preference pairs in their order.

    docs/data.md lists the forms that a row may have. Rows that state no preference (`pairs` has the reasons) are dropped and
    counted.

    Args:
        source: a `.jsonl`, `.json`, `.csv`, `.tsv` (all may be gzipped) or `.parquet` file; a folder of such files (all of them,
            sorted by path), or FOLDER:SPLIT; a folder written by `datasets.Dataset.save_to_disk`; or a hub data set
            `OWNER/NAME[:[CONFIG/]SPLIT]` (default split: `train`).
        revision: commit hash of a hub data set; ignored for local data.
        limit: read only the first `limit` pairs.
        strict: refuse a row that would be dropped.

    Raises:
        UserError: a row, file or data set cannot be read; the message names the file and the line or row.
        UnfitEnvironmentError: the hub cannot be reached and the data set is not cached; or the disk is full.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit {limit}: read at least one preference pair")
    tally = Tally()
    with closing(row_sources.records(source, revision)) as records:  # a bad row leaves no file open
        preferences = _memory_mapped(islice(_pairs(records, tally, strict=strict), limit))
    summary = tally.summary(len(preferences))
    if not preferences and tally.rows:
        reasons = "; ".join(f"{reason} ({rows.number} rows)" for reason, rows in summary.dropped.items())
        raise user_error(source, f"no preference pair is left: {reasons}")
    if not preferences:
        raise UserError(f"{source}: is empty; at least one preference pair is needed")
    return Reading(preferences, summary)


def read_preferences(source: str, *, revision: str | None = None, limit: int | None = None) -> Sequence[Preference]:
    """Read preference pairs as `read` does, without the summary."""
    return read(source, revision=revision, limit=limit).preferences


def fingerprint(rows: Sequence[Preference]) -> str:
    """Compute the SHA-256 of the rows in order, each as one line of canonical JSON; the source's format does not matter."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(_line(row).encode() + b"\n")
    return digest.hexdigest()


def _pairs(records: Records, tally: Tally, *, strict: bool) -> Iterator[Preference]:
    for where, stored, names in records:
        row = pairs.as_object(stored, where)
        layout = columns.find_layout(tuple(row) if names is None else names, where)
        tally.add(layout)
        try:
            yield Preference(*pairs.pair(row, layout, where))
        except pairs.DroppedRowError as dropped:
            if strict:
                raise UserError(f"{where}: {dropped.reason}, which states no preference; remove the row") from None
            tally.drop(dropped.reason, where)


def _line(row: Preference) -> str:
    content = [[[message["role"], message["content"]] for message in row.prompt], row.chosen, row.rejected]
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def _from_line(line: str) -> Preference:
    prompt, chosen, rejected = json.loads(line)
    return Preference(tuple({"role": role, "content": content} for role, content in prompt), chosen, rejected)


def _memory_mapped(rows: Iterable[Preference]) -> Sequence[Preference]:
    import pyarrow as pa

    schema = pa.schema({"row": pa.large_string()})
    lines = (pa.array(map(_line, batch), pa.large_string()) for batch in memory_map.batched(rows))
    batches = (pa.record_batch([column], schema=schema) for column in lines)
    return memory_map.MappedColumn(memory_map.write_table(batches, schema)["row"], lambda value: _from_line(value.as_py()))
