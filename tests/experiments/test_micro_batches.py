"""Passes and efficiency of a step, counted by hand."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "experiments"))

import micro_batches


def test_of_equal_lengths_none_is_lost():
    found = micro_batches.simulate([10] * 16, batch_size=8, micro_batch_tokens=40, world_size=2)
    assert found == (1, 1, 1, 40)


def test_processes_wait_for_the_one_with_the_most_tokens():
    found = micro_batches.simulate([10, 10, 10, 40], batch_size=4, micro_batch_tokens=40, world_size=2)
    assert found == (1, 1, 35 / 40, 40)  # 40 tokens and 30


def test_a_process_with_a_pass_more_keeps_the_other_waiting():
    found = micro_batches.simulate([40, 40, 10], batch_size=3, micro_batch_tokens=40, world_size=2)
    assert found == (2, 0, 45 / 50, 40)  # 40 and then 10, beside 40 and nothing


def test_drawn_lengths_are_within_the_limits():
    lengths = micro_batches.drawn_lengths(500, 180, 300, 0.8, limits=(512, 512), responses=3)
    assert 4 <= min(lengths) <= max(lengths) <= 4 * 512
    assert 900 < sum(lengths) / 500 < 180 + 3 * 300
