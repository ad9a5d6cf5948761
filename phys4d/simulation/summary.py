"""How many scenes were drawn for a dataset, and why some were not used."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Summary:
    """clips by category; dropped: draws on which the simulator failed, redrawn: draws that did not show what they say,
    by category and reason."""

    clips: Counter[str] = field(default_factory=Counter)
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)
    redrawn: Counter[tuple[str, str]] = field(default_factory=Counter)

    def count(self, meta: dict[str, Any]) -> None:
        """Adds a clip, given its json."""
        category, provenance = meta["category"], meta["provenance"]
        self.clips[category] += 1
        for reason, number in provenance["dropped"].items():
            self.dropped[category, reason] += number
        for reason, number in provenance["redrawn"].items():
            self.redrawn[category, reason] += number

    def share_dropped(self, category: str) -> float:
        """Share of a category's draws on which the simulator failed."""
        failed = sum(number for (kind, _), number in self.dropped.items() if kind == category)
        others = sum(number for (kind, _), number in self.redrawn.items() if kind == category)
        return failed / max(failed + others + self.clips[category], 1)

    def lines(self) -> list[str]:
        """One line a category."""
        return [
            f"{category}: {clips} clips"
            + _reasons("dropped", self.dropped, category)
            + _reasons("drawn again", self.redrawn, category)
            for category, clips in self.clips.items()
        ]


def _reasons(what: str, counted: Counter[tuple[str, str]], category: str) -> str:
    mine = {reason: number for (kind, reason), number in sorted(counted.items()) if kind == category}
    if not mine:
        return ""
    return f"; {what} {sum(mine.values())}: " + ", ".join(f"{reason} {number}" for reason, number in mine.items())
