"""What a video file says of itself, and what is refused of it before a frame is decoded: one rule for all decoders."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from phys4d.engine.data.clip.mp4_boxes import check_tables
from phys4d.engine.limits import FRAMES, PICTURE_PIXELS

Size = tuple[int, int]

_HDR = {16: "PQ", 18: "HLG"}  # transfer numbers in H.264's table
SIGNED = frozenset({"mp4", "matroska"})
"""Containers that every FFmpeg recognises by their first bytes, so that no other one takes the file for a playlist."""
MATRICES = {1: "BT.709", 4: "FCC", 5: "BT.601", 6: "BT.601", 7: "SMPTE 240M", 9: "BT.2020", 10: "BT.2020 constant"}
"""Colour matrices by their numbers in H.264's table; FFmpeg converts a video without one (2) by BT.601."""
_FULL_RANGE = 2
# A playlist or script among the formats that FFmpeg recognises could name other files to open.
_FORMATS = {"format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,h264,hevc", "protocol_whitelist": ""}
_BLOCK = 64  # pixels: codecs store sides as multiples of at most this


@dataclass(frozen=True)
class Video:
    """What the headers and packets of a file say of its first video stream.

    container: "mp4" or "matroska" (webm too), if FFmpeg takes it for that and its first bytes say so; else FFmpeg's
    name of the format. codec, pixel_format: FFmpeg's names. bits: of a colour channel. matrix: of its colours, by
    `MATRICES` (2: not said). full_range: whether black is 0 and white the largest number. stored: (height, width) of
    the stored pixels, before they are turned. times: presentation times of the frames that a player shows, ascending.
    hidden: packets that are not shown, because an edit list leaves them out, or they are empty or without a time.
    """

    container: str
    codec: str
    pixel_format: str
    bits: int
    matrix: int
    full_range: bool
    stored: Size
    times: tuple[int, ...]
    hidden: int

    def __str__(self) -> str:
        colours = MATRICES.get(self.matrix, "no colour matrix" if self.matrix == 2 else f"colour matrix {self.matrix}")
        return f"{self.codec}, {self.pixel_format}, {colours}, {'full' if self.full_range else 'limited'} range"


def probe(data: bytes, size: Size | None = None) -> Video:
    """Reads headers and packets of a file, without decoding.

    size: (height, width) of the shown frames in the index, None if it is not known.

    Raises ValueError if the data is not a video, has another size, is cut off, exceeds a limit (`engine.limits`) or
    cannot be shown as stored; MemoryError if the machine lacks memory.
    """
    with ffmpeg_errors(), opened(data) as container:
        stream = video_stream(container, size)
        times: list[int] = []
        hidden = 0
        for packet in container.demux(stream):
            if is_shown(packet):
                times.append(shown_time(packet))
                check_count(times)
            elif packet.size or packet.dts is not None:  # else it is what PyAV ends a stream with
                hidden += 1
        context = stream.codec_context
        pixels: Any = context.format
        if pixels is None:
            raise ValueError("cannot be decoded: its pixel format is not known")
        return Video(
            container=_container(data, container.format.name),
            codec=context.codec.canonical_name,
            pixel_format=pixels.name,
            bits=max(component.bits for component in pixels.components),
            matrix=int(context.colorspace),
            full_range=int(context.color_range) == _FULL_RANGE or pixels.name.startswith("yuvj"),
            stored=(context.height, context.width),
            times=tuple(sorted(times)),
            hidden=hidden,
        )


def _container(data: bytes, name: str) -> str:
    if "mp4" in name and data[4:8] == b"ftyp":
        return "mp4"
    return "matroska" if "matroska" in name and data[:4] == b"\x1a\x45\xdf\xa3" else name


def frame_count(data: bytes) -> int:
    """Number of frames of an encoded clip that a player shows, without decoding; errors as in `probe`."""
    with ffmpeg_errors(), opened(data) as container:
        times: list[int] = []
        for packet in container.demux(video_stream(container)):
            if is_shown(packet):
                times.append(shown_time(packet))
                check_count(times)
        return len(times)


