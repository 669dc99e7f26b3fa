"""Passes and efficiency of a step, counted by hand."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "experiments"))

import micro_batches


def test_of_equal_lengths_none_is_lost():
    found = micro_batches.simulate([10] * 16, batch_size=8, micro_batch_tokens=40, world_size=2)
    assert found == (1, 1, 1, 40)


def test_a_process_with_a_pass_more_keeps_the_other_waiting():
    """Four examples of 10 tokens and one of 40, two processes: whoever has the long one needs a pass of its own for it."""
    found = micro_batches.simulate([10, 10, 10, 40], batch_size=4, micro_batch_tokens=40, world_size=2)
    assert found.mean == 2
    assert found.one == 0
    # (10 + 10 and 10, 40): the passes last 20 and 40, or 10 and 40 first come 40; a process has 35 tokens in the mean.
    assert found.efficiency == pytest.approx(35 / 60, abs=0.12)
    assert found.most_tokens == 40


def test_drawn_lengths_are_within_the_limits():
    lengths = micro_batches.drawn_lengths(500, 180, 300, 0.8, limits=(512, 512), responses=3)
    assert 4 <= min(lengths) <= max(lengths) <= 4 * 512
    assert 900 < sum(lengths) / 500 < 180 + 3 * 300
