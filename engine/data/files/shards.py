"""Writes a dataset: WebDataset-compatible tar shards and one parquet index; the dataset appears complete or not at all.
"""

import fcntl
import hashlib
import os
import re
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from phys4d.engine.data.files.columns import TEXTS, texts_of
from phys4d.engine.data.files.journal import (
    JOURNAL,
    LOCK,
    journal_name,
    kept_rows,
    line,
    lock_name,
    other_rank,
    shard_name,
)
from phys4d.engine.errors import UserError
from phys4d.engine.integrity import digests, write_manifest
from phys4d.engine.output import OutputFolder
from phys4d.engine.storage import sync, without_links

INDEX = "index.parquet"
FAST = "xxh3"
"""Field of a member with its XXH3 of 64 bits, a digest 30 times as fast as SHA-256 that finds damage, not design: so
does the SHA-256 of an index that lies beside the data. None in an index of an earlier version."""
_MEMBER = pa.struct(
    [
        ("name", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("sha256", pa.string()),
        (FAST, pa.uint64()),
    ]
)
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.string()),
        ("frames", pa.int32()),
        ("fps", pa.float64()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("members", pa.list_(_MEMBER)),
    ]
)
WRITTEN = pa.schema([*SCHEMA, *((name, pa.string()) for name in TEXTS)])
"""The columns of an index that `ShardWriter` writes: those that every index has, and the texts of `columns.TEXTS`."""
_BLOCK = 512


class ShardWriter:
    """Context manager that writes clips into tar shards of about `shard_bytes`, and an index at the end.

    Files are written to a hidden folder (`OutputFolder.partial`) and moved to `folder` when the block ends without an
    exception; otherwise they are removed. The bytes depend only on the added clips and their order.

    folder: dataset folder, new or empty.
    shard_bytes: size of a shard.
    recipe: a line that contains everything the clips depend on. With a recipe, clips written before an exception or a
        kill are kept, and the next writer with the same recipe continues after the `kept` complete clips.
    later: the recipe is not known yet, and given to `begin` before the first clip; the folder is locked until then.
    rank, ranks: of several that write one dataset with one recipe, each its own clips to its own shards. Their files
        stay until rank 0 moves all, with the rows of the others (`merge`).

    Raises UserError if `folder` is not empty or cannot be written, another process is writing it, or kept clips have
    another recipe.
    """

    def __init__(
        self, folder: Path, *, shard_bytes: int = 1 << 30, recipe: str | None = None, later: bool = False,
        rank: int = 0, ranks: int = 1,
    ) -> None:  # fmt: skip
        self.folder, self.shard_bytes, self.recipe = Path(folder), shard_bytes, recipe
        self._begun, self._rank, self._ranks = not later, rank, ranks
        self._journal, self._merged = journal_name(rank), list[dict[str, Any]]()
        self.place = OutputFolder.of(self.folder)
        self.partial = self.place.partial
        self._rows: list[dict[str, Any]] = []
        self._keys: set[str] = set()
        self._shard: BinaryIO | None = None
        self._shards = 0

    def __enter__(self) -> Self:
        self.place.prepare()
        self._lock = acquire(self.place, self._rank)
        try:
            if self._rank == 0:
                self.place.undo_publish()
            if self._begun:
                self.begin(self.recipe)
        except BaseException:
            os.close(self._lock)
            raise
        return self

    def begin(self, recipe: str | None) -> None:
        """Sets the recipe, and takes up the clips that were kept with the same one. Raises as the constructor does."""
        self.recipe = recipe
        if recipe is not None:
            self._rows = kept_rows(self.folder, recipe, self._rank)
        elif (self.partial / INDEX).exists():
            raise UserError(f"{self.partial}: holds a whole dataset that was not moved: move it or remove it")
        self._go_on()
        self._begun = True

    @property
    def kept(self) -> int:
        """Number of clips written so far, including kept ones."""
        return len(self._rows)

    @property
    def rows(self) -> Sequence[Mapping[str, Any]]:
        """Index rows of the clips written so far, including kept ones."""
        return self._rows

    def _go_on(self) -> None:
        """Removes what a killed writer left after its last complete clip; starts the journal."""
        self._rows = [dict.fromkeys(TEXTS, "") | row for row in self._rows]  # of a writer that did not note them
        self._keys = {row["key"] for row in self._rows}
        shards = sorted({row["shard"] for row in self._rows})
        for stale in self.partial.iterdir():
            if (other_rank(stale.name) or 0) == self._rank and stale.name not in (lock_name(self._rank), *shards):
                stale.unlink()
        if self._rows:
            last = self._rows[-1]["members"][-1]
            self._shard = open(self.partial / shards[-1], "r+b", opener=without_links)  # noqa: SIM115
            self._shard.truncate(last["offset"] + _padded(last["size"]))
            self._shard.seek(0, os.SEEK_END)
        self._shards = len(shards)
        if self.recipe is not None:
            fresh = self.partial / f"{self._journal}.new"
            with open(fresh, "w", opener=without_links) as journal:
                journal.writelines(line(entry) for entry in [self.recipe, *self._rows])
                journal.flush()
                os.fsync(journal.fileno())
            os.rename(fresh, self.partial / self._journal)
            sync(self.partial)

    def add(
        self, key: str, members: Mapping[str, bytes], frames: int, fps: float, height: int, width: int
    ) -> None:
        """Adds one clip.

        key: 1 to 80 letters, digits, "_" or "-", unique in the dataset.
        members: extension ("mp4", "truth", "json") -> bytes. What the json says of caption, category, family and source
            is written to the index, too (`columns.texts_of`).
        frames, fps, height, width: of the mp4, for the index.

        Raises ValueError for an invalid or repeated key or an invalid extension.
        """
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,80}", key) or key in self._keys:
            raise ValueError(f"key {key!r}: expected a new key of 1 to 80 letters, digits, '_' or '-'")
        if not members or not all(re.fullmatch(r"[a-z0-9]{1,16}", name) for name in members):
            raise ValueError(f"clip {key!r}: expected members named like 'mp4', got {list(members)}")
        room = sum(_BLOCK + _padded(len(data)) for data in members.values())
        if self._shard is not None and self._shard.tell() + room > self.shard_bytes:
            self._finish_shard()
        if self._shard is None:
            path = self.partial / shard_name(self._rank, self._shards)
            self._shard = open(path, "wb", opener=without_links)  # noqa: SIM115
            self._shards += 1
        placed = [self._write(f"{key}.{name}", name, data) for name, data in members.items()]
        self._keys.add(key)
        row = {
            "key": key,
            "shard": shard_name(self._rank, self._shards - 1),
            "frames": frames,
            "fps": float(fps),
            "height": height,
            "width": width,
            "members": placed,
            **texts_of(members),
        }
        if self.recipe is not None:
            self._note(row)
        self._rows.append(row)

    def merge(self, rows: Sequence[dict[str, Any]]) -> None:
        """Gives rank 0 the rows of clips that other ranks wrote; the index is then in the order of keys' numbers."""
        self._merged = sorted([*rows, *self._rows], key=lambda row: (len(row["key"]), row["key"]))

    def _note(self, row: dict[str, Any]) -> None:
        """Appends a line to the journal, after the clip's bytes are on the disk."""
        assert self._shard is not None
        self._shard.flush()
        os.fsync(self._shard.fileno())
        with open(self.partial / self._journal, "a", opener=without_links) as journal:
            journal.write(line(row))
            journal.flush()
            os.fsync(journal.fileno())

    def _write(self, file_name: str, name: str, data: bytes) -> dict[str, Any]:
        assert self._shard is not None
        return write_member(self._shard, file_name, name, data)

    def _finish_shard(self) -> None:
        if self._shard is not None:
            end_shard(self._shard)
            self._shard.close()
            self._shard = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is not None:
                if self._shard is not None:
                    self._shard.close()
                kept = bool(self._rows) if self._begun else (self.partial / JOURNAL).exists()
                kept = kept or self._ranks > 1 or any(other_rank(path.name) for path in self.partial.iterdir())
                if not kept or (self._begun and self.recipe is None):
                    shutil.rmtree(self.partial)
                return
            self._finish_shard()
            if self._rank:
                return
            fresh = self.partial / f"{INDEX}.new"
            with open(fresh, "wb", opener=without_links) as file:
                pq.write_table(pa.Table.from_pylist(self._merged or self._rows, WRITTEN), file, compression="zstd")
            sync(fresh)
            os.rename(fresh, self.partial / INDEX)
            write_manifest(self.partial, digests(self.partial, [INDEX]))
            sync(self.partial)
            others = [name for name in os.listdir(self.partial) if other_rank(name) and not name.startswith("shard-")]
            self.place.publish(INDEX, (JOURNAL, LOCK, *others))
        finally:
            os.close(self._lock)


