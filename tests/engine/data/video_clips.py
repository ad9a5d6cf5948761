"""Small videos that every decoder is tested with. Each frame shows its own number, so that no frame can be taken for
another, whatever a decoder does to colours.
"""

import io
import struct
import tempfile
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream

HEIGHT, WIDTH, FRAMES = 64, 96, 30
BITS, BLOCK = 6, 16  # of the number, and pixels of a block that shows one
QUIET = {"libx265": {"x265-params": "log-level=none"}, "libsvtav1": {"svtav1-params": "enable-overlays=0"}}


def numbered(frames: int = FRAMES, scale: int = 1) -> np.ndarray:
    """RGB uint8 [frames, 64 * scale, 96 * scale, 3]: a slow wave of pale colours, and the number in black and white
    blocks above.
    """
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    shown = np.stack(
        [
            np.stack(
                [128 + 30 * np.sin((x + 2 * t) / 15), 128 + 30 * np.cos(y / 11), 128 + 30 * np.sin((x - y) / 17)], -1
            )
            for t in range(frames)
        ]
    )
    for t in range(frames):
        for bit in range(BITS):
            shown[t, :BLOCK, bit * BLOCK : (bit + 1) * BLOCK] = 235 if t >> bit & 1 else 16
    return shown.astype(np.uint8).repeat(scale, axis=1).repeat(scale, axis=2)


def numbers(frames: Any, turn: Callable[[np.ndarray], np.ndarray] = lambda frame: frame, scale: int = 1) -> list[int]:
    """The number that each frame shows; turn: puts a frame upright; scale: as in `numbered`."""
    found = []
    for frame in np.asarray(frames):
        upright = turn(frame)[::scale, ::scale]
        grey = [upright[4 : BLOCK - 4, b * BLOCK + 4 : (b + 1) * BLOCK - 4].mean() for b in range(BITS)]
        found.append(sum((level > 126) << bit for bit, level in enumerate(grey)))
    return found


def encoded(
    frames: np.ndarray,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    *,
    matrix: int = Colorspace.SMPTE170M,
    full: bool = False,
    group: int = 12,
    times: Sequence[int] | None = None,
    container: str = "mp4",
    change: Callable[[VideoStream], None] = lambda stream: None,
    **options: str,
) -> bytes:
    """The frames by any encoder of FFmpeg, tagged with the colour matrix and range by which they are converted.

    frames: RGB [T, H, W, 3], or planes of `pixels` as PyAV takes them. times: presentation times in ms.
    """
    reach = ColorRange.JPEG if full else ColorRange.MPEG
    target = io.BytesIO()
    with av.open(target, "w", format=container) as out:
        stream = out.add_stream(codec, rate=24)
        if times is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        height, width = frames.shape[1:3] if frames.ndim == 4 else (HEIGHT, WIDTH)
        stream.height, stream.width, stream.pix_fmt = height, width, pixels
        context = stream.codec_context
        context.gop_size, context.thread_count = group, 1
        context.options = {**QUIET.get(codec, {}), **options}
        context.colorspace, context.color_range = matrix, reach
        change(stream)
        for t, picture in enumerate(frames):
            if picture.ndim == 3:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24").reformat(
                    format=pixels, dst_colorspace=matrix, dst_color_range=reach, threads=1
                )
            else:
                frame = av.VideoFrame.from_ndarray(picture, format=pixels)
            frame.colorspace, frame.color_range = matrix, reach
            if times is not None:
                frame.pts, frame.time_base = times[t], Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return target.getvalue()


def remuxed(data: bytes, change: Callable[[VideoStream], None], options: Mapping[str, str] | None = None) -> bytes:
    """The same packets in another mp4, whose stream is changed before its header is written."""
    with tempfile.NamedTemporaryFile(suffix=".mp4") as target:  # FFmpeg opens it again to move its tables to the front
        with (
            av.open(io.BytesIO(data)) as source,
            av.open(target.name, "w", options=dict(options or {})) as container,
        ):
            stream = container.add_stream_from_template(source.streams.video[0])
            change(stream)
            for packet in source.demux(source.streams.video[0]):
                if packet.dts is not None:
                    packet.stream = stream
                    container.mux(packet)
        return Path(target.name).read_bytes()


