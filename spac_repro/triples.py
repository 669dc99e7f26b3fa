"""The data of one iteration: every preference with a self-play response, in tokens, and log π_ref of each response.

The reference is frozen during an iteration, so its log-probabilities are computed once, stored with the self-play responses in
selfplay.parquet, and read from there; no second model is in memory during training.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from spac_repro.errors import UserError
from spac_repro.policy import Exchange, Policy, collate
from spac_repro.preferences.rendering import Example
from spac_repro.runs import write_bytes

RESPONSES = ("chosen", "rejected", "selfplay")


@dataclass(frozen=True)
class Triples:
    """n preferences; `reference[name]` is log π_ref of that response, [n] in fp32, for the responses that the method uses."""

    prompts: list[list[int]]
    responses: Mapping[str, list[list[int]]]
    reference: Mapping[str, Tensor]

    def exchanges(self, name: str, rows: Sequence[int]) -> list[Exchange]:
        """The prompt and the named response of some rows."""
        return [Exchange(self.prompts[i], self.responses[name][i]) for i in rows]


def from_examples(examples: Sequence[Example], selfplay: list[list[int]] | None) -> Triples:
    """Join the data with the self-play responses, where the method has those; nothing is known of the reference yet."""
    responses = {"chosen": [e.chosen for e in examples], "rejected": [e.rejected for e in examples]}
    if selfplay is not None:
        responses["selfplay"] = selfplay
    return Triples([e.prompt for e in examples], responses, {})


@torch.no_grad()
def reference_logprobs(
    policy: Policy,
    triples: Triples,
    names: Sequence[str],
    *,
    batch_size: int,
    pad: int,
    advance: Callable[[int, int], None],
) -> dict[str, Tensor]:
    """log π_ref of the named responses under the policy as it stands, each [n] in fp32."""
    rows = range(len(triples.prompts))
    device = policy.model.device
    logprobs: dict[str, Tensor] = {}
    for name in names:
        exchanges = triples.exchanges(name, rows)
        order = sorted(rows, key=lambda i: sum(map(len, exchanges[i])))
        result = torch.empty(len(exchanges))
        for begin in range(0, len(order), batch_size):
            batch = order[begin : begin + batch_size]
            result[batch] = policy(collate([exchanges[i] for i in batch], pad=pad, device=device)).float().cpu()
            advance(begin, len(order))
        logprobs[name] = result
    return logprobs


def write(path: Path, triples: Triples, texts: Mapping[str, Sequence[str]]) -> None:
    """Store the triples, with their texts for whoever reads the file, as Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, pa.Array] = {name: pa.array(list(values)) for name, values in texts.items()}
    columns["prompt_tokens"] = pa.array(triples.prompts, pa.list_(pa.int32()))
    for name, responses in triples.responses.items():
        columns[f"{name}_tokens"] = pa.array(responses, pa.list_(pa.int32()))
    for name, logprobs in triples.reference.items():
        columns[f"{name}_reference_logprob"] = pa.array(logprobs.tolist(), pa.float32())
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    write_bytes(path, buffer.getvalue())


def read(path: Path) -> Triples:
    """Read what `write` stored.

    Raises:
        UserError: the file is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is damaged ({error}); remove it and repeat the command") from None
    columns = {name: table.column(name).to_pylist() for name in table.column_names if name.endswith(("_tokens", "_logprob"))}
    return Triples(
        columns["prompt_tokens"],
        {name: columns[f"{name}_tokens"] for name in RESPONSES if f"{name}_tokens" in columns},
        {
            name: torch.tensor(columns[f"{name}_reference_logprob"], dtype=torch.float32)
            for name in RESPONSES
            if f"{name}_reference_logprob" in columns
        },
    )
