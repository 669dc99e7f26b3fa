"""ZeRO without processes: where the state of a checkpoint goes."""

from types import SimpleNamespace

import pytest
import torch

from spac_repro.optim.zero import Zero2


@pytest.mark.parametrize(("fused", "device"), [(True, "meta"), (False, "cpu")])
def test_a_step_count_goes_where_the_optimizer_keeps_it(fused: bool, device: str) -> None:
    """Fused AdamW refuses a step count that is not on the weights' device; `meta` stands for a GPU."""
    weights = torch.empty(4, device="meta")
    optimizer = SimpleNamespace(state={}, param_groups=[{"fused": fused}])
    zero = Zero2.__new__(Zero2)
    zero.engine = SimpleNamespace(optimizer=SimpleNamespace(optimizer=optimizer, fp32_partitioned_groups_flat=[weights]))
    shard = {"0.weights": torch.ones(4), "0.state.step": torch.tensor(7.0), "0.state.exp_avg": torch.ones(4)}
    zero._load_shard(shard)
    assert {name: value.device.type for name, value in optimizer.state[weights].items()} == {"step": device, "exp_avg": "meta"}
