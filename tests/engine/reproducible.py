"""What of a line of metrics.jsonl a run gives again: all but what depends on the clock and the machine."""

from typing import Any

MEASURED = ("time", "seconds", "speed.", "loader.", "memory.", "evaluation.")


def reproducible(line: dict[str, Any]) -> dict[str, Any]:
    """The line without what is measured."""
    return {name: value for name, value in line.items() if not name.startswith(MEASURED)}
