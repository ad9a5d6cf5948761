"""Counts of accepted and rejected scenes of a dataset."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Summary:
    """Counts by category.

    clips: number of clips, by category.
    dropped: samples for which the simulator failed, by (category, reason).
    redrawn: samples whose event was not visible, by (category, reason).
    """

    clips: Counter[str] = field(default_factory=Counter)
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)
    redrawn: Counter[tuple[str, str]] = field(default_factory=Counter)

    def count(self, meta: dict[str, Any]) -> None:
        """Adds the counts of a clip, given its json."""
        category, provenance = meta["category"], meta["provenance"]
        self.clips[category] += 1
        for reason, number in provenance["dropped"].items():
            self.dropped[category, reason] += number
        for reason, number in provenance["redrawn"].items():
            self.redrawn[category, reason] += number

    def counts(self) -> dict[str, list[list[str | int]]]:
        """The counts as lists, for `add` in another process."""
        return {
            "clips": [[category, number] for category, number in self.clips.items()],
            "dropped": [[*key, number] for key, number in self.dropped.items()],
            "redrawn": [[*key, number] for key, number in self.redrawn.items()],
        }

    def add(self, counts: Mapping[str, list[list[Any]]]) -> None:
        """Adds the counts of another process."""
        self.clips.update(dict(counts["clips"]))
        for kept, added in ((self.dropped, counts["dropped"]), (self.redrawn, counts["redrawn"])):
            kept.update({(category, reason): number for category, reason, number in added})

    def lines(self) -> list[str]:
        """One line of text for each category."""
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
