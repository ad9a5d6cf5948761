"""Clips that cannot be used: a run stops at them, or replaces each by another, the same one in every run."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from phys4d.engine.data.dataset import ClipFault, Sample
from phys4d.engine.errors import UserError
from phys4d.engine.random import bits
from phys4d.engine.resume import FROM_HERE

OnBad = Annotated[Literal["stop", "skip"], FROM_HERE]
"""What a stage does at a clip that cannot be used: it stops and names the clip, or takes another one in its place."""

MOST_BAD = 0.05
"""Largest share of a dataset's clips that "skip" replaces; one clip is always replaced."""

_DRAWS = 32


@dataclass(frozen=True)
class Place:
    """A place in a global batch. index: of the clip that the order of the epoch puts there. key: (seed, stage, step,
    place), which decides the clips that replace it."""

    index: int
    key: tuple[int | str, ...]

    def replacements(self, count: int) -> Iterator[int]:
        """Indices of the clips that replace this one, in the order in which they are tried, of `count` clips."""
        for draw in bits(_DRAWS, *self.key, "replacement"):
            yield int(draw % count)


@dataclass(frozen=True)
class Read:
    """A clip in its place, and the faults of those that were to be there."""

    place: Place
    sample: Sample
    faults: tuple[ClipFault, ...] = ()


def most_bad(count: int) -> int:
    """How many bad clips a dataset of `count` clips may have."""
    return max(1, int(MOST_BAD * count))


def too_many(folder: Path, bad: int, count: int, first: str) -> UserError:
    """The error for a dataset with more bad clips than `most_bad`; first: the fault of one of them."""
    return UserError(
        f"{folder}: {bad} of {count} clips cannot be used, at most {most_bad(count)} are skipped; one is {first}: see "
        f"`phys4d data verify {folder}`"
    )


class Replacing:
    """Clips by place; a clip that cannot be used is replaced if `on_bad` is "skip".

    read: reads the clip of an index; its ClipFault means that the clip cannot be used.
    count: number of clips.
    """

    def __init__(
        self, folder: Path, read: Callable[[int], Sample], count: int, on_bad: Literal["stop", "skip"]
    ) -> None:
        self.folder, self._read, self._count, self.on_bad = folder, read, count, on_bad
        self._faults: dict[int, ClipFault] = {}

    def __getitem__(self, place: Place) -> Read:
        faults: list[ClipFault] = []
        for index in (place.index, *(place.replacements(self._count) if self.on_bad == "skip" else ())):
            try:
                if (known := self._faults.get(index)) is not None:
                    raise known
                return Read(place, self._read(index), tuple(faults))
            except ClipFault as fault:
                if self.on_bad == "stop":
                    raise
                self._faults[index] = fault
                faults.append(fault)
        raise too_many(self.folder, len(self._faults), self._count, faults[0].brief)

    def refuse(self, read: Read, fault: ClipFault) -> Read:
        """Replaces a clip that was read but cannot be used after all. Raises the fault if `on_bad` is "stop"."""
        if self.on_bad == "stop":
            raise fault
        used = next(i for i in (read.place.index, *read.place.replacements(self._count)) if i not in self._faults)
        self._faults[used] = fault
        return self[read.place]