def acquire(place: OutputFolder, rank: int = 0) -> int:
    """The descriptor of a rank's locked lock file in a prepared folder; a descriptor that is closed releases it.

    Another writer may finish between `prepare` and the lock; then the file that is locked is not the one in place.

    Raises UserError if another process holds the lock, or has finished.
    """
    path, lock = place.partial / lock_name(rank), -1
    try:
        lock = without_links(str(path), os.O_RDWR | os.O_CREAT)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock), os.stat(path)) and not place.is_occupied():
            return lock
    except BlockingIOError:
        os.close(lock)
        raise UserError(f"{place.given}: another process is writing this dataset: wait for it") from None
    except FileNotFoundError:
        pass
    if lock >= 0:
        os.close(lock)
    raise UserError(f"{place.given}: another process has just written this dataset: choose another folder")


def write_member(shard: BinaryIO, file_name: str, name: str, data: bytes) -> dict[str, Any]:
    """Appends a file to a tar shard, and returns its entry for the index.

    shard: open for writing. file_name: in the tar. name: of the member in the index. data: its content.
    """
    info = tarfile.TarInfo(file_name)  # mtime, uid and gid are 0 and names empty by default
    info.size, info.mode = len(data), 0o644
    shard.write(info.tobuf(tarfile.USTAR_FORMAT))
    offset = shard.tell()
    shard.write(data)
    shard.write(bytes(_padded(len(data)) - len(data)))
    entry = {"name": name, "offset": offset, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return entry | {FAST: xxhash.xxh3_64_intdigest(data)}


def end_shard(shard: BinaryIO) -> None:
    """Writes the end of a tar file and syncs it to the disk."""
    shard.write(bytes(2 * _BLOCK))
    shard.flush()
    os.fsync(shard.fileno())


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
