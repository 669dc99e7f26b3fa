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

from spac_repro import processes
from spac_repro.errors import UserError
from spac_repro.optimisation import within_budget
from spac_repro.packing import Group, pack
from spac_repro.policy import Policy
from spac_repro.preferences.rendering import Example
from spac_repro.runs import write_bytes

RESPONSES = ("chosen", "rejected", "selfplay")


@dataclass(frozen=True)
class Triples:
    """n preferences; `reference[name]` is log π_ref of that response, [n] in fp32, for the responses that the method uses."""

    prompts: list[list[int]]
    responses: Mapping[str, list[list[int]]]
    reference: Mapping[str, Tensor]

    def groups(self, names: Sequence[str], rows: Sequence[int]) -> list[Group]:
        """The prompt of each of some rows, with its named responses."""
        return [Group(self.prompts[i], [self.responses[name][i] for name in names]) for i in rows]

    def sizes(self, names: Sequence[str]) -> list[int]:
        """Tokens of each row with its named responses, packed."""
        return [group.size for group in self.groups(names, range(len(self.prompts)))]


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
    tokens: int,
    advance: Callable[[int, int], None],
) -> dict[str, Tensor]:
    """log π_ref of the named responses under the policy as it stands, each [n] in fp32; about so many tokens at once.

    Processes divide the batches among them, and all get every value.
    """
    sizes = triples.sizes(names)
    order = sorted(range(len(sizes)), key=lambda i: (sizes[i], i))
    result = torch.empty(len(sizes), len(names))
    batches = within_budget(order, sizes, tokens)
    own: dict[int, Tensor] = {}
    for number, rows in processes.mine(list(enumerate(batches))):
        advance(number, len(batches))
        packed = pack(triples.groups(names, rows), device=policy.model.device)
        own[number] = policy(packed).view(len(rows), len(names)).float().cpu()
    for number, values in processes.gather(own).items():
        result[batches[number]] = values
    return dict(zip(names, result.unbind(1), strict=True))


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
