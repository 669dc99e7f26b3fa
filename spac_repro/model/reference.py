"""log π_ref of every response, once an iteration: the reference is frozen, so no second model is in memory during training."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from spac_repro.data.triples import Triples
from spac_repro.model.packing import pack
from spac_repro.model.policy import Policy
from spac_repro.optim import distributed
from spac_repro.optim.loop import batch_by_tokens


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
    batches = batch_by_tokens(order, sizes, tokens)
    own: dict[int, Tensor] = {}
    for number, rows in distributed.shard(list(enumerate(batches))):
        advance(number, len(batches))
        packed = pack(triples.groups(names, rows), device=policy.model.device)
        own[number] = policy(packed).view(len(rows), len(names)).float().cpu()
    for number, values in distributed.all_gather(own).items():
        result[batches[number]] = values
    return dict(zip(names, result.unbind(1), strict=True))
