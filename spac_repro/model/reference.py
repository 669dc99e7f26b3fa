"""Reference log-probabilities, computed once an iteration.

The reference policy is frozen during an iteration, so training needs no second model in memory.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from spac_repro.data.dataset import PreferenceDataset
from spac_repro.model.loading import check_finite
from spac_repro.model.packing import pack
from spac_repro.model.policy import Policy
from spac_repro.optim import distributed
from spac_repro.optim.loop import batch_by_tokens


@torch.no_grad()
def reference_logprobs(
    policy: Policy,
    data: PreferenceDataset,
    names: Sequence[str],
    *,
    batch_tokens: int,
    advance: Callable[[int, int], None],
) -> dict[str, Tensor]:
    """Compute log π(y|x) of a dataset's responses under a policy, as it is now.

    Processes divide the batches among them; each returns all values.

    Args:
        policy: the reference policy π_ref.
        data: prompts and responses of n preference pairs.
        names: which responses: some of `chosen`, `rejected`, `selfplay`.
        batch_tokens: tokens computed at once; an example that has more is computed alone.
        advance: called with (batches done, batches in all).

    Returns:
        For each name a tensor [n], in nats, fp32.

    Raises:
        UserError: a value is not finite.
    """
    num_tokens = data.num_tokens(names)
    order = sorted(range(len(num_tokens)), key=lambda i: (num_tokens[i], i))
    values = torch.empty(len(num_tokens), len(names))
    batches = batch_by_tokens(order, num_tokens, batch_tokens)
    own: dict[int, Tensor] = {}
    for number, rows in distributed.shard(list(enumerate(batches))):
        advance(number, len(batches))
        packed = pack(data.examples(names, rows), device=policy.model.device)
        logprobs = check_finite(policy(packed), "reference log-probabilities")
        own[number] = logprobs.view(len(rows), len(names)).float().cpu()
    for number, gathered in distributed.all_gather(own).items():
        values[batches[number]] = gathered
    return dict(zip(names, values.unbind(1), strict=True))
