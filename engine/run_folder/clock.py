"""Run time summed over all sessions of a run, including sessions that were killed."""

import json
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from phys4d.engine.run_folder.records import read_record
from phys4d.engine.storage import replace_text

_EVERY = 1.0
_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]


class _Record(BaseModel):
    """The content of clock.json."""

    seconds: _Seconds
    stages: dict[str, _Seconds]


def stage_seconds(path: Path) -> dict[str, float]:
    """Seconds by stage in a clock.json; none where it is absent or damaged, which `Clock` reports."""
    try:
        return _Record.model_validate_json(path.read_bytes()).stages
    except (OSError, ValueError):
        return {}


def forget(path: Path, stages: Collection[str]) -> None:
    """Removes the seconds of some stages from a clock.json; those of the run stay."""
    try:
        stored = _Record.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        return
    kept = {stage: seconds for stage, seconds in stored.stages.items() if stage not in stages}
    replace_text(path, json.dumps({"seconds": stored.seconds, "stages": kept}) + "\n")


class Clock:
    """Seconds of a run, in total and by stage, stored in the file `path` (clock.json) across sessions.

    A killed session counts up to its last `save` or `tick`.

    path: the file.
    since: time.monotonic() at which this session started.
    writes: False on ranks other than 0, which write nothing.
    """

    def __init__(self, path: Path, *, since: float, writes: bool = True) -> None:
        self.path, self.writes = path, writes
        self._total, self._stages = 0.0, dict[str, float]()
        stored = read_record(path, _Record, "the time of earlier sessions is not counted") if writes else None
        if stored is not None:
            self._total, self._stages = stored.seconds, dict(stored.stages)
        self._last = self._saved = since
        self._stage: str | None = None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Context in which time also counts for the stage `name`."""
        self._count()
        self._stage = name
        try:
            yield
        finally:
            self._count()
            self._stage = None

    @property
    def current(self) -> str | None:
        """The stage for which time counts now, None for none."""
        return self._stage

    @property
    def seconds(self) -> float:
        """Total over all sessions."""
        self._count()
        return self._total

    @property
    def stages(self) -> dict[str, float]:
        """Seconds by stage, in the order in which the stages began."""
        self._count()
        return dict(self._stages)

    def tick(self) -> None:
        """Saves if the last save is at least a second old; cheap enough to be called often."""
        if time.monotonic() - self._saved >= _EVERY:
            self.save()

    def save(self) -> None:
        """Writes the file, so that a later kill does not lose the time counted so far."""
        self._count()
        self._saved = self._last
        if self.writes:
            replace_text(self.path, json.dumps({"seconds": self._total, "stages": self._stages}) + "\n")

    def _count(self) -> None:
        now = time.monotonic()
        if self._stage is not None:
            self._stages[self._stage] = self._stages.get(self._stage, 0.0) + now - self._last
        self._total += now - self._last
        self._last = now
