"""Clips that cannot be used: a run stops at them, or replaces each by another, the same one in every run; a command
leaves them out of what it writes."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from phys4d.engine.data.dataset import ClipFault, Sample
from phys4d.engine.data.tools.rank_shards import Limit
from phys4d.engine.distributed.collectives import on_all_ranks
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import UserError, printable
from phys4d.engine.location import Location
from phys4d.engine.random import bits
from phys4d.engine.resume import FROM_HERE

OnBad = Annotated[Literal["stop", "skip"], FROM_HERE]
"""What a stage does at a clip that cannot be used: it stops and names the clip, or takes another one in its place."""

MaxBad = Annotated[float, FROM_HERE]
"""Largest share of a stage's clips that "skip" replaces; one clip is always replaced."""

MOST_BAD = 0.05
"""Default of `MaxBad`."""

_DRAWS = 32


@dataclass(frozen=True)
class Place:
    """A place in a global batch. index: of the clip that the order of the epoch puts there. key: (seed, stage, step,
    place), which decides the clips that replace it."""

    index: int
    key: tuple[int | str, ...]

    def replacements(self, alike: Sequence[int] | np.ndarray) -> Iterator[int]:
        """Indices of the clips that replace this one, in the order in which they are tried; alike: those that can."""
        for draw in bits(_DRAWS, *self.key, "replacement"):
            yield int(alike[int(draw % len(alike))])


@dataclass(frozen=True)
class Read:
    """A clip in its place: its index, and the faults of those that were to be there."""

    place: Place
    index: int
    sample: Sample
    faults: tuple[ClipFault, ...] = ()


def most_bad(count: int, share: float = MOST_BAD) -> int:
    """How many bad clips there may be of `count` clips."""
    return max(1, int(share * count))


def too_many(name: object, bad: int, count: int, first: str, share: float | None = None) -> UserError:
    """The error for more bad clips than `most_bad`.

    name: of the datasets. first: the fault of one of them. share: the `max_bad` of a stage; None for a command, which
        has no such setting.
    """
    most = most_bad(count) if share is None else most_bad(count, share)
    setting = "" if share is None else f" (max_bad = {share:g})"
    return UserError(
        f"{name}: {bad} of {count} clips cannot be used, at most {most} are skipped{setting}; one is {first}: see "
        "`phys4d data verify`"
    )


def limit(folder: Location, count: int, on_bad: Literal["stop", "skip"]) -> Limit | None:
    """The limit of training (`most_bad`) for a command that leaves bad clips out of what it writes; None for "stop".

    folder, count: of the dataset that it reads, and its clips. on_bad: of the command.

    The limit raises UserError, which names one of the clips, where more are left out.
    """

    def check(bad: Mapping[str, str]) -> None:
        if len(bad) > most_bad(count):
            raise too_many(folder, len(bad), count, next(iter(bad.values())))

    return None if on_bad == "stop" else check


class Replacing:
    """Clips by place; a clip that cannot be used is replaced if `on_bad` is "skip".

    name: of the datasets, for messages.
    read: reads the clip of an index; its ClipFault means that the clip cannot be used.
    count: number of clips.
    alike: the clips that can replace that of an index, itself among them; default: all.
    max_bad: as of `MaxBad`.
    """

    def __init__(
        self,
        name: object,
        read: Callable[[int], Sample],
        count: int,
        on_bad: Literal["stop", "skip"],
        alike: Callable[[int], Sequence[int] | np.ndarray] | None = None,
        max_bad: float = MOST_BAD,
    ) -> None:
        self._name, self._read, self._count, self.on_bad = name, read, count, on_bad
        self._alike = alike if alike is not None else lambda index: range(count)
        self._max_bad = max_bad
        self._faults: dict[int, ClipFault] = {}

    def _tried(self, place: Place) -> Iterator[int]:
        """Indices of the clips that may stand in this place, in the order in which they are tried."""
        yield place.index
        if self.on_bad == "skip":
            yield from place.replacements(self._alike(place.index))

    def __getitem__(self, place: Place) -> Read:
        faults: list[ClipFault] = []
        for index in self._tried(place):
            try:
                if (known := self._faults.get(index)) is not None:
                    raise known
                return Read(place, index, self._read(index), tuple(faults))
            except ClipFault as fault:
                if self.on_bad == "stop":
                    raise
                self._faults[index] = fault
                faults.append(fault)
        raise too_many(self._name, len(self._faults), self._count, faults[0].brief, self._max_bad)

    def refuse(self, read: Read, fault: ClipFault) -> Read:
        """Replaces a clip that was read but cannot be used after all. Raises the fault if `on_bad` is "stop"."""
        if self.on_bad == "stop":
            raise fault
        self._faults[read.index] = fault
        return self[read.place]


class Skips:
    """The clips that a stage has replaced.

    name, count: of the datasets and their clips. max_bad: as of `MaxBad`.

    The attribute `clips` holds what is wrong with each clip that was replaced on any rank, by name, on rank 0;
    `on_skip` is called there with step, name and fault of each, once; `earlier` gives those of earlier sessions.
    """

    def __init__(self, name: str, count: int, max_bad: float) -> None:
        self._name, self._count, self._max_bad = name, count, max_bad
        self.clips: dict[str, str] = {}
        self._reported: set[str] = set()  # names of clips that this rank has reported
        self.on_skip: Callable[[int, str, str], None] = self._print
        self.earlier: Callable[[], dict[str, str]] = dict

    def note(self, faults: Mapping[str, ClipFault], parallel: Parallel, step: int) -> None:
        """Reports clips that this rank replaced in a step, and raises UserError, on all ranks, if they are too many; a
        collective.

        faults: by the clips' names.
        """
        found = {name: f"{fault.folder}/{fault.brief}" for name, fault in faults.items() if name not in self._reported}
        if not parallel.any(bool(found)):
            return
        self._reported |= found.keys()
        gathered = parallel.gather(found)

        def report() -> None:
            if gathered is not None and not self.clips:
                self.clips.update(self.earlier())
            for name, fault in sorted(item for rank in gathered or () for item in rank.items()):
                if name not in self.clips:
                    self.clips[name] = fault
                    self.on_skip(step, name, fault)
            if len(self.clips) > most_bad(self._count, self._max_bad):
                raise too_many(self._name, len(self.clips), self._count, fault, self._max_bad)

        on_all_ranks(report)

    def __str__(self) -> str:
        return f"{len(self.clips)} of {self._count} clips skipped: {', '.join(sorted(self.clips))}"

    def _print(self, step: int, name: str, fault: str) -> None:
        print(printable(f"skipped at step {step + 1}: {fault}"), file=sys.stderr)
