"""A folder of video files becomes a dataset of clips of one size, length and frame rate, without truth."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from phys4d.engine.config import Config
from phys4d.engine.data.clip.schema import check_clip
from phys4d.engine.data.clip.video import PixelFormat, checked_pixel_format, encode_mp4
from phys4d.engine.data.decoders.pyav import PyAVDecoder
from phys4d.engine.data.files.shards import ShardWriter
from phys4d.engine.data.tools.framing import Framing, parse_size
from phys4d.engine.errors import UserError
from phys4d.engine.faults import reading
from phys4d.engine.progress import progress
from phys4d.importers.videos.captions import Listed, read_lists
from phys4d.importers.videos.container import check_frames, frame_times
from phys4d.importers.videos.files import VIDEOS, find_videos, read_caption
from phys4d.importers.videos.sampling import clip_starts, most_repeated, repeated, shown_frames

_CHUNK = 256 << 20  # bytes of source frames that one thread holds


class VideosConfig(Config):
    """What a clip is. frames: of each. size: (height, width) in pixels, or text such as "480x832". fps: frames per
    second. every: seconds from the beginning of a clip to that of the next in the same video; None: one clip per video.
    fov: degrees that the camera is assumed to see across the width of the video. caption: of videos without one.
    captions, video_column, caption_column: a list of captions and its columns, see `captions.read_lists`.
    pixel_format: of the mp4 that is written, see `engine.data.clip.video.encode_mp4`.
    """

    frames: int = Field(ge=2)
    size: tuple[int, int]
    fps: float = Field(24.0, ge=0.1, le=1000)
    every: float | None = Field(None, gt=0)
    fov: float = Field(60.0, gt=0, lt=180)
    caption: str = ""
    captions: Path | None = None
    video_column: str | None = None
    caption_column: str | None = None
    pixel_format: PixelFormat = "yuv444p"

    @field_validator("pixel_format")
    @classmethod
    def _even_sides(cls, name: PixelFormat, field: ValidationInfo) -> PixelFormat:
        return checked_pixel_format(name, field.data["size"]) if "size" in field.data else name

    @field_validator("size", mode="before")
    @classmethod
    def _from_text(cls, size: Any) -> Any:
        return parse_size(size) if isinstance(size, str) else size


@dataclass
class Imported:
    """How many clips were written, of how many videos, how many of them have an empty caption, and one line for each
    file of which nothing, or not all, was taken."""

    clips: int = 0
    videos: int = 0
    without_caption: int = 0
    lines: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Clip:
    members: dict[str, bytes]
    caption: str


class _NothingTaken(Exception):
    """No clip was made: the dataset is not to be written."""


def import_videos(folder: Path, out: Path, config: VideosConfig, *, workers: int = 1) -> Imported:
    """Writes the dataset `out` with the clips of all videos in `folder`, in the order of their names.

    A file that is damaged, too short or no video is left out with a line that says why, and the rest goes on. Where no
    clip is made, `out` is not written.

    Args:
        folder: searched with all folders in it; never changed.
        out: new dataset folder, complete or not there at all.
        config: length, size, rate and number of the clips, and what is assumed of the camera.
        workers: threads, each of which holds one video file in memory; the bytes written do not depend on their number.

    Raises:
        UserError: a folder that is none or holds no video, an `out` that cannot be written, or a fault of the machine.
    """
    if workers < 1:
        raise UserError(f"--workers {workers}: expected 1 or more")
    found, done = find_videos(folder), Imported()
    columns = {"video_column": config.video_column, "caption_column": config.caption_column}
    listed = read_lists(folder, found.videos, found.others, config.captions, **columns)
    done.lines += listed.lines
    for path in found.others:
        if path not in listed.files:
            done.lines.append(f"{path}: is no video: expected {', '.join(VIDEOS)}")
    videos = [path for path in found.videos if listed.of(path) is not None]
    lists = ", ".join(sorted(path.name for path in listed.files))
    done.lines += [f"{path}: is not listed in {lists}" for path in found.videos if path not in set(videos)]
    try:
        with ShardWriter(out) as writer:
            _write(folder, videos, listed, writer, config, workers, done)
            if not done.clips:
                raise _NothingTaken
    except _NothingTaken:
        pass
    return done


def _write(
    folder: Path, videos: list[Path], listed: Listed, writer: ShardWriter, config: VideosConfig, workers: int,
    done: Imported,
) -> None:  # fmt: skip
    def clips_of(path: Path) -> tuple[list[_Clip], str | None]:
        return _clips_of(path, path.relative_to(folder).as_posix(), config, listed.of(path) or {})

    with ThreadPoolExecutor(workers) as pool, progress("import", total=len(videos), unit="videos") as bar:
        # A few videos at a time: clips wait in memory until they are written in order.
        for first in range(0, len(videos), 2 * workers):
            for clips, line in pool.map(clips_of, videos[first : first + 2 * workers]):
                for clip in clips:
                    # Two datasets that were imported from different folders never share a key.
                    key = f"clip{done.clips:06d}-{hashlib.sha256(clip.members['mp4']).hexdigest()[:12]}"
                    writer.add(key, clip.members, config.frames, config.fps, *config.size)
                    done.clips += 1
                    done.without_caption += not clip.caption
                done.videos += bool(clips)
                done.lines += [line] if line else []
                bar.advance(1, clips=done.clips)


def _clips_of(
    path: Path, name: str, config: VideosConfig, texts: Mapping[str, str]
) -> tuple[list[_Clip], str | None]:
    """The clips of one video, and a line on what is not taken of it. Raises MachineFault where it cannot be read."""
    try:
        with reading(path):
            data = path.read_bytes()
            caption = texts.get("caption") or read_caption(path)
            texts = {**texts, "caption": config.caption if caption is None else caption}
            source = _Source(name, data, config, texts)
            clips = list(source.clips())
    except OSError as error:
        return [], f"{path}: cannot be read: {error.strerror}"
    except ValueError as error:
        return [], f"{path}: {error}"
    if len(clips) == len(source.starts):
        return clips, None
    left_out, of = len(source.starts) - len(clips), len(source.starts)
    return clips, (
        f"{path}: {left_out} of {of} clips left out: the video shows fewer than {config.fps:g} frames a second there, "
        f"so more than {most_repeated(config.frames)} of {config.frames} frames would repeat others: give a lower --fps"
    )


class _Source:
    """One video file that is whole as far as it is used. Raises ValueError where it is not, or is too short."""

    def __init__(self, name: str, data: bytes, config: VideosConfig, texts: Mapping[str, str]) -> None:
        self.name, self.data, self.config, self.texts = name, data, config, texts
        self.fps = Fraction(config.fps).limit_denominator(1001)  # as the encoder stores it
        self.times = frame_times(data)
        every = None if config.every is None else Fraction(config.every).limit_denominator(1000)
        self.starts = clip_starts(self.times, config.frames, self.fps, every)
        if not self.starts:
            shown = float(self.times[-1] - self.times[0]) if self.times else 0.0
            need = float((config.frames - 1) / self.fps)
            raise ValueError(
                f"is too short: {shown:.2f} s from the first to the last of {len(self.times)} frames, "
                f"a clip needs {need:.2f} s"
            )
        self.stored = check_frames(data, self.starts[-1] + (config.frames - 1) / self.fps + 1 / self.fps)
        self.digest = hashlib.sha256(data).hexdigest()

    def clips(self) -> Iterator[_Clip]:
        """Those that do not repeat too many frames."""
        for start in self.starts:
            indices = shown_frames(self.times, start, self.config.frames, self.fps)
            if repeated(indices) <= most_repeated(self.config.frames):
                yield self._clip(start, indices)

    def _clip(self, start: Fraction, indices: list[int]) -> _Clip:
        frames, framing = self._frames(indices)
        config, seconds = self.config, self.times[-1] - self.times[0]
        meta = {
            **self.texts,
            "fps": config.fps,
            "frames": config.frames,
            "height": config.size[0],
            "width": config.size[1],
            "intrinsics": [framing.intrinsics(config.fov)] * config.frames,
            "provenance": {
                "source": "video",
                "file": self.name.encode("utf-8", "replace").decode(),
                "sha256": self.digest,
                "start_seconds": round(float(start), 6),
                "end_seconds": round(float(start + (config.frames - 1) / self.fps), 6),
                "source_fps": round(float((len(self.times) - 1) / seconds), 3),
                "source_size": list(framing.source),
                "source_box": [round(edge, 3) for edge in framing.box],
                "repeated_frames": repeated(indices),
                "assumed": {"horizontal_fov_degrees": config.fov, "what": "intrinsics: the video records no camera"},
            },
        }
        check_clip({}, meta, (config.frames, *config.size))
        mp4 = encode_mp4(frames, config.fps, pixel_format=config.pixel_format)
        members = {"mp4": mp4, "json": json.dumps(meta, separators=(",", ":")).encode()}
        return _Clip(members, self.texts["caption"])

    def _frames(self, indices: list[int]) -> tuple[np.ndarray, Framing]:
        """These frames of the video, ascending, as the clip shows them: uint8 [T, H, W, 3]."""
        most = max(1, _CHUNK // (3 * self.stored[0] * self.stored[1]))
        done: list[np.ndarray] = []
        while len(done) < len(indices):
            first = indices[len(done)]
            part = [index for index in indices[len(done) :] if index < first + most]
            source = PyAVDecoder().decode(self.data, first, part[-1] - first + 1)
            framing = Framing((source.shape[1], source.shape[2]), self.config.size)
            done += [framing.apply(source[index - first]) for index in part]
        return np.stack(done), framing
