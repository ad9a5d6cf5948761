"""Writes a dataset by any number of ranks, shard by shard, again after a kill.

Clips are divided into shards by their number alone. Each rank writes shards of its own; a finished shard stays after a
kill, and rank 0 makes the index of all. So the bytes do not depend on the number of ranks.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from phys4d.engine.data.dataset import ClipFault
from phys4d.engine.data.files.journal import LOCK
from phys4d.engine.data.files.shards import INDEX, acquire, end_shard
from phys4d.engine.distributed.collectives import on_all_ranks
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import UserError
from phys4d.engine.integrity import digests, write_manifest
from phys4d.engine.output import OutputFolder
from phys4d.engine.progress import Bar, progress
from phys4d.engine.storage import replace_bytes, replace_text, sync, without_links

T = TypeVar("T")
Row = dict[str, Any]
Limit = Callable[[Mapping[str, str]], None]
"""Raises UserError where so many clips, each with its fault, are too many to be left out."""

_PARTS = 64  # a dataset has at least so many shards, if it has so many clips
_CLIPS = 256  # of a shard at most; a kill loses the shard that is being written
_BYTES = 1 << 30  # of a shard, about
NOTES = ".ranks"
"""Folder beside unfinished shards: the rows of those that are finished, and what all ranks must know."""
_RECIPE, _FAULT, _LEFT_OUT = "recipe.json", "fault", "left-out"


@dataclass(frozen=True)
class Written:
    """What all ranks wrote. rows: of the index, in the order of the clips. bad: by key, the fault of each clip that is
    left out."""

    rows: list[Row]
    bad: dict[str, str]


def divided(clips: int, each: int) -> list[range]:
    """The clips of each shard. clips: of the dataset; each: bytes of a clip, about."""
    size = max(1, min(_CLIPS, -(-clips // _PARTS), _BYTES // max(1, each)))
    return [range(start, min(start + size, clips)) for start in range(0, clips, size)]


class RankShards:
    """Context manager of a dataset that all ranks write; entering and every method is a collective.

    Files are written to a hidden folder (`OutputFolder.partial`) and moved to their place in `finish`. If nothing is
    finished when the block ends with an error, no file stays.

    out: the new folder, on a file system that all ranks share. parallel: the ranks.

    Attributes: notes, a folder beside the shards while these are written.

    Raises UserError if `out` is not empty or cannot be written, or another process is writing it.
    """

    def __init__(self, out: Path, parallel: Parallel) -> None:
        self.place, self.parallel = OutputFolder.of(out), parallel
        self.partial, self.notes = self.place.partial, self.place.partial / NOTES
        self._lock: int | None = None
        self._shards: Sequence[range] = ()
        self._limit: Limit | None = None

    def __enter__(self) -> Self:
        self._lock = self.parallel.on_rank_zero(self._lock_folder)
        return self

    def _lock_folder(self) -> int:
        self.place.prepare()
        lock = acquire(self.place)
        try:
            self.place.undo_publish()
            return lock
        except BaseException:
            os.close(lock)
            raise

    def begin(
        self, shards: Sequence[range], limit: Limit | None, prepare: Callable[[], tuple[str, Mapping[str, bytes]]]
    ) -> None:
        """Takes up the shards that are finished with the same recipe, and removes what a kill left of others.

        shards: the clips of each (`divided`). limit: None ends the work at the first bad clip, else bad clips are left
        out and counted by it. prepare: returns the recipe, all that the bytes depend on, and the content of files that
        stay in `notes` until all shards are finished; called on rank 0 and then, when these files are there, on the
        other ranks.

        Raises UserError if shards are finished with another recipe, or a rank has another one.
        """
        self._shards, self._limit = shards, limit

        def first() -> None:
            recipe, kept = prepare()
            self._take_up(recipe)
            for name, data in kept.items():
                replace_bytes(self.notes / name, data)
            replace_text(self.notes / _RECIPE, recipe)

        def others() -> None:
            if self.parallel.rank == 0:
                return
            if not (self.notes / _RECIPE).is_file():
                raise UserError(
                    f"{self.partial}: rank {self.parallel.rank} does not see it: name --out on a disk that all ranks "
                    "share"
                )
            if (own := prepare()[0]) != (begun := (self.notes / _RECIPE).read_text(encoding="utf-8")):
                raise UserError(
                    f"{self.place.given}: rank {self.parallel.rank} has other settings, versions or weights ({own}) "
                    f"than rank 0 ({begun}): give all ranks the same ones"
                )

        self.parallel.on_rank_zero(first)
        on_all_ranks(others)

    def _take_up(self, recipe: str) -> None:
        path = self.notes / _RECIPE
        if not self._any_finished():
            for left in self.partial.iterdir():
                if left.name != LOCK and left != self.notes:
                    left.unlink()
            shutil.rmtree(self.notes, ignore_errors=True)
            self.notes.mkdir()
            return
        begun = path.read_text(encoding="utf-8") if path.exists() else "unknown"
        if begun != recipe:
            raise UserError(
                f"{self.place.given}: begun with other settings ({begun}): give the same ones again, or remove "
                f"{self.partial}"
            )
        if self._limit is None and (left_out := self.notes / _LEFT_OUT).exists():
            raise UserError(
                f"{self.place.given}: begun with --on-bad skip, which left out clip "
                f"{left_out.read_text(encoding='utf-8')}: give it again, or remove {self.partial}"
            )
        for left in (*self.partial.glob("*.unfinished"), self.notes / _FAULT):
            left.unlink(missing_ok=True)

    def write(
        self,
        title: str,
        items: Callable[[Sequence[int]], Iterable[T | ClipFault]],
        add: Callable[[BinaryIO, int, T], Row],
        key: Callable[[int], str],
    ) -> None:
        """Writes the shards that are not finished, each rank its own.

        title: of the progress bar. items: what becomes of these clips, in their order; a ClipFault for a bad clip. add:
        appends the members of a clip to the open shard, and returns its row for the index without the name of the
        shard; its ClipFault means a bad clip, of which nothing may be appended. key: of a clip.

        Raises the fault of a bad clip, or UserError for too many of them, or for a fault of another rank.
        """
        fault: UserError | None = None
        try:
            with self.parallel.at(title, float("inf")):
                self._write_own(title, items, add, key)
        except UserError as error:
            (self.notes / _FAULT).touch()  # ends the other ranks behind the shard that they are at
            fault = error
        faults = self.parallel.gather(None if fault is None else f"{fault}")

        def first() -> None:
            if fault is not None:
                raise fault
            if found := [line for line in faults or () if line is not None]:
                raise UserError(found[0])

        self.parallel.on_rank_zero(first)

    def _write_own(
        self,
        title: str,
        items: Callable[[Sequence[int]], Iterable[T | ClipFault]],
        add: Callable[[BinaryIO, int, T], Row],
        key: Callable[[int], str],
    ) -> None:
        own = range(self.parallel.rank, len(self._shards), self.parallel.world_size)
        left = [number for number in own if not self._rows_of(number).exists()]
        clips = [index for number in left for index in self._shards[number]]
        total = sum(len(self._shards[number]) for number in own)
        ranks = self.parallel.world_size
        with progress(title if ranks == 1 else f"{title}, rank 0 of {ranks}", total=total, unit="clips") as bar:
            bar.advance(total - len(clips))
            taken, bad = iter(items(clips)), dict[str, str]()
            for number in left:
                if (self.notes / _FAULT).exists():
                    return
                self._write_shard(number, taken, add, key, bad, bar)

    def _write_shard(
        self,
        number: int,
        items: Iterator[T | ClipFault],
        add: Callable[[BinaryIO, int, T], Row],
        key: Callable[[int], str],
        bad: dict[str, str],
        bar: Bar,
    ) -> None:
        """Writes one shard and then its rows, whose file says that it is whole; bad: faults of this rank's clips."""
        name, rows, here = _name(number), list[Row](), dict[str, str]()
        unfinished = self.partial / f"{name}.unfinished"
        with open(unfinished, "wb", opener=without_links) as shard:
            for index in self._shards[number]:
                item = next(items)
                try:
                    if isinstance(item, ClipFault):
                        raise item
                    rows.append(add(shard, index, item) | {"shard": name})
                except ClipFault as fault:
                    if self._limit is None:
                        raise
                    here[key(index)] = bad[key(index)] = fault.brief
                    self._limit(bad)
                bar.advance(1)
            end_shard(shard)
        if here:
            replace_text(self.notes / _LEFT_OUT, next(iter(here)))
        os.rename(unfinished, self.partial / name)
        sync(self.partial)
        replace_text(self._rows_of(number), json.dumps({"rows": rows, "bad": here}))

    def finish(self, schema: pa.Schema, further: Callable[[Written], Mapping[str, bytes]]) -> Written | None:
        """Writes index, further files by name and a manifest of both, and moves all to its place.

        schema: of the index. Returns what was written on rank 0, None on the others. Raises UserError for too many bad
        clips.
        """
        return self.parallel.on_rank_zero(lambda: self._publish(schema, further))

    def _publish(self, schema: pa.Schema, further: Callable[[Written], Mapping[str, bytes]]) -> Written:
        parts = [json.loads(self._rows_of(number).read_bytes()) for number in range(len(self._shards))]
        bad = {key: fault for part in parts for key, fault in part["bad"].items()}
        written = Written([row for part in parts for row in part["rows"]], bad)
        if self._limit is not None:
            self._limit(bad)
        fresh = self.partial / f"{INDEX}.unfinished"
        with open(fresh, "wb", opener=without_links) as file:
            pq.write_table(pa.Table.from_pylist(written.rows, schema), file, compression="zstd")
        sync(fresh)
        os.rename(fresh, self.partial / INDEX)
        beside = further(written)
        for name, data in beside.items():
            replace_bytes(self.partial / name, data)
        write_manifest(self.partial, digests(self.partial, [INDEX, *beside]))
        sync(self.partial)
        self.place.publish(INDEX, (NOTES, LOCK))
        return written

    def _rows_of(self, number: int) -> Path:
        """The file that holds the rows of a finished shard, and exists when that is whole on the disk."""
        return self.notes / f"shard-{number:06d}.json"

    def _any_finished(self) -> bool:
        return any(self.notes.glob("shard-*.json"))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is None:
            return
        # With several ranks, only an error that all of them met at the same place proves that none is writing.
        alone = self.parallel.world_size == 1 or isinstance(error, UserError)
        try:
            if kind is not None and alone and not self._any_finished():
                shutil.rmtree(self.partial, ignore_errors=True)
        finally:
            os.close(self._lock)


def _name(number: int) -> str:
    return f"shard-{number:06d}.tar"
