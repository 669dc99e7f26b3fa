"""The block mask made strip by strip against torch's own, made whole."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_block_mask
from torch.utils._python_dispatch import TorchDispatchMode

from spac_repro.data.example import TokenizedExample
from spac_repro.model import block_mask
from spac_repro.model.packing import pack

PARTS = ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices")
PARTS += ("q_num_blocks", "q_indices", "full_q_num_blocks", "full_q_indices")
examples = st.tuples(st.integers(1, 700), st.lists(st.integers(1, 500), min_size=1, max_size=3))


def layout_of(lengths):
    return pack([TokenizedExample([1] * prompt, [[2] * each for each in responses]) for prompt, responses in lengths]).layout


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(examples, min_size=1, max_size=4), window=st.sampled_from([None, 5, 300]))
def test_it_has_the_blocks_of_torchs_own(lengths, window):
    layout = layout_of(lengths)
    found, length = layout.block_mask(window), len(layout.position_ids)
    whole = create_block_mask(found.mask_mod, None, None, length, length, device="cpu")
    assert found.seq_lengths == whole.seq_lengths
    assert found.BLOCK_SIZE == whole.BLOCK_SIZE
    for part in PARTS:
        ours, theirs = getattr(found, part), getattr(whole, part)
        assert ours.dtype == theirs.dtype, part
        assert torch.equal(ours, theirs), part


def test_rows_of_strips_and_blocks_and_one_token_more():
    for length in (127, 128, 129, block_mask.STRIP, block_mask.STRIP + 1):
        layout = layout_of([(length - 1, [1])])
        whole = create_block_mask(layout.block_mask(None).mask_mod, None, None, length, length, device="cpu")
        assert all(torch.equal(getattr(layout.block_mask(None), part), getattr(whole, part)) for part in PARTS)


class Largest(TorchDispatchMode):
    """The elements of the largest tensor that an operation gives."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        value = function(*args, **(kwargs or {}))
        if isinstance(value, torch.Tensor):
            self.elements = max(self.elements, value.numel())
        return value


def test_its_memory_grows_with_the_row_and_not_with_its_square():
    layout, length = layout_of([(400, [400] * 3)] * 4), 6400
    with Largest() as ours:
        mask = layout.block_mask(None)
    with Largest() as theirs:
        create_block_mask(mask.mask_mod, None, None, length, length, device="cpu")
    assert ours.elements == block_mask.STRIP * length
    assert theirs.elements >= length**2
