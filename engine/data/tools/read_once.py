"""A dataset for work that looks at each clip several times, such as checking or copying all of it."""

import threading
from typing import Any

from phys4d.engine.data.dataset import ClipDataset


class ReadOnce(ClipDataset):
    """A dataset that keeps the members of the clip that each thread has read last; not for pickles."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._latest = threading.local()

    def member(self, row: dict[str, Any], name: str, most: int | None = None) -> bytes:
        kept: tuple[str, dict[str, bytes]] = getattr(self._latest, "members", ("", {}))
        if kept[0] != row["key"]:
            kept = self._latest.members = (row["key"], {})
        if name not in kept[1]:
            kept[1][name] = super().member(row, name)
        return kept[1][name][:most]
