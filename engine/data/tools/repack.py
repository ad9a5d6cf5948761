"""Copies a dataset with another size, rate, codec or shards; labels and intrinsics follow the pictures."""

import json
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field, field_validator

from phys4d.engine.config import Config
from phys4d.engine.data.clip import blob, schema
from phys4d.engine.data.clip.video import PixelFormat, VideoCodec, encode_mp4
from phys4d.engine.data.dataset import ClipDataset, clip_size
from phys4d.engine.data.decoders.probe import probe
from phys4d.engine.data.files.index import index_digest
from phys4d.engine.data.files.shards import ShardWriter
from phys4d.engine.data.tools import resampling
from phys4d.engine.data.tools.framing import Framing, parse_size
from phys4d.engine.data.tools.read_once import ReadOnce
from phys4d.engine.errors import UserError
from phys4d.engine.location import Location
from phys4d.engine.progress import progress
from phys4d.engine.signals import keeps

_FOLLOWING = ("mp4", "truth", "json", "txt")  # members that follow a change of the pictures


class RepackConfig(Config):
    """What is changed; None keeps what a clip has.

    size: (height, width) in pixels, or text such as "480x832": the largest centred part of that aspect ratio, resized.
    fps: frames per second, not more than a clip has.
    codec: of the mp4, which is encoded anew.
    fov: degrees that the camera of a clip without intrinsics is assumed to see across the width of its picture.
    shard_bytes: size of a shard.
    where: column -> allowed values: only these clips are copied.
    """

    size: tuple[int, int] | None = None
    fps: float | None = Field(None, ge=0.1, le=1000)
    codec: VideoCodec | None = None
    fov: float | None = Field(None, gt=0, lt=180)
    shard_bytes: int = Field(1 << 30, ge=1)
    where: dict[str, list[str | float]] = {}

    @field_validator("size", mode="before")
    @classmethod
    def _from_text(cls, size: Any) -> Any:
        return parse_size(size) if isinstance(size, str) else size


def repack(folder: Location, out: Path, config: RepackConfig, *, workers: int = 1) -> int:
    """Writes the dataset `out` with the clips of another one, and returns their number.

    Members are copied byte by byte where nothing about the pictures changes. Finished clips are kept when the process
    is stopped or killed, and the same call goes on after them; the bytes do not depend on the number of threads.

    folder: of the dataset to copy. out: new dataset folder. config: what is changed. workers: threads, one clip each.

    Raises UserError for a clip that cannot be read, or whose labels cannot follow the change.
    """
    if workers < 1:
        raise UserError(f"--workers {workers}: expected 1 or more")
    dataset = ReadOnce(folder, where=config.where)
    recipe = {"repack": config.model_dump(mode="json"), "clips": index_digest(folder)}
    keeps(f"{out}: finished clips are kept: the same command goes on from there")

    def made(index: int) -> _Made:
        return _Copy(dataset, index, config).made()

    with (
        ShardWriter(out, shard_bytes=config.shard_bytes, recipe=json.dumps(recipe, sort_keys=True)) as writer,
        ThreadPoolExecutor(workers) as pool,
        progress("repack", total=len(dataset), unit="clips") as bar,
    ):
        bar.advance(writer.kept)
        # A few clips at a time: they wait in memory until they are written in order.
        for first in range(writer.kept, len(dataset), 2 * workers):
            clips = range(first, min(first + 2 * workers, len(dataset)))
            for index, clip in zip(clips, pool.map(made, clips), strict=True):
                writer.add(dataset.row(index)["key"], *clip)
                bar.advance(1)
    return len(dataset)


class _Made(NamedTuple):
    """What `ShardWriter.add` takes, behind the key."""

    members: dict[str, bytes]
    frames: int
    fps: float
    height: int
    width: int


