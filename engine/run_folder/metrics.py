"""Lines of metrics.jsonl: JSON objects with the keys stage and step."""

import json
from pathlib import Path
from typing import Any


def read_metrics(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The lines of a metrics.jsonl, and the number of those that cannot be read, such as one that a kill truncated."""
    entries: list[dict[str, Any]] = []
    damaged = 0
    for line in path.read_bytes().split(b"\n"):
        entry = _parsed(line)
        if entry is not None:
            entries.append(entry)
        elif line:
            damaged += 1
    return entries, damaged


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    right = isinstance(entry, dict) and isinstance(entry.get("stage"), str) and type(entry.get("step")) is int
    return entry if right else None
