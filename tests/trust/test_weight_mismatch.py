"""The first tensor in which two model folders differ."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spac_repro.errors import UserError
from spac_repro.trust.weight_mismatch import first_tensor_mismatch


def weights(folder: Path, tensors: dict[str, Any], shards: int = 1) -> Path:
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(tensors)
    for shard in range(shards):
        save_file({name: tensors[name] for name in names[shard::shards]}, folder / f"model-{shard}.safetensors")
    return folder


def tensors() -> dict[str, Any]:
    names = ("model.embed_tokens.weight", "model.layers.2.w", "model.layers.10.w", "model.norm.weight", "lm_head.weight")
    return {name: np.arange(12, dtype=np.float32).reshape(3, 4) + place for place, name in enumerate(names)}


def test_the_first_tensor_in_the_order_of_a_forward_pass(tmp_path: Path) -> None:
    changed = tensors()
    changed["model.layers.10.w"][1, 2] += 0.5
    changed["lm_head.weight"][:] = 0
    a, b = weights(tmp_path / "a", tensors()), weights(tmp_path / "b", changed, shards=3)
    mismatch, _ = first_tensor_mismatch(a, b, iteration=3)
    assert mismatch is not None
    assert (mismatch.place, mismatch.what, mismatch.a, mismatch.b) == ("model.layers.10.w", "element 6", "8", "8.5")
    assert mismatch.note == "1 of 12 elements differ, by 0.5 at most"


def test_sharding_is_no_difference(tmp_path: Path) -> None:
    a, b = weights(tmp_path / "a", tensors()), weights(tmp_path / "b", tensors(), shards=2)
    assert first_tensor_mismatch(a, b, iteration=0) == (None, 2 * 5 * 48)


def test_a_missing_or_reshaped_tensor_is_named(tmp_path: Path) -> None:
    fewer, other = tensors(), tensors()
    del fewer["model.norm.weight"]
    other["model.norm.weight"] = other["model.norm.weight"].reshape(4, 3)
    a = weights(tmp_path / "a", tensors())
    missing, _ = first_tensor_mismatch(a, weights(tmp_path / "b", fewer), iteration=0)
    assert missing is not None
    assert (missing.place, missing.a, missing.b) == ("model.norm.weight", "there", "absent")
    reshaped, _ = first_tensor_mismatch(a, weights(tmp_path / "c", other), iteration=0)
    assert reshaped is not None
    assert (reshaped.a, reshaped.b) == ("F32 [3, 4]", "F32 [4, 3]")


def test_half_precision_is_read_as_what_it_is(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    for name, value in (("a", 1.0), ("b", 1.0078125)):
        (tmp_path / name).mkdir()
        save_file({"w": torch.full((3,), value, dtype=torch.bfloat16)}, tmp_path / name / "model.safetensors")
    mismatch, _ = first_tensor_mismatch(tmp_path / "a", tmp_path / "b", iteration=0)
    assert mismatch is not None
    assert (mismatch.a, mismatch.b) == ("1", "1.0078125")


def test_cut_off_weights_are_refused(tmp_path: Path) -> None:
    a, b = weights(tmp_path / "a", tensors()), weights(tmp_path / "b", tensors())
    file = b / "model-0.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(UserError, match="cut off"):
        first_tensor_mismatch(a, b, iteration=0)


@given(st.integers(0, 99), st.floats(-2, 2, allow_nan=False).filter(lambda x: abs(x) > 1e-3))
def test_any_changed_element_is_found(tmp_path_factory: pytest.TempPathFactory, place: int, by: float) -> None:
    folder = tmp_path_factory.mktemp("w")
    values = np.zeros(100, np.float64)
    changed = values.copy()
    changed[place] += by
    a, b = weights(folder / "a", {"w": values}), weights(folder / "b", {"w": changed})
    mismatch, _ = first_tensor_mismatch(a, b, iteration=0)
    assert mismatch is not None
    assert mismatch.what == f"element {place}"
    shutil.rmtree(folder)
