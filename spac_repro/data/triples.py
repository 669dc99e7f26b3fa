"""The data of one iteration: every preference with a self-play response, in tokens, and log π_ref of each response.

The reference is frozen during an iteration, so its log-probabilities are computed once, stored with the self-play responses as
Parquet, and read from there; no second model is in memory during training. The file says which weights the reference has, and
holds a hash of its own content.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from spac_repro.data import mapped
from spac_repro.data.groups import Group
from spac_repro.data.rendering import Examples
from spac_repro.errors import UserError
from spac_repro.runs.files import atomic_file

if TYPE_CHECKING:
    import pyarrow as pa

RESPONSES = ("chosen", "rejected", "selfplay")
ANY_REFERENCE = "any"
CONTENT, REFERENCE = b"content_sha256", b"reference_sha256"  # what the file's metadata calls the two hashes


@dataclass(frozen=True)
class Triples:
    """n preferences; `reference[name]` is log π_ref of that response, [n] in fp32, for the responses that the method uses."""

    prompts: Sequence[list[int]]
    responses: Mapping[str, Sequence[list[int]]]
    reference: Mapping[str, Tensor]
    reference_sha256: str | None = None  # of the weights of π_ref; None where there is no reference

    def groups(self, names: Sequence[str], rows: Sequence[int]) -> list[Group]:
        """The prompt of each of some rows, with its named responses."""
        return [Group(self.prompts[i], [self.responses[name][i] for name in names]) for i in rows]

    def sizes(self, names: Sequence[str]) -> list[int]:
        """Tokens of each row with its named responses, packed."""
        columns = (self.prompts, *(self.responses[name] for name in names))
        return [sum(row) for row in zip(*map(mapped.lengths, columns), strict=True)]


def from_examples(examples: Examples, selfplay: Sequence[list[int]] | None) -> Triples:
    """Join the data with the self-play responses, where the method has those; nothing is known of the reference yet."""
    responses = {"chosen": examples.chosen, "rejected": examples.rejected}
    if selfplay is not None:
        responses["selfplay"] = selfplay
    return Triples(examples.prompt, responses, {})


def write(path: Path, triples: Triples, texts: Mapping[str, Iterable[str]]) -> None:
    """Store the triples, with their texts for whoever reads the file, as Parquet: whole or not at all, some rows at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds: dict[str, pa.DataType] = dict.fromkeys(texts, pa.string())
    columns: dict[str, Iterable[Any]] = dict(texts)
    for name, rows in {"prompt": triples.prompts, **triples.responses}.items():
        kinds[f"{name}_tokens"], columns[f"{name}_tokens"] = pa.list_(pa.int32()), rows
    for name, logprobs in triples.reference.items():
        kinds[f"{name}_reference_logprob"], columns[f"{name}_reference_logprob"] = pa.float32(), logprobs.tolist()
    schema = pa.schema(kinds)
    content = _Content()
    with atomic_file(path) as file, pq.ParquetWriter(file, schema) as writer:
        for rows in mapped.batched(zip(*columns.values(), strict=True)):
            arrays = [pa.array(values, kind) for values, kind in zip(zip(*rows, strict=True), schema.types, strict=True)]
            batch = pa.record_batch(arrays, schema=schema)
            content.add(batch)
            writer.write_batch(batch)
        writer.add_key_value_metadata({CONTENT: content.sha256(), REFERENCE: triples.reference_sha256 or ""})


def read(path: Path, *, reference: str | None = ANY_REFERENCE, remedy: str = "remove it and repeat the command") -> Triples:
    """Map what `write` stored; `reference` is the hash of the weights that log π_ref must be of.

    Raises:
        UserError: the file is damaged, was changed, or has another reference.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = _Content()

    def batches(file: pq.ParquetFile, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for batch in file.iter_batches(batch_size=mapped.BATCH, columns=list(names)):
            content.add(batch)
            yield batch

    try:
        with pq.ParquetFile(path) as file:
            stored, schema = file.metadata.metadata or {}, file.schema_arrow
            schema = pa.schema([field for field in schema if field.name.endswith(("_tokens", "_logprob"))])
            table = mapped.table(batches(file, schema.names), schema)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is damaged ({error}); {remedy}") from None
    if stored.get(CONTENT, b"").decode() != content.sha256():
        raise UserError(f"{path} is damaged (its content is not what was written); {remedy}")
    its_reference = stored.get(REFERENCE, b"").decode() or None
    if reference not in (ANY_REFERENCE, its_reference):
        raise UserError(
            f"{path}: its reference log-probabilities are those of weights {its_reference}, and the reference is "
            f"{reference}; {remedy}"
        )
    there = [name for name in RESPONSES if f"{name}_tokens" in table.column_names]
    return Triples(
        mapped.tokens(table["prompt_tokens"]),
        {name: mapped.tokens(table[f"{name}_tokens"]) for name in there},
        {
            name: torch.from_numpy(table[f"{name}_reference_logprob"].to_numpy().copy())
            for name in there
            if f"{name}_reference_logprob" in table.column_names
        },
        its_reference,
    )


class _Content:
    """A hash of tokens and log-probabilities by column, whatever the batches that they come in."""

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
