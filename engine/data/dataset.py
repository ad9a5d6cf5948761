"""Reads a dataset: clips by index through the byte offsets of the parquet index, from any thread or process."""

import hashlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xxhash

from phys4d.engine.data.access.open_files import OpenFiles
from phys4d.engine.data.access.remote_files import RemoteFiles
from phys4d.engine.data.clip import blob, clip_json, schema
from phys4d.engine.data.decoders.interface import Request, Unservable, VideoDecoder, decode
from phys4d.engine.data.decoders.probe import frame_count
from phys4d.engine.data.decoders.pyav import PyAVDecoder
from phys4d.engine.data.files.clip_index import ClipIndex
from phys4d.engine.data.files.shards import FAST
from phys4d.engine.errors import UserError
from phys4d.engine.faults import reading
from phys4d.engine.location import Location, Remote

_HEAD = 1 << 14  # bytes of an array blob that hold the header of ordinary clips


class ClipFault(UserError):
    """A clip that cannot be read, or is not as `schema` says.

    folder: of the dataset. key: of the clip.
    brief: the message without the folder and the advice.
    """

    def __init__(self, folder: Location, key: str, brief: str, advice: str = "") -> None:
        super().__init__(f"{folder}/{brief}: {advice or f'see `phys4d data verify {folder}`'}")
        self.folder, self.key, self.brief = folder, key, brief


@dataclass(frozen=True)
class Sample:
    """One clip.

    key: key of the clip in its dataset.
    video: RGB uint8 [T, H, W, 3]: an array, or a tensor on the GPU of the dataset's decoder; of a clip that was read
        without it, an array [0, H, W, 3].
    arrays: requested truth arrays by name.
    meta: parsed json.
    """

    key: str
    video: Any
    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]

    @property
    def nbytes(self) -> int:
        """Bytes of video and arrays in memory."""
        return self.video.nbytes + sum(array.nbytes for array in self.arrays.values())


class _Files(Protocol):
    """Files read by position: `OpenFiles` or `RemoteFiles`."""

    def size(self, path: Any) -> int: ...

    def read(self, path: Any, size: int, offset: int) -> bytes: ...


