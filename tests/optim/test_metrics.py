"""metrics.jsonl: whole lines only, cut back to the step that a run goes on from, and the same in TensorBoard."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spac_repro.optim.metrics import Metrics
from spac_repro.runs.folder import RunFolder

LINES = [{"iteration": t, "step": step, "loss": 1 / (10 * t + step)} for t in range(3) for step in range(1, 5)]


def encoded(lines) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


@pytest.fixture(scope="module", autouse=True)
def no_tensorboard():
    """Its files are looked at in a test of their own; here they would cost time only."""
    import torch.utils.tensorboard

    class Nowhere:
        def __init__(self, *_, **__): ...
        def add_scalar(self, *_): ...
        def close(self): ...

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.utils.tensorboard, "SummaryWriter", Nowhere)
        yield


def write(folder: Path, lines, iteration: int, step: int) -> None:
    with Metrics(RunFolder(folder)) as its:
        its.go_on(iteration, step)
        for line in lines:
            its.write(line["iteration"], line["step"], {"loss": line["loss"]})


def test_what_is_written_is_read(tmp_path):
    assert RunFolder(tmp_path).metrics() == []
    write(tmp_path, LINES, 0, 0)
    assert RunFolder(tmp_path).metrics() == LINES
    assert (tmp_path / "metrics.jsonl").read_bytes() == encoded(LINES)


@given(st.integers(0, len(encoded(LINES))), st.binary(max_size=30), st.integers(0, len(LINES)))
def test_a_file_cut_off_anywhere_goes_on_to_the_same_bytes(cut, garbage, checkpoint):
    """However much of the file a kill left, and whatever the disk made of its end, once the steps are taken again it is whole."""
    place = (LINES[checkpoint - 1]["iteration"], LINES[checkpoint - 1]["step"]) if checkpoint else (0, 0)
    content = encoded(LINES)
    at_checkpoint = len(encoded(LINES[:checkpoint]))
    with TemporaryDirectory() as name:
        folder = Path(name)
        # What stood before the checkpoint had been written before it.
        (folder / "metrics.jsonl").write_bytes(content[: max(cut, at_checkpoint)] + b"\xff" + garbage)
        write(folder, LINES[checkpoint:], *place)
        assert (folder / "metrics.jsonl").read_bytes() == content


@given(st.integers(0, len(encoded(LINES))))
def test_of_a_torn_file_the_whole_lines_are_read(cut):
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "metrics.jsonl").write_bytes(encoded(LINES)[:cut])
        # A line that lacks its line break alone is whole.
        assert RunFolder(folder).metrics() == LINES[: encoded(LINES)[: cut + 1].count(b"\n")]


def test_nothing_is_read_past_a_torn_line(tmp_path):
    """What comes after one was not written after it."""
    (tmp_path / "metrics.jsonl").write_bytes(encoded(LINES[:3]) + b'{"iteration": 0, "st\n' + encoded(LINES[4:]))
    assert RunFolder(tmp_path).metrics() == LINES[:3]


def test_an_iteration_begun_again_keeps_the_ones_before(tmp_path):
    write(tmp_path, LINES, 0, 0)
    write(tmp_path, [], 1, 0)
    assert RunFolder(tmp_path).metrics() == LINES[:4]


def test_a_line_is_on_its_way_to_the_disk_before_the_next_step(tmp_path):
    """A kill loses no line of a finished step: none waits in the process."""
    with Metrics(RunFolder(tmp_path)) as its:
        its.go_on(0, 0)
        its.write(0, 1, {"loss": 2.0})
        assert RunFolder(tmp_path).metrics() == [{"iteration": 0, "step": 1, "loss": 2.0}]


def test_tensorboard_shows_the_same_numbers(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard.writer import SummaryWriter

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter", SummaryWriter)
    write(tmp_path, LINES[:7], 0, 0)  # the last of them is past the checkpoint that the run goes on from
    write(tmp_path, LINES[6:], 1, 2)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == ["iteration/loss", "start/loss"]
    shown = [(event.step, event.value) for tag in ("start/loss", "iteration/loss") for event in events.Scalars(tag)]
    assert shown == [(number, pytest.approx(line["loss"])) for number, line in enumerate(LINES, start=1)]