class _Copy:
    """One clip of a dataset, and what becomes of it."""

    def __init__(self, dataset: ClipDataset, index: int, config: RepackConfig) -> None:
        self.dataset, self.index, self.config, self.row = dataset, index, config, dataset.row(index)
        self.source = clip_size(self.row)
        self.framing = Framing(self.source[1:], config.size or self.source[1:])
        self.resizes = self.framing.size != self.framing.source
        self.frames = self._picked_frames()
        self.assumes = config.fov is not None and "intrinsics" not in dataset.meta(index)
        self.picks = len(self.frames) < self.source[0] or self._fps() != self.row["fps"]

    def _fps(self) -> float:
        return self.row["fps"] if self.config.fps is None else self.config.fps

    def _picked_frames(self) -> list[int]:
        """The frame that a player shows at each moment of the new rate."""
        source, wanted = (Fraction(fps).limit_denominator(1001) for fps in (self.row["fps"], self._fps()))
        if wanted > source:
            raise self._fault(f"has {self.row['fps']:g} frames a second: {self._fps():g} would repeat frames")
        count = int((self.source[0] - 1) * wanted / source) + 1
        return [int(i * source / wanted) for i in range(count)]

    def made(self) -> _Made:
        """The copy. Raises UserError if it cannot be made."""
        members = {name: self.dataset.member(self.row, name) for name in self.row["members"]}
        try:
            if self.resizes or self.picks:
                self._check_members(members)
            if self.resizes or self.picks or self.assumes:
                members |= self._labels(members)
            if self.resizes or self.picks or self.config.codec is not None:
                members["mp4"] = self._video(members["mp4"])
        except ValueError as error:
            raise self._fault(str(error)) from None
        return _Made(members, len(self.frames), self._fps(), *self.framing.size)

    def _check_members(self, members: dict[str, bytes]) -> None:
        if others := sorted(members.keys() - set(_FOLLOWING)):
            raise ValueError(f"holds {others[0]}, of which is not known how it follows a change of size or rate")

    def _labels(self, members: dict[str, bytes]) -> dict[str, bytes]:
        sample = self.dataset.read(self.index, video=False)
        arrays, meta = sample.arrays, sample.meta
        provenance = meta.get("provenance")
        provenance = dict(provenance) if isinstance(provenance, dict) else {}
        if self.assumes and self.config.fov is not None:
            matrix = Framing(self.source[1:], self.source[1:]).intrinsics(self.config.fov)
            meta = meta | {"intrinsics": [matrix] * self.source[0]}
            provenance["assumed"] = {"horizontal_fov_degrees": self.config.fov, "what": "intrinsics: none were given"}
        kind = schema.depth_kind(meta)
        if self.picks:
            arrays = resampling.picked(arrays, self.frames)
            meta = resampling.picked_meta(meta, self.frames, self._fps())
        if self.resizes:
            arrays = resampling.resized(arrays, self.framing, kind)
            meta = resampling.resized_meta(meta, self.framing)
        box = [round(edge, 3) for edge in self.framing.box]
        change = {"size": self.source[1:], "box": box, "fps": self.row["fps"], "frames": self.source[0]}
        meta = meta | {"provenance": provenance | {"repacked_from": change}}
        size = (len(self.frames), *self.framing.size)
        schema.check_header({n: {"dtype": a.dtype.name, "shape": list(a.shape)} for n, a in arrays.items()}, size)
        schema.check_values(arrays, ())
        schema.check_meta(meta, size)
        schema.check_depth(arrays, meta)
        done = {"json": json.dumps(meta, separators=(",", ":")).encode()}
        if "truth" in members and (self.resizes or self.picks):
            done["truth"] = blob.encode(arrays, blob.quantisation(arrays, kind))
        return done

    def _video(self, data: bytes) -> bytes:
        frames = np.asarray(self.dataset.read(self.index).video)[self.frames]
        if self.resizes:
            frames = np.stack([self.framing.apply(frame) for frame in frames])
        pixel_format: PixelFormat = "yuv420p" if probe(data).pixel_format == "yuv420p" else "yuv444p"
        return encode_mp4(frames, self._fps(), pixel_format=pixel_format, codec=self.config.codec or "h264")

    def _fault(self, what: str) -> UserError:
        return UserError(f"{self.dataset.folder}/{self.row['shard']}: clip {self.row['key']}: {what}")
