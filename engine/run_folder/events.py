"""Synchronous TensorBoard events.

torch's SummaryWriter writes in a thread, in which a full disk ends in a traceback instead of an error of the run.
"""

import os
import socket
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from phys4d.engine.storage import AppendOnlyFile


class Events:
    """One TensorBoard event file.

    folder: of the event files.
    purge: step from which on points of older files in the folder are hidden.
    """

    def __init__(self, folder: Path, purge: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._writer = RecordWriter(AppendOnlyFile(folder / name))
        self._write(Event(file_version="brain.Event:2"))
        self._write(Event(step=purge, session_log=SessionLog(status=SessionLog.START)))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Adds one point at `step` to the curve of each name; memory.peak is the curve peak of the group memory. Raises
        OSError if the disk does not accept it."""
        tags = {name.replace(".", "/", 1): value for name, value in values.items()}
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in tags.items()])
        self._write(Event(step=step, summary=summary))

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._writer.write(event.SerializeToString())

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()
