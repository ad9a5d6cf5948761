"""How long a run has taken over all its sessions: one that was killed and resumed counts every one of them."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from phys4d.engine.storage import read_json, replace_text

_EVERY = 1.0


class Clock:
    """Seconds of a run, in all and by stage, kept in the file `path` (clock.json) from session to session.

    since: time.monotonic() from which this session counts. A session that is killed has counted up to its last
    `save` or `tick`. With writes=False nothing is written (ranks other than 0).
    """

    def __init__(self, path: Path, *, since: float, writes: bool = True) -> None:
        self.path, self.writes = path, writes
        self._total, self._stages = 0.0, dict[str, float]()
        if writes and path.exists():
            stored = read_json(path)
            self._total, self._stages = stored.get("seconds", 0.0), stored.get("stages", {})
        self._last = self._saved = since
        self._stage: str | None = None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Within it, time counts for that stage too."""
        self._count()
        self._stage = name
        try:
            yield
        finally:
            self._count()
            self._stage = None

    @property
    def seconds(self) -> float:
        """Of all sessions together."""
        self._count()
        return self._total

    @property
    def stages(self) -> dict[str, float]:
        """By stage, in the order in which they began."""
        self._count()
        return dict(self._stages)

    def tick(self) -> None:
        """Saves where the last time is a second ago; to be called often."""
        if time.monotonic() - self._saved >= _EVERY:
            self.save()

    def save(self) -> None:
        """Writes the file, so that a kill from here on does not lose what was counted."""
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
