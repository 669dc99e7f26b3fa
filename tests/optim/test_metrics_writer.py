"""metrics.jsonl: whole lines only, cut back to the step that a run goes on from, and the same in TensorBoard."""

import errno
import hashlib
import json
import re
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spac_repro.errors import UserError
from spac_repro.optim.metrics_writer import MetricsWriter
from spac_repro.runs import file_hashes
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.manifest import WrittenMetrics
from spac_repro.runs.metrics import StepMetrics

STEPS = [StepMetrics(t, step, {"loss": 1 / (10 * t + step)}) for t in range(3) for step in range(1, 5)]


def encoded(steps) -> bytes:
    lines = (json.dumps({"iteration": step.iteration, "step": step.step, **step.values}) for step in steps)
    hashed = (f'{line[:-1]}, "sha256": "{hashlib.sha256(line.encode()).hexdigest()[:16]}"}}\n' for line in lines)
    return "".join(hashed).encode()


def written(steps) -> WrittenMetrics:
    content = encoded(steps)
    return WrittenMetrics(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def write(folder: Path, steps, before=()) -> None:
    """Write the lines of steps, resumed from a checkpoint with the lines of `before`."""
    with MetricsWriter(RunFolder(folder)) as metrics:
        metrics.resume(written(before) if before else None, folder / "training")
        for each in steps:
            metrics.write(each.iteration, each.step, each.values)


def test_what_is_written_is_read(tmp_path):
    assert RunFolder(tmp_path).metrics() == []
    write(tmp_path, STEPS)
    assert RunFolder(tmp_path).metrics() == STEPS
    assert (tmp_path / "metrics.jsonl").read_bytes() == encoded(STEPS)


@given(st.integers(0, len(encoded(STEPS))), st.binary(max_size=30), st.integers(0, len(STEPS)))
def test_a_file_cut_off_anywhere_goes_on_to_the_same_bytes(cut, garbage, checkpoint):
    """However much of the file a kill left, and whatever the disk made of its end, once the steps are taken again it is whole."""
    content = encoded(STEPS)
    at_checkpoint = len(encoded(STEPS[:checkpoint]))
    with TemporaryDirectory() as name:
        folder = Path(name)
        # What stood before the checkpoint had been written before it.
        (folder / "metrics.jsonl").write_bytes(content[: max(cut, at_checkpoint)] + b"\xff" + garbage)
        write(folder, STEPS[checkpoint:], STEPS[:checkpoint])
        assert (folder / "metrics.jsonl").read_bytes() == content


@given(st.integers(0, len(encoded(STEPS))))
def test_of_a_torn_file_the_whole_lines_are_read(cut):
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "metrics.jsonl").write_bytes(encoded(STEPS)[:cut])
        assert RunFolder(folder).metrics() == STEPS[: encoded(STEPS)[:cut].count(b"\n")]


def test_a_torn_line_in_the_middle_is_refused(tmp_path):
    """No kill leaves one: what comes after it was not written after it."""
    (tmp_path / "metrics.jsonl").write_bytes(encoded(STEPS[:3]) + b'{"iteration": 0, "st\n' + encoded(STEPS[4:]))
    with pytest.raises(UserError, match="line 4: not the metrics of a step"):
        RunFolder(tmp_path).metrics()


@given(st.integers(0, len(encoded(STEPS)) - 1), st.integers(0, 7))
def test_no_flipped_bit_makes_another_number(place, bit):
    """Line breaks apart, each bit counts: the steps that are read are those that were written, or fewer."""
    with TemporaryDirectory() as name:
        content = bytearray(encoded(STEPS))
        content[place] ^= 1 << bit
        (Path(name) / "metrics.jsonl").write_bytes(content)
        with suppress(UserError):
            found = RunFolder(Path(name)).metrics()
            assert found == STEPS[: len(found)]


def test_lines_of_0_1_have_no_hash(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 0, "step": 1, "loss": 2.0}\n')
    assert RunFolder(tmp_path).metrics() == [StepMetrics(0, 1, {"loss": 2.0})]


@given(st.integers(0, len(encoded(STEPS))))
def test_the_last_step_is_that_of_the_last_whole_line(cut):
    with TemporaryDirectory() as name:
        run = RunFolder(Path(name))
        run.metrics_file.write_bytes(encoded(STEPS)[:cut])
        lacks_its_line_break = encoded(STEPS)[cut : cut + 1] == b"\n"  # and is whole all the same
        assert run.last_step() == (STEPS[len(run.metrics())] if lacks_its_line_break else (run.metrics() or [None])[-1])


