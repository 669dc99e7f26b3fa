"""The training data of one iteration: tokenized preferences, self-play responses, and log π_ref of each response.

The reference is frozen during an iteration. Its log-probabilities are computed once, stored with the self-play responses as
Parquet, and read from there, so training needs no second model in memory. The file holds the hash of the reference's weights and a
hash of its own content.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from spac_repro.data import memory_map
from spac_repro.data.example import TokenizedExample
from spac_repro.data.rendering import TokenizedPreferences
from spac_repro.errors import UserError
from spac_repro.runs.files import Hook, atomic_file, no_hook

if TYPE_CHECKING:
    import pyarrow as pa

RESPONSES = ("chosen", "rejected", "selfplay")
ANY_REFERENCE = "any"
CONTENT, REFERENCE = b"content_sha256", b"reference_sha256"  # keys of the two hashes in the file's metadata


@dataclass(frozen=True)
class PreferenceDataset:
    """n tokenized preferences with the responses that the method uses.

    `responses` has columns `chosen`, `rejected` and, if the method samples them, `selfplay`. `reference_logprobs` has log π_ref of
    each response that the method uses, [n] in nats, fp32; it is empty for a method without a reference.
    """

    prompts: Sequence[list[int]]
    responses: Mapping[str, Sequence[list[int]]]
    reference_logprobs: Mapping[str, Tensor]
    reference_sha256: str | None = None  # hash of the reference's weights; None without a reference

    @classmethod
    def from_tokenized(cls, preferences: TokenizedPreferences, selfplay: Sequence[list[int]] | None = None) -> "PreferenceDataset":
        """Join preferences with self-play responses, if the method uses any; reference log-probabilities are left empty."""
        responses = {"chosen": preferences.chosen, "rejected": preferences.rejected}
        if selfplay is not None:
            responses["selfplay"] = selfplay
        return cls(preferences.prompt, responses, {})

    def examples(self, names: Sequence[str], rows: Sequence[int]) -> list[TokenizedExample]:
        """Return the prompt of each of these rows with its named responses."""
        return [TokenizedExample(self.prompts[i], [self.responses[name][i] for name in names]) for i in rows]

    def num_tokens(self, names: Sequence[str]) -> list[int]:
        """Return the number of tokens of every row with its named responses, packed."""
        columns = (self.prompts, *(self.responses[name] for name in names))
        return [sum(row) for row in zip(*map(memory_map.lengths, columns), strict=True)]


def write(path: Path, data: PreferenceDataset, texts: Mapping[str, Iterable[str]], *, before_rename: Hook = no_hook) -> None:
    """Write a dataset as Parquet, in batches of rows; the file appears complete or not at all.

    Args:
        path: the file.
        data: the dataset.
        texts: further columns of text, for people who read the file.
        before_rename: gets the path of the complete temporary file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    types: dict[str, pa.DataType] = dict.fromkeys(texts, pa.string())
    columns: dict[str, Iterable[Any]] = dict(texts)
    for name, token_rows in {"prompt": data.prompts, **data.responses}.items():
        types[f"{name}_tokens"], columns[f"{name}_tokens"] = pa.list_(pa.int32()), token_rows
    for name, logprobs in data.reference_logprobs.items():
        types[f"{name}_reference_logprob"], columns[f"{name}_reference_logprob"] = pa.float32(), logprobs.tolist()
    schema = pa.schema(types)
    content = _ContentHash()
    with atomic_file(path, before_rename=before_rename) as file, pq.ParquetWriter(file, schema) as writer:
        for rows in memory_map.batched(zip(*columns.values(), strict=True)):
            arrays = [pa.array(values, kind) for values, kind in zip(zip(*rows, strict=True), schema.types, strict=True)]
            batch = pa.record_batch(arrays, schema=schema)
            content.add(batch)
            writer.write_batch(batch)
        writer.add_key_value_metadata({CONTENT: content.sha256(), REFERENCE: data.reference_sha256 or ""})


def read(
    path: Path, *, reference_sha256: str | None = ANY_REFERENCE, remedy: str = "remove it and repeat the command"
) -> PreferenceDataset:
    """Memory-map a dataset that `write` stored.

    Args:
        path: the file.
        reference_sha256: hash of the weights that the reference log-probabilities must belong to; None: there must be no reference.
        remedy: what the user is told to do about a bad file.

    Raises:
        UserError: the file is damaged, was changed, or belongs to another reference.
    """
    table, metadata, content = _read_table(path, remedy)
    if metadata.get(CONTENT, b"").decode() != content:
        raise UserError(f"{path} is damaged (its content is not what was written); {remedy}")
    stored_reference = metadata.get(REFERENCE, b"").decode() or None
    if reference_sha256 not in (ANY_REFERENCE, stored_reference):
        raise UserError(
            f"{path}: its reference log-probabilities belong to the weights {stored_reference}, but the reference has the weights "
            f"{reference_sha256}; {remedy}"
        )
    names = [name for name in RESPONSES if f"{name}_tokens" in table.column_names]
    return PreferenceDataset(
        memory_map.token_column(table["prompt_tokens"]),
        {name: memory_map.token_column(table[f"{name}_tokens"]) for name in names},
        {
            name: torch.from_numpy(table[f"{name}_reference_logprob"].to_numpy().copy())
            for name in names
            if f"{name}_reference_logprob" in table.column_names
        },
        stored_reference,
    )


def _read_table(path: Path, remedy: str) -> tuple["pa.Table", dict[bytes, bytes], str]:
    """Memory-map the columns that training needs; return them with the file's metadata and the hash of the content."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = _ContentHash()

    def batches(file: pq.ParquetFile, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for batch in file.iter_batches(batch_size=memory_map.BATCH_ROWS, columns=list(names)):
            content.add(batch)
            yield batch

    try:
        with pq.ParquetFile(path) as file:
            metadata, schema = file.metadata.metadata or {}, file.schema_arrow
            schema = pa.schema([field for field in schema if field.name.endswith(("_tokens", "_logprob"))])
            table = memory_map.write_table(batches(file, schema.names), schema)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is damaged ({error}); {remedy}") from None
    return table, metadata, content.sha256()


class _ContentHash:
    """A hash of tokens and log-probabilities by column; it does not depend on how rows are divided into batches."""

    def __init__(self) -> None:
        self._digests: dict[tuple[str, str], Any] = {}

    def add(self, batch: "pa.RecordBatch") -> None:
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if name.endswith("_tokens"):
                self._update(name, "lengths", column.value_lengths())
                self._update(name, "tokens", column.flatten())
            elif name.endswith("_logprob"):
                self._update(name, "values", column)

    def _update(self, name: str, part: str, values: "pa.Array") -> None:
        self._digests.setdefault((name, part), hashlib.sha256()).update(values.to_numpy(zero_copy_only=False).tobytes())

    def sha256(self) -> str:
        parts = (f"{name} {part} {digest.hexdigest()}\n" for (name, part), digest in sorted(self._digests.items()))
        return hashlib.sha256("".join(parts).encode()).hexdigest()
