"""TensorBoard events, written at once: torch's writer does it in a thread, where a full disk ends in a traceback."""

import os
import socket
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from phys4d.engine.storage import Appended


class Events:
    """One event file in `folder`; what older files of the folder hold from step `purge` on is not shown any more."""

    def __init__(self, folder: Path, purge: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._writer = RecordWriter(Appended(folder / name))
        self._write(Event(file_version="brain.Event:2"))
        self._write(Event(step=purge, session_log=SessionLog(status=SessionLog.START)))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Adds one point to the curve of each name. Raises OSError where the disk does not take it."""
        summary = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])
        self._write(Event(step=step, summary=summary))

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._writer.write(event.SerializeToString())

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()
