"""The average of the weights of several iterates, as one policy.

SPAC's guarantee is about the uniform mixture of the iterates, which needs all of them at hand to answer. The average of their
weights is one model of the usual size, about which nothing is proved. Related is WARP (Ramé et al. 2024, arXiv 2406.16768): it
merges policies that were trained independently by spherical interpolation, and then interpolates linearly between them and the
start. Here the iterates of one run are averaged, and every one has the same weight.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from spac_repro.errors import UserError
from spac_repro.model import adapter_folder, adapters, policy
from spac_repro.policy_settings import PolicySettings
from spac_repro.runs import file_hashes
from spac_repro.runs.folder import RunFolder


def of_run(
    run: RunFolder, iterations: Sequence[int], settings: PolicySettings | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Average the weights of iterates of a run. Adapters are merged first, since a mean of products is no product of means.

    Args:
        run: the run.
        iterations: the numbers of the iterates.
        settings: dtype and attention; None: the folders' own.

    Returns:
        The model and the run's tokenizer.

    Raises:
        UserError: an iterate was removed, or a file of it was changed.
    """
    loaded: list[tuple[PreTrainedModel, PreTrainedTokenizerBase]] = []

    def states() -> Iterable[Mapping[str, Tensor]]:
        for t in iterations:
            loaded[:] = [_load(run, t, settings)]
            yield loaded[0][0].state_dict()

    weights = average(states())
    ((model, tokenizer),) = loaded
    model.load_state_dict(weights)
    return model, tokenizer


@torch.no_grad()
def average(states: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each tensor, in its own dtype. It is summed in a wider one, and rounded once.

    Args:
        states: the tensors of each model by name, of equal shapes; read one after the other, so that only two are in memory.

    Raises:
        UserError: there is no model, or two have not the same tensors.
    """
    sums: dict[str, Tensor] = {}
    dtypes: dict[str, torch.dtype] = {}
    count = 0
    for state in states:
        shapes = {name: tensor.shape for name, tensor in state.items()}
        if count and shapes != {name: tensor.shape for name, tensor in sums.items()}:
            raise UserError("the weights to be averaged have other names or shapes; average the iterates of one run")
        for name, tensor in state.items():
            dtypes.setdefault(name, tensor.dtype)
            wide = tensor.to(_wider(tensor.dtype))
            sums[name] = sums[name].add_(wide) if count else wide.clone()
        count += 1
    if not count:
        raise UserError("no weights to average; name at least one iterate")
    return {name: total.div_(count).to(dtypes[name]) for name, total in sums.items()}


def _wider(dtype: torch.dtype) -> torch.dtype:
    """The dtype of a sum: that of half precision needs no more than fp32."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else torch.float64


def _load(run: RunFolder, t: int, settings: PolicySettings | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    iteration = run.iteration(t)
    if not iteration.has_policy:
        raise UserError(f"{iteration.policy}: removed, and the average needs every iterate; train the run again")
    file_hashes.check_iterate(run, t)
    if not adapter_folder.is_adapter(iteration.policy):
        return policy.load(iteration.policy, settings)
    model, tokenizer = adapter_folder.load(iteration.policy, base=run.iteration(0).policy, dequantize=True)
    model = adapters.merge(model)
    return policy.prepare(model, settings.attn_implementation) if settings else model, tokenizer