def frame_rate(data: bytes) -> float:
    """Frames per second of an encoded clip, the mean over its frames; errors as in `probe`."""
    with ffmpeg_errors(), opened(data) as container:
        stream = video_stream(container)
        times = sorted(shown_time(packet) for packet in container.demux(stream) if is_shown(packet))
        if len(times) < 2 or times[0] == times[-1] or stream.time_base is None:
            rate = stream.average_rate or stream.guessed_rate
            if rate is None or rate <= 0:
                raise ValueError("does not say how many frames a second it has")
            return float(rate)
        return float((len(times) - 1) / ((times[-1] - times[0]) * stream.time_base))


def is_shown(packet: av.Packet) -> bool:
    """Whether a packet holds a frame that a player shows; an edit list marks packets that are not shown."""
    return packet.pts is not None and packet.size > 0 and not packet.is_discard


def shown_time(packet: av.Packet) -> int:
    """Presentation time of a packet. Raises ValueError if the file ends inside of it."""
    if packet.is_corrupt:
        raise ValueError("is cut off: the file ends before its last frame does")
    assert packet.pts is not None
    return packet.pts


def check_count(times: list[int]) -> None:
    """Raises ValueError for more frames than `engine.limits.FRAMES`."""
    if len(times) > FRAMES:
        raise ValueError(f"holds more than {FRAMES} frames, the most that are read")


@contextmanager
def ffmpeg_errors() -> Iterator[None]:
    """Converts FFmpeg's errors to ValueError, except a lack of memory, which is not an error of the clip."""
    try:
        yield
    except av.error.MemoryError:
        raise MemoryError("out of memory while decoding") from None
    except av.error.FFmpegError as error:
        raise ValueError(f"cannot be decoded: {error.strerror}") from None


@contextmanager
def opened(data: bytes) -> Iterator[InputContainer]:
    """The video file in `data`. Raises ValueError if its tables claim more frames than `engine.limits.FRAMES`; FFmpeg's
    errors if it is no video file.
    """
    check_tables(data)
    with av.open(io.BytesIO(data), mode="r", options=_FORMATS) as container:
        yield container


def video_stream(container: InputContainer, size: Size | None = None) -> VideoStream:
    """The video stream. Raises ValueError if there is none, one of another size, or one that would be shown
    incorrectly.
    """
    if not container.streams.video:
        raise ValueError("holds no video stream")
    stream = container.streams.video[0]
    _check_codec(stream)
    stored = stream.codec_context.height, stream.codec_context.width
    if size is not None and stored not in (size, size[::-1]) and 0 not in stored:  # a display matrix may turn it
        raise ValueError(other_size(stored, size))
    if stored[0] * stored[1] > PICTURE_PIXELS:
        raise ValueError(f"has frames of {stored[0]}x{stored[1]}, at most {PICTURE_PIXELS} pixels are decoded")
    if (ratio := stream.sample_aspect_ratio) not in (None, 0, 1):
        raise ValueError(f"has pixels of aspect ratio {ratio}: encode it again with square pixels")
    if (transfer := stream.codec_context.color_trc) in _HDR:
        raise ValueError(f"is HDR ({_HDR[transfer]}): encode it again in standard dynamic range, BT.709 or BT.601")
    return stream


def _check_codec(stream: VideoStream) -> None:
    """Raises ValueError for a codec that FFmpeg does not know."""
    if cast(Any, stream.codec_context) is None:
        raise ValueError("holds a video of a codec that is not known")


def limit_frames(stream: VideoStream, size: Size | None = None) -> None:
    """Limits the decoder to one thread and to frames of `size` (None: of `engine.limits.PICTURE_PIXELS`), also where
    the stream changes its size.
    """
    _check_codec(stream)
    stream.thread_type, stream.codec_context.thread_count = "NONE", 1
    pixels = PICTURE_PIXELS if size is None else (size[0] + _BLOCK) * (size[1] + _BLOCK)
    stream.codec_context.options = {"max_pixels": str(pixels)}


def other_size(found: tuple[int, ...], size: Size) -> str:
    """The message for a video of another size than the index says."""
    return f"is {found[0]}x{found[1]}, the index says {size[0]}x{size[1]}"