def test_of_a_long_file_only_the_end_is_read_for_the_last_step(tmp_path):
    run = RunFolder(tmp_path)
    assert run.last_step() is None
    run.metrics_file.write_bytes(b"no line\n" + encoded(STEPS * 20))
    assert run.last_step() == STEPS[-1]


@pytest.mark.parametrize(
    "line",
    ['{"loss": 1.0}', '{"iteration": 0, "step": 1, "loss": "1"}', '{"iteration": 0, "loss": 1.0}', '{"iteration": "0", "step": 1}'],
)
def test_a_line_that_is_no_step_is_refused(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_bytes(encoded(STEPS[:1]) + line.encode() + b"\n")
    with pytest.raises(UserError, match="line 2: not the metrics of a step"):
        RunFolder(tmp_path).metrics()


def test_an_iteration_begun_again_keeps_the_ones_before(tmp_path, monkeypatch):
    write(tmp_path, STEPS)
    monkeypatch.setattr(file_hashes, "finished_metrics", lambda run: written(STEPS[:4]))
    write(tmp_path, [])
    assert RunFolder(tmp_path).metrics() == STEPS[:4]


@given(st.integers(0, len(encoded(STEPS[:7])) - 1), st.integers(0, 7))
def test_a_byte_changed_before_the_checkpoint_is_noticed(place, bit):
    with TemporaryDirectory() as name:
        folder = Path(name)
        content = bytearray(encoded(STEPS))
        content[place] ^= 1 << bit
        (folder / "metrics.jsonl").write_bytes(content)
        with pytest.raises(UserError, match=r"are not those that were written; remove .*training and repeat the command"):
            write(folder, STEPS[7:], STEPS[:7])
        assert (folder / "metrics.jsonl").read_bytes() == content


def test_an_end_that_is_lost_is_noticed(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(encoded(STEPS)[:-30])
    with pytest.raises(UserError, match="are not those that were written"):
        write(tmp_path, [], STEPS)


def test_a_position_is_the_files_length_and_hash(tmp_path):
    with MetricsWriter(RunFolder(tmp_path)) as metrics:
        metrics.resume(None, tmp_path)
        for each in STEPS[:3]:
            metrics.write(each.iteration, each.step, each.values)
        assert metrics.sync() == written(STEPS[:3])
        assert (tmp_path / "metrics.jsonl").read_bytes() == encoded(STEPS[:3])


def test_a_line_is_on_its_way_to_the_disk_before_the_next_step(tmp_path):
    """A kill loses no line of a finished step: none waits in the process."""
    with MetricsWriter(RunFolder(tmp_path)) as metrics:
        metrics.resume(None, tmp_path)
        metrics.write(0, 1, {"loss": 2.0})
        assert RunFolder(tmp_path).metrics() == [StepMetrics(0, 1, {"loss": 2.0})]


def test_tensorboard_shows_the_same_numbers(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(tmp_path, STEPS[:7])  # the last of them is past the checkpoint that the run resumes from
    write(tmp_path, STEPS[6:], STEPS[:6])
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == ["iteration/loss", "start/loss"]
    shown = [(event.step, event.value) for tag in ("start/loss", "iteration/loss") for event in events.Scalars(tag)]
    assert shown == [(number, pytest.approx(step.values["loss"])) for number, step in enumerate(STEPS, start=1)]
    assert all(re.fullmatch(r"events\.out\.tfevents\.\d+", file.name) for file in (tmp_path / "tensorboard").iterdir())


def test_a_full_disk_at_the_end_does_not_hide_the_error_that_ended_the_run(tmp_path):
    class Full:
        def close(self):
            raise OSError(errno.ENOSPC, "No space left on device")

    writer = MetricsWriter(RunFolder(tmp_path))
    writer._file = Full()
    with pytest.raises(ValueError, match="first"), writer:
        raise ValueError("first")
    writer._file = Full()
    with pytest.raises(OSError, match="No space"):
        writer.__exit__(None, None, None)


def test_tensorboards_file_is_not_opened_again_in_a_folder_that_was_made_anew(tmp_path):
    run = RunFolder(tmp_path / "run")
    with MetricsWriter(run) as metrics:
        metrics.resume(None, tmp_path)
        metrics.write(0, 1, {"loss": 2.0})
        run.path.rename(tmp_path / "removed")
        run.tensorboard_folder.mkdir(parents=True)
        metrics.write(0, 2, {"loss": 1.0})
    assert [*run.tensorboard_folder.iterdir()] == []
