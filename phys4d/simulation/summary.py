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
    refused: number of clips that were left out since no sample was usable, by family.
    why: the reason for the last of them, by family.
    """

    clips: Counter[str] = field(default_factory=Counter)
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)
    redrawn: Counter[tuple[str, str]] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    why: dict[str, str] = field(default_factory=dict)

    def refuse(self, family: str, reason: str) -> None:
        """Counts a clip of this family that was left out."""
        self.refused[family] += 1
        self.why[family] = reason

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
            "refused": [[family, number, self.why[family]] for family, number in self.refused.items()],
        }

    def add(self, counts: Mapping[str, list[list[Any]]]) -> None:
        """Adds the counts of another process."""
        self.clips.update(dict(counts["clips"]))
        for kept, added in ((self.dropped, counts["dropped"]), (self.redrawn, counts["redrawn"])):
            kept.update({(category, reason): number for category, reason, number in added})
        for family, number, reason in counts["refused"]:
            self.refused[family] += number
            self.why[family] = reason

    def lines(self) -> list[str]:
        """One line of text for each category, and one for each family with clips that were left out."""
        return [
            f"{category}: {clips} clips"
            + _reasons("dropped", self.dropped, category)
            + _reasons("drawn again", self.redrawn, category)
            for category, clips in self.clips.items()
        ] + [
            f"{family}: {number} clip{'s' * (number > 1)} left out: {self.why[family]}"
            for family, number in self.refused.items()
        ]


def _reasons(what: str, counted: Counter[tuple[str, str]], category: str) -> str:
    mine = {reason: number for (kind, reason), number in sorted(counted.items()) if kind == category}
    if not mine:
        return ""
    return f"; {what} {sum(mine.values())}: " + ", ".join(f"{reason} {number}" for reason, number in mine.items())