class ClipDataset(ClipIndex):
    """Random access to the clips of a dataset folder.

    One object may be used by many threads, after a fork, or pickled; a few dozen shards are open at a time.

    folder: written by `ShardWriter`; local, or a URL, of which only the bytes of the members that are used are read
        (`remote_files`).
    arrays: names to read from the `.truth` blob; None reads all arrays of a clip (none for a video-only clip).
    required: fields that the json of every clip must have.
    where: column -> allowed values, which choose the clips that are there (`ClipIndex`).

    The attribute `decoder` decodes the videos; it is PyAV unless it is set (`decoders.choice.choose`).

    What is read is what was written: the digest of each member is compared with that in the index at every read (XXH3;
    SHA-256 where the index is of an earlier version). What else is checked (`schema`, the formats) depends on these
    bytes alone; a clip that passed it is marked, and read without it from then on.

    Raises UserError if the folder cannot be read; ClipFault, a UserError, if a clip cannot; MachineFault, a UserError,
    if the machine or the file system failed, so that the data may be sound.
    """

    def __init__(
        self,
        folder: Location | str,
        *,
        arrays: Collection[str] | None = None,
        required: Collection[str] = (),
        where: Mapping[str, Collection[Any]] | None = None,
    ) -> None:
        super().__init__(folder, where)
        self.arrays = None if arrays is None else tuple(arrays)
        self.required = tuple(required)
        self.decoder: VideoDecoder = PyAVDecoder()
        self._sound = bytearray(len(self))  # 1 for each clip that passed all checks
        self._paths: dict[str, Location] = {}  # of the shards that were read
        self._files: _Files = RemoteFiles() if isinstance(self.folder, Remote) else OpenFiles()

    def __getitem__(self, index: int) -> Sample:
        """Reads and decodes clip `index`. Raises UserError that names shard, key and member if that is impossible."""
        return self.read(index)

    def read(self, index: int, *, video: bool = True) -> Sample:
        """The same without its video, whose mp4 is then not read, unless `video` is set."""
        row, known = self.row(index), self._sound[index] == 1
        with reading(self.folder / row["shard"]):
            frames = self._video(row) if video else np.empty((0, row["height"], row["width"], 3), np.uint8)
            signs = {"depth": -1}
            sample = Sample(row["key"], frames, self._arrays(row, signs, known), self._meta(row, known))
        if not known:
            try:
                schema.check_depth(sample.arrays, sample.meta, signs["depth"])
            except ValueError as error:
                raise self._fault(row, "truth", str(error)) from None
            self._sound[index] = 1
        return sample

    def _video(self, row: dict[str, Any]) -> Any:
        try:
            size = (row["height"], row["width"])
            return decode(self.decoder, Request(self.member(row, "mp4"), row["frames"], stored=size))
        except Unservable as reason:
            raise self.unserved(row, self.decoder, str(reason)) from None
        except ValueError as error:
            raise self._fault(row, "mp4", str(error)) from None

    def unserved(self, row: dict[str, Any], decoder: VideoDecoder, reason: str) -> UserError:
        """The error for a sound clip that a decoder does not serve; such a clip is never skipped."""
        where = f"{self.folder}/{row['shard']}: clip {row['key']}"
        return UserError(f'decoder = "{decoder.name}": {where}: {reason}: set decoder = "auto"')

    def probe(self, index: int) -> dict[str, Any]:
        """Checks clip `index` as far as possible without decoding and returns its json.

        Raises the ClipFault that reading would raise for a missing or truncated shard, json or the header of the arrays
        that are not as `schema` says, or an mp4 that is not a video.
        """
        row = self.row(index)
        with self._shard(row) as path:
            end = self._files.size(path)
        for name, member in row["members"].items():
            left = max(0, min(member["size"], end - member["offset"]))
            if left < member["size"]:
                raise self._truncated(row, name, left)
        if self.member(row, "mp4", 8)[4:] != b"ftyp":  # not a common mp4: only the decoder can tell
            try:
                frame_count(self.member(row, "mp4"))
            except ValueError as error:
                raise self._fault(row, "mp4", str(error)) from None
        if self._reads_truth(row):
            try:
                data = self.member(row, "truth", _HEAD)
                if len(data) < (end := blob.header_end(data)):
                    data = self.member(row, "truth", end)
                entries = blob.header(data, row["members"]["truth"]["size"])
                schema.check_header(entries, clip_size(row))
                blob.check_names(entries, self.arrays)
            except ValueError as error:
                raise self._fault(row, "truth", str(error)) from None
        return self._meta(row)

    def _reads_truth(self, row: dict[str, Any]) -> bool:
        return self.arrays != () and (self.arrays is not None or "truth" in row["members"])

    def meta(self, index: int) -> dict[str, Any]:
        """The parsed json of clip `index`. Raises UserError if a known field has the wrong type."""
        return self._meta(self.row(index))

    def member(self, row: dict[str, Any], name: str, most: int | None = None) -> bytes:
        """The bytes of a member of a clip, or its first `most` bytes.

        row: index entry of the clip, from `row`.
        name: extension of the member.
        most: number of bytes, None for all.

        Raises UserError if they cannot be read, or a whole member does not have the digest that the index gives it.
        """
        member = row["members"].get(name)
        if member is None:
            raise self._fault(row, name, f"is not there, the clip has only {', '.join(row['members'])}")
        size = member["size"] if most is None else min(most, member["size"])
        with self._shard(row) as path:
            data = self._files.read(path, size, member["offset"])
        if len(data) != size:
            raise self._truncated(row, name, len(data))
        if size == member["size"] and not is_whole(data, member):
            what = f"{row['shard']}: clip {row['key']}: {name} differs from its digest in the index"
            raise ClipFault(self.folder, row["key"], what, "it is damaged, copy it again")
        return data

    def _meta(self, row: dict[str, Any], known: bool = False) -> dict[str, Any]:
        """The json; known: whether it passed all checks before."""
        text = "txt" in row["members"]
        try:
            data = b"{}" if text and "json" not in row["members"] else self.member(row, "json")
            meta = clip_json.parse(data, clip_size(row), () if text else self.required, known=known)
        except ValueError as error:
            raise self._fault(row, "json", str(error)) from None
        if text and "caption" not in meta:
            try:
                meta["caption"] = clip_json.caption(self.member(row, "txt"))
            except ValueError as error:
                raise self._fault(row, "txt", str(error)) from None
        if missing := [name for name in self.required if name not in meta]:
            raise self._fault(row, "json", f"has no {', '.join(missing)}")
        return meta

    def _arrays(self, row: dict[str, Any], signs: dict[str, int], known: bool) -> dict[str, np.ndarray]:
        """The arrays; signs, known: see `blob.decode`."""
        if not self._reads_truth(row):
            return {}
        finite: list[str] = []

        def check(entries: blob.Entries) -> None:
            schema.check_header(entries, clip_size(row))
            finite.extend(name for name, entry in entries.items() if entry.get("quantisation"))

        try:
            arrays = blob.decode(self.member(row, "truth"), self.arrays, check, signs, sums=False, known=known)
            if not known:
                schema.check_values(arrays, finite)
            return arrays
        except ValueError as error:
            raise self._fault(row, "truth", str(error)) from None

    @contextmanager
    def _shard(self, row: dict[str, Any]) -> Iterator[Location]:
        """Context with the place of a clip's shard; converts errors to those of the clip or of the machine."""
        if (path := self._paths.get(row["shard"])) is None:
            path = self._paths[row["shard"]] = self.folder / row["shard"]
        try:
            with reading(path if isinstance(path, Path) else f"{path}: clip {row['key']}"):
                yield path
        except OSError as error:
            what = f"{row['shard']}: clip {row['key']}: the shard cannot be opened ({error.strerror})"
            raise ClipFault(self.folder, row["key"], what) from None

    def _truncated(self, row: dict[str, Any], name: str, left: int) -> ClipFault:
        size = row["members"][name]["size"]
        return self._fault(row, name, f"is truncated: {left} of {size} bytes can be read")

    def _fault(self, row: dict[str, Any], member: str, what: str) -> ClipFault:
        return ClipFault(self.folder, row["key"], f"{row['shard']}: clip {row['key']}: {member} {what}")


def is_whole(data: bytes, member: Mapping[str, Any]) -> bool:
    """Whether a member is as it was written. data: its bytes. member: its entry in the index."""
    if (fast := member.get(FAST)) is not None:
        return bool(xxhash.xxh3_64_intdigest(data) == fast)
    return hashlib.sha256(data).hexdigest() == member["sha256"]


def clip_size(row: dict[str, Any]) -> tuple[int, int, int]:
    """(frames, height, width) of a row of the index."""
    return row["frames"], row["height"], row["width"]