def edited(data: bytes, *, first: int, shown: int, fps: int = 24) -> bytes:
    """The mp4 with an edit list that shows `shown` frames from `first` on, as `ffmpeg -ss -t -c copy` leaves it."""
    at = data.index(b"elst") + 12
    entries, _, media_time = struct.unpack(">IIi", data[at - 4 : at + 8])
    assert entries == 1
    timescale = struct.unpack(">I", data[(moved := data.index(b"mdhd") + 16) : moved + 4])[0]
    entry = struct.pack(">Ii", shown * 1000 // fps, media_time + first * timescale // fps)
    return data[:at] + entry + data[at + 8 :]


def joined(first: bytes, then: bytes) -> bytes:
    """An mp4 with the packets of two clips of `FRAMES` frames, as if they were one, whatever their sizes."""
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as out:
        stream = None
        for number, data in enumerate((first, then)):
            with av.open(io.BytesIO(data)) as source:
                if stream is None:
                    stream = out.add_stream_from_template(source.streams.video[0])
                for packet in source.demux(source.streams.video[0]):
                    if packet.dts is not None:
                        packet.pts = packet.dts = packet.pts + number * FRAMES * packet.duration
                        packet.stream = stream
                        out.mux(packet)
    return target.getvalue()


def audio() -> bytes:
    """An mp4 without a video stream."""
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as out:
        stream = out.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return target.getvalue()


def turned(data: bytes, degrees: int, *, mirrored: bool = False) -> bytes:
    """The mp4 with a display matrix that turns it anticlockwise, and then mirrors it."""
    return remuxed(data, lambda stream: stream.set_display_rotation(degrees, hflip=mirrored))


VARIABLE = [0, 40, 50, 130, 170, *range(200, 200 + 33 * (FRAMES - 5), 33)]
UPRIGHT: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "quarter turn": lambda frame: np.rot90(frame, -1),
    "half turn": lambda frame: np.rot90(frame, 2),
    "three quarters": lambda frame: np.rot90(frame, -3),
    "mirrored": lambda frame: frame[:, ::-1],
}
"""For each clip below that is stored turned, what puts a shown frame upright."""

VP9 = {"codec": "libvpx-vp9", "crf": "8", "b": "0", "cpu-used": "8"}


def clips(scale: int = 1) -> dict[str, bytes]:
    """The sound videos, by what is special about them. Each holds the frames of `numbered`; edit lists hide some."""
    frames = numbered(scale=scale)
    vp9, h264 = partial(encoded, frames, **VP9), partial(encoded, frames, crf="8")
    plain, b_frames = vp9(), h264(bf="3")
    made = {
        "h264 with B-frames": b_frames,
        "h264 open groups": h264(**{"x264-params": "open-gop=1:keyint=12:bframes=3:b-adapt=0"}),
        "h264 long group": h264(group=250, bf="3"),
        "h264 4:4:4": h264(pixels="yuv444p"),
        "h264 variable rate": h264(times=VARIABLE, bf="2"),
        "h264 edit list": edited(b_frames, first=5, shown=20),
        "h264 fragments": remuxed(b_frames, lambda stream: None, {"movflags": "frag_keyframe+empty_moov"}),
        "h264 quarter turn": turned(b_frames, 90),
        "h264 10 bits": h264(pixels="yuv420p10le"),
        "hevc": encoded(frames, "libx265", crf="8"),
        "hevc 10 bits": encoded(frames, "libx265", "yuv420p10le", crf="8"),
        "vp9": plain,
        "vp9 in webm": vp9(container="webm"),
        "vp9 long group": vp9(group=250),
        "vp9 variable rate": vp9(times=VARIABLE),
        "vp9 edit list": edited(plain, first=5, shown=20),
        "vp9 quarter turn": turned(plain, 90),
        "vp9 half turn": turned(plain, 180),
        "vp9 three quarters": turned(plain, 270),
        "vp9 mirrored": turned(plain, 0, mirrored=True),
        "vp9 full range": vp9(full=True),
        "vp9 BT.709": vp9(matrix=Colorspace.ITU709),
        "vp9 BT.2020": vp9(matrix=9),
        "mjpeg": encoded(frames, "mjpeg", "yuvj420p", full=True, q="2"),
    }
    if "libsvtav1" in av.codecs_available:
        made["av1"] = encoded(frames, "libsvtav1", preset="10", crf="20")
    return made


def bad(data: bytes) -> dict[str, bytes]:
    """Videos that no decoder may return a frame of, made from a sound one."""
    start = data.index(b"mdat") + 4
    broken = bytearray(data)
    broken[start : start + 1500] = bytes(1500)
    return {
        "zero bytes": b"",
        "no video": b"hello, this is no video " * 30,
        "cut in the middle": data[: len(data) // 2],
        "cut in the last frame": remuxed(data, lambda stream: None, {"movflags": "faststart"})[:-20],
        "zeros in the first frame": bytes(broken),
        "audio only": audio(),
    }
