"""Reading a dataset: clips by index, through the offsets of the parquet index, from any thread or process."""

import hashlib
import json
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from phys4d.engine.data import blob
from phys4d.engine.data.shards import INDEX, SCHEMA
from phys4d.engine.data.video import PyAVDecoder, VideoDecoder, frame_count
from phys4d.engine.errors import UserError
from phys4d.engine.progress import progress

_DECODERS: dict[str, type[VideoDecoder]] = {"pyav": PyAVDecoder}


class _ClipFault(UserError):
    """A clip that cannot be read; `brief` is the line without the folder and the advice."""

    def __init__(self, folder: Path, brief: str) -> None:
        super().__init__(f"{folder}/{brief}: see `phys4d data verify {folder}`")
        self.brief = brief


@dataclass(frozen=True)
class Sample:
    """One clip. video: RGB uint8 [T, H, W, 3]; arrays: those asked for, by name; meta: the parsed json."""

    key: str
    video: np.ndarray
    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]


class ClipDataset:
    """Random access to the clips of a dataset folder.

    folder: what `ShardWriter` wrote. decoder: "pyav". arrays: names to read from the `.truth` blob; None
    reads all that a clip has (none for a video-only clip). Files are read with `os.pread`, so one object may
    be used from many threads, after a fork, or pickled. UserError for a folder or clip that cannot be read.
    """

    def __init__(self, folder: Path, *, decoder: str = "pyav", arrays: Collection[str] | None = None) -> None:
        if decoder not in _DECODERS:
            raise UserError(f"decoder {decoder!r}: expected one of {', '.join(_DECODERS)}")
        self.folder, self.arrays = Path(folder), None if arrays is None else tuple(arrays)
        self._decoder = _DECODERS[decoder]()
        self._index = _read_index(self.folder)
        self._files: dict[str, int] = {}

    def __len__(self) -> int:
        return self._index.num_rows

    def __getitem__(self, index: int) -> Sample:
        """Reads and decodes clip `index`; UserError naming shard, key and member when that is impossible."""
        row = self.row(index)
        data = self._read(row, "mp4")
        try:
            video = self._decoder.decode(data, 0, row["frames"])
        except ValueError as error:
            raise self._fault(row, "mp4", str(error)) from None
        if video.shape[1:3] != (row["height"], row["width"]):
            size = f"{video.shape[1]}x{video.shape[2]}"
            raise self._fault(row, "mp4", f"is {size}, the index says {row['height']}x{row['width']}")
        return Sample(row["key"], video, self._arrays(row), self.meta(index))

    def size(self) -> tuple[int, int, int]:
        """(frames, height, width) of every clip, by the index; UserError where there is none, or one differs."""
        columns = [self._index.column(name).to_pylist() for name in ("key", "frames", "height", "width")]
        sizes = [(frames, height, width) for _, frames, height, width in zip(*columns, strict=True)]
        if not sizes:
            raise UserError(f"{self.folder}: holds no clips: simulate or label some first")
        for key, size in zip(columns[0], sizes, strict=True):
            if size != sizes[0]:
                raise UserError(
                    f"{self.folder}: clip {key}: {size} frames, height, width beside clips of {sizes[0]}: "
                    "a dataset holds clips of one size"
                )
        return sizes[0]

    def probe(self, index: int) -> None:
        """Raises the UserError that reading clip `index` would, as far as it shows without decoding.

        That is a shard that is missing or cut off, and an mp4 that is no video.
        """
        row = self.row(index)
        end = os.fstat(self._file(row)).st_size
        for name, member in row["members"].items():
            left = max(0, min(member["size"], end - member["offset"]))
            if left < member["size"]:
                raise self._truncated(row, name, left)
        start = os.pread(self._file(row), 8, row["members"]["mp4"]["offset"])
        if start[4:] != b"ftyp":  # no usual mp4: then only the decoder knows
            try:
                frame_count(self._read(row, "mp4"))
            except ValueError as error:
                raise self._fault(row, "mp4", str(error)) from None

    def shard_edges(self) -> list[int]:
        """Indices of the first and the last clip of each shard: the last one shows whether the shard was cut off."""
        shards = self._index.column("shard").to_pylist()
        last = len(shards) - 1
        return [
            i
            for i, shard in enumerate(shards)
            if i in (0, last) or shards[i - 1] != shard or shards[i + 1] != shard
        ]

    def row(self, index: int) -> dict[str, Any]:
        """The index entry: key, shard, frames, fps, height, width, members {name: {offset, size, sha256}}."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.folder}: clip {index} of {len(self)}")
        row = self._index.slice(index, 1).to_pylist()[0]
        row["members"] = {member["name"]: member for member in row["members"]}
        return row

    def meta(self, index: int) -> dict[str, Any]:
        """The parsed `.json` member of clip `index`."""
        row = self.row(index)
        try:
            return json.loads(self._read(row, "json"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise self._fault(row, "json", f"is no JSON: {error}") from None

    def _arrays(self, row: dict[str, Any]) -> dict[str, np.ndarray]:
        if self.arrays == () or (self.arrays is None and "truth" not in row["members"]):
            return {}
        try:
            return blob.decode(self._read(row, "truth"), self.arrays)
        except ValueError as error:
            raise self._fault(row, "truth", str(error)) from None

    def _read(self, row: dict[str, Any], name: str) -> bytes:
        member = row["members"].get(name)
        if member is None:
            raise self._fault(row, name, f"is not there, the clip has only {', '.join(row['members'])}")
        data = os.pread(self._file(row), member["size"], member["offset"])
        if len(data) != member["size"]:
            raise self._truncated(row, name, len(data))
        return data

    def _file(self, row: dict[str, Any]) -> int:
        shard = row["shard"]
        if shard not in self._files:
            try:
                opened = os.open(self.folder / shard, os.O_RDONLY)
            except OSError as error:
                what = f"{shard}: clip {row['key']}: the shard cannot be opened ({error.strerror})"
                raise _ClipFault(self.folder, what) from None
            if self._files.setdefault(shard, opened) != opened:  # another thread was faster
                os.close(opened)
        return self._files[shard]

    def _truncated(self, row: dict[str, Any], name: str, left: int) -> _ClipFault:
        size = row["members"][name]["size"]
        return self._fault(row, name, f"is truncated: {left} of {size} bytes can be read")

    def _fault(self, row: dict[str, Any], member: str, what: str) -> _ClipFault:
        return _ClipFault(self.folder, f"{row['shard']}: clip {row['key']}: {member} {what}")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": {}}

    def __del__(self) -> None:
        for opened in getattr(self, "_files", {}).values():
            os.close(opened)


def verify(folder: Path) -> list[str]:
    """Reads a whole dataset and returns one line per problem, naming shard, key and member; [] when sound.

    Checked: every member's size and sha256; that each mp4 holds, and decodes to, the frames and size that the
    index says; that every array unpacks; that the json parses. Raises UserError when there is no index.
    """
    dataset = ClipDataset(folder)
    problems: list[str] = []
    with progress("verify", total=len(dataset), unit="clips") as bar:
        for index in range(len(dataset)):
            problems += _verify_clip(dataset, index)
            bar.advance(1, problems=len(problems))
    return problems


def _verify_clip(dataset: ClipDataset, index: int) -> list[str]:
    row = dataset.row(index)
    where = f"{row['shard']}: clip {row['key']}:"
    problems: list[str] = []
    for name, member in row["members"].items():
        try:
            data = dataset._read(row, name)
        except _ClipFault as error:
            problems.append(error.brief)
            continue
        if hashlib.sha256(data).hexdigest() != member["sha256"]:
            problems.append(f"{where} {name} differs from the sha256 in the index")
        elif name == "mp4":
            try:
                if (count := frame_count(data)) != row["frames"]:
                    problems.append(f"{where} mp4 holds {count} frames, the index says {row['frames']}")
            except ValueError as error:
                problems.append(f"{where} mp4 {error}")
    if not problems:
        try:
            dataset[index]
        except _ClipFault as error:
            problems.append(error.brief)
    return problems


def _read_index(folder: Path) -> pa.Table:
    path = folder / INDEX
    if not folder.is_dir():
        raise UserError(f"{folder}: no such dataset folder: make one with `phys4d simulate --out {folder}`")
    if not path.is_file():
        raise UserError(f"{folder}: no {INDEX} in it: this is no dataset, or its writing was cut off")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: cannot be read as parquet: {str(error).splitlines()[0]}") from None
    if missing := [name for name in SCHEMA.names if name not in table.column_names]:
        raise UserError(f"{path}: has no column {', '.join(missing)}: this is no index of clips")
    return table.combine_chunks()
