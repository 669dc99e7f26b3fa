"""The average of weights: equal to a mean computed elsewhere, rounded once, of models with the same tensors."""

import numpy as np
import pytest
import torch

from spac_repro.errors import UserError
from spac_repro.model import weight_average


def states(count: int, dtype: torch.dtype) -> list[dict[str, torch.Tensor]]:
    draw = torch.Generator().manual_seed(1)
    return [{"a": torch.randn(5, 3, generator=draw).to(dtype), "b": torch.randn(7, generator=draw).to(dtype)} for _ in range(count)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_it_is_the_mean_of_each_tensor_rounded_once(dtype: torch.dtype) -> None:
    models = states(3, dtype)
    before = [{name: tensor.clone() for name, tensor in state.items()} for state in models]
    found = weight_average.average(iter(models))
    for name, tensor in found.items():
        exact = np.mean([state[name].to(torch.float64).numpy() for state in before], axis=0)
        assert tensor.dtype == dtype
        assert torch.equal(tensor, torch.from_numpy(exact).to(dtype))
        assert not torch.equal(tensor, before[-1][name])
    assert all(torch.equal(state[name], kept[name]) for state, kept in zip(models, before, strict=True) for name in kept)


def test_the_average_of_one_model_is_that_model() -> None:
    (only,) = states(1, torch.float32)
    assert all(torch.equal(tensor, only[name]) for name, tensor in weight_average.average([only]).items())


def test_other_tensors_and_none_are_refused() -> None:
    one, other = states(2, torch.float32)
    for wrong in ({"a": other["a"]}, {**other, "b": other["b"][:3]}, {**other, "c": other["b"]}):
        with pytest.raises(UserError, match="other names or shapes"):
            weight_average.average([one, wrong])
    with pytest.raises(UserError, match="at least one iterate"):
        weight_average.average([])
