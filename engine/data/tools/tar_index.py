"""Makes the index of a folder of tar shards that another program wrote, in WebDataset's layout."""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from phys4d.engine.data.access.open_files import OpenFiles
from phys4d.engine.data.clip import blob, clip_json, schema
from phys4d.engine.data.decoders.probe import frame_rate, probe
from phys4d.engine.data.decoders.pyav import PyAVDecoder
from phys4d.engine.data.files.columns import texts_of
from phys4d.engine.data.files.index import KEY, MEMBER, SHARD
from phys4d.engine.data.files.shards import FAST, INDEX, WRITTEN
from phys4d.engine.data.files.tar_headers import TarFile, tar_files
from phys4d.engine.data.stream import stream
from phys4d.engine.errors import UserError
from phys4d.engine.faults import reading
from phys4d.engine.integrity import MANIFEST, digests, write_manifest
from phys4d.engine.limits import CLIP_MEMBERS, JSON_BYTES
from phys4d.engine.output import check_folder
from phys4d.engine.progress import progress
from phys4d.engine.storage import sync, without_links

_CHUNK = 1 << 20


@dataclass
class Indexed:
    """What an index holds. clips, shards: their numbers. lines: one for each clip that is left out, and why. ignored:
    number of files that are no member of a clip, of which `first_ignored` is one."""

    clips: int = 0
    shards: int = 0
    lines: list[str] = field(default_factory=list)
    ignored: int = 0
    first_ignored: str = ""


@dataclass(frozen=True)
class _Clip:
    shard: str
    key: str
    members: dict[str, TarFile]


def index_tars(folder: Path, *, workers: int = 1) -> Indexed:
    """Writes `index.parquet` into a folder of tars, which are not changed.

    A clip is what WebDataset makes a sample of: consecutive files of one name up to the first dot, which is its key. It
        needs `mp4`, and `json` or `txt` (the caption). Names that begin with a dot or have none are ignored, as by
        WebDataset; so are extensions other than 1 to 16 letters and digits.

    folder: its files *.tar are the shards, in the order of their names.
    workers: threads, each of which holds one mp4 in memory.

    Raises UserError for a folder without tars or with an index, a tar that is damaged or hostile, or two clips of one
    key; and if no clip can be used.
    """
    if workers < 1:
        raise UserError(f"--workers {workers}: expected 1 or more")
    shards, done = _shards(folder), Indexed()
    clips = list(_clips(folder, shards, done))
    rows: list[dict[str, Any]] = []
    described = stream(_Described(folder), ([clip] for clip in clips), threads=workers, prefetch=2 * workers)
    with progress("index", total=len(clips), unit="clips") as bar:
        for (row,), clip in zip(described, clips, strict=True):
            if isinstance(row, str):
                done.lines.append(f"{folder / clip.shard}: clip {clip.key}: {row}")
            else:
                rows.append(row)
            bar.advance(1)
    if not rows:
        why = f", see above: {done.lines[0]}" if done.lines else ""
        raise UserError(f"{folder}: not one clip in {len(shards)} tars{why}")
    _write(folder, rows)
    done.clips, done.shards = len(rows), len(shards)
    return done


def _shards(folder: Path) -> list[str]:
    with reading(folder):
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder")
        names = sorted(os.listdir(folder))
    for name in (INDEX, MANIFEST):
        if name in names:
            raise UserError(f"{folder}: has {name}: it is a dataset, or remove the file to make its index anew")
    if packed := [name for name in names if re.search(r"\.(tar\.\w+|tgz)$", name)]:
        raise UserError(f"{folder / packed[0]}: is compressed: unpack the tar, of which parts are read")
    shards = [name for name in names if name.endswith(".tar")]
    if not shards:
        raise UserError(f"{folder}: holds no tar: expected shards such as 000000.tar")
    for name in shards:
        if not re.match(SHARD, name):
            raise UserError(f"{folder / name}: expected a name of letters, digits, '.', '_' and '-'")
    check_folder(folder)
    return shards


def _clips(folder: Path, shards: list[str], done: Indexed) -> Iterator[_Clip]:
    """The clips of all tars. Raises UserError for a tar that is refused."""
    seen: set[str] = set()
    for shard in shards:
        try:
            with reading(folder / shard):
                yield from _clips_of(folder / shard, seen, done)
        except ValueError as error:
            raise UserError(f"{folder / shard}: {error}") from None
        except OSError as error:
            raise UserError(f"{folder / shard}: cannot be opened ({error.strerror})") from None


