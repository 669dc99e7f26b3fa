"""Scalars as a TensorBoard event file.

TensorBoard's own writer opens the file by its name, in a thread, at every write. After a run folder was removed, it would fail in
that thread or write into the folder of the next run. This one opens the file once.
"""

import time
from collections.abc import Mapping
from pathlib import Path


class EventsWriter:
    """Writes the scalars of optimizer steps into a new event file."""

    def __init__(self, folder: Path, *, first_step: int) -> None:
        """Open a new file in `folder`. What older files there have from `first_step` on, TensorBoard no longer shows."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns():020d}"  # TensorBoard's own names also tell the machine and the process
        self._file = (folder / name).open("xb")
        self._records = RecordWriter(self._file)
        self._records.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
        start = SessionLog(status=SessionLog.START)
        self._records.write(Event(wall_time=time.time(), step=first_step, session_log=start).SerializeToString())

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write the values of a step, by tag."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        self._records.write(Event(wall_time=time.time(), step=step, summary=summary).SerializeToString())
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