def _clips_of(path: Path, seen: set[str], done: Indexed) -> Iterator[_Clip]:
    clip: _Clip | None = None
    for file in tar_files(path):
        base = file.name.removeprefix("./")
        key, dot, extension = base.partition(".")
        extension = extension.lower()
        if not key or not dot or not re.match(MEMBER, extension):
            done.ignored += 1
            done.first_ignored = done.first_ignored or f"{path}: {file.name}"
            continue
        if not re.match(KEY, key):
            what = "a file in a folder" if "/" in key else "a key of other characters"
            raise ValueError(f"{base!r}: {what}: expected a key of 1 to 80 letters, digits, '_' or '-'"[:300])
        if clip is None or clip.key != key:
            if clip is not None:
                yield clip
            if key in seen:
                raise ValueError(f"clip {key}: there are two of this key, or its files are not next to each other")
            seen.add(key)
            clip = _Clip(path.name, key, {})
        if extension in clip.members or len(clip.members) == CLIP_MEMBERS:
            what = f"{extension} twice" if extension in clip.members else f"more than {CLIP_MEMBERS} files"
            raise ValueError(f"clip {key}: holds {what}")
        clip.members[extension] = file
    if clip is not None:
        yield clip


class _Described:
    """The rows of clips in the index; a text that says what is wrong, for a clip that cannot be used."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._files = folder, OpenFiles()

    def __getitem__(self, clip: _Clip) -> dict[str, Any] | str:
        for name in ("mp4", "json" if "txt" not in clip.members else "txt"):
            if name not in clip.members:
                return f"has no {name}{', and no txt' if name == 'json' else ''}, only {', '.join(clip.members)}"
        try:
            with reading(self.folder / clip.shard):
                return self._row(clip)
        except ValueError as error:
            return str(error)

    def _row(self, clip: _Clip) -> dict[str, Any]:
        names = [name for name in ("mp4", "json", "txt") if name in clip.members]
        kept: dict[str, bytes] = {name: self._read(clip, name) for name in names}
        with _part("mp4"):
            frames, rate = len(probe(kept["mp4"]).times), frame_rate(kept["mp4"])
            _, height, width, _ = PyAVDecoder().decode(kept["mp4"], 0, 1).shape
        size = frames, height, width
        with _part("json"):
            meta = clip_json.parse(kept.get("json", b"{}"), size)
        if "txt" in kept:
            with _part("txt"):
                clip_json.caption(kept["txt"])
        if "truth" in clip.members:
            with _part("truth"):
                schema.check_header(blob.header(self._read(clip, "truth")), size)
        members = [
            {"name": name, "offset": file.offset, "size": file.size, **self._digests(clip, file)}
            for name, file in clip.members.items()
        ]
        row = {"key": clip.key, "shard": clip.shard, "frames": frames, "height": height, "width": width}
        return row | {"fps": float(meta.get("fps", rate)), "members": members} | texts_of(kept)

    def _read(self, clip: _Clip, name: str) -> bytes:
        file = clip.members[name]
        if name in ("json", "txt") and file.size > JSON_BYTES:
            raise ValueError(f"{name} has {file.size} bytes, at most {JSON_BYTES} are read")
        return self._files.read(self.folder / clip.shard, file.size, file.offset)

    def _digests(self, clip: _Clip, file: TarFile) -> dict[str, Any]:
        sha256, fast = hashlib.sha256(), xxhash.xxh3_64()
        for at in range(0, file.size, _CHUNK):
            data = self._files.read(self.folder / clip.shard, min(_CHUNK, file.size - at), file.offset + at)
            sha256.update(data)
            fast.update(data)
        return {"sha256": sha256.hexdigest(), FAST: fast.intdigest()}


@contextmanager
def _part(name: str) -> Iterator[None]:
    """Context that puts the name of a member before what is wrong with it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None


def _write(folder: Path, rows: list[dict[str, Any]]) -> None:
    fresh = folder / f".{INDEX}.partial"
    try:
        with open(fresh, "wb", opener=without_links) as file:
            pq.write_table(pa.Table.from_pylist(rows, WRITTEN), file, compression="zstd")
        sync(fresh)
        os.rename(fresh, folder / INDEX)
        write_manifest(folder, digests(folder, [INDEX]))
        sync(folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}") from None
