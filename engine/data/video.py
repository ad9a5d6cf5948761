"""Clips as mp4 (H.264): a reproducible encoder and a frame-exact decoder."""

import io
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream

_KEYFRAME_EVERY = 12  # frames; random access decodes at most this many frames more than needed
_CRF = 8  # x264's quality, 0 is best
_SMPTE170M = 6  # BT.601 in H.264's tables of primaries, transfer and matrix
_Turn = Callable[[np.ndarray], np.ndarray]
_HDR = {16: "PQ", 18: "HLG"}  # transfer numbers in H.264's table


def encode_mp4(frames: np.ndarray, fps: float, *, pixel_format: str = "yuv444p") -> bytes:
    """Encodes RGB frames; equal input gives equal bytes (one thread, no dates, no version tags).

    Colours are stored and tagged as BT.601, limited range, the one matrix that all decoders apply correctly.

    frames: uint8 [T, H, W, 3], RGB.
    fps: frames per second.
    pixel_format: "yuv444p" keeps colour at full resolution; "yuv420p" plays in every player and needs even H and W.

    Raises ValueError for another dtype or shape.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise ValueError(f"expected RGB frames uint8 [T, H, W, 3], got {frames.dtype} {list(frames.shape)}")
    if pixel_format == "yuv420p" and (frames.shape[1] % 2 or frames.shape[2] % 2):
        raise ValueError(f"yuv420p needs even height and width, got {frames.shape[1]}x{frames.shape[2]}")
    target = io.BytesIO()
    with av.open(target, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pixel_format
        context = stream.codec_context
        context.thread_count, context.gop_size = 1, _KEYFRAME_EVERY
        context.options = {"crf": str(_CRF), "preset": "medium", "flags": "+bitexact"}
        context.options |= {"x264-params": "cpu-independent=1"}  # else mbtree's assembly reads uninitialised memory
        context.colorspace = context.color_primaries = context.color_trc = _SMPTE170M
        context.color_range = ColorRange.MPEG
        for rgb in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
            yuv = frame.reformat(
                format=pixel_format,
                dst_colorspace=Colorspace.SMPTE170M,
                dst_color_range=ColorRange.MPEG,
                threads=1,
            )
            container.mux(stream.encode(yuv))
        container.mux(stream.encode(None))
    return target.getvalue()


class PyAVDecoder:
    """Decodes on the CPU with FFmpeg through PyAV, frame-exact by the packets' timestamps.

    The frames are those that a player shows: edit lists and the display matrix (rotation, mirroring) are applied.
        Non-square pixels, rotations by other than multiples of 90 degrees, and HDR are refused.
    """

    def decode(self, data: bytes, start: int, count: int) -> np.ndarray:
        """Frames start .. start+count-1 as RGB uint8 [count, H, W, 3].

        Raises ValueError if the data is not a video, has fewer frames, is damaged, or cannot be shown as stored;
        MemoryError if the machine lacks memory.
        """
        with ffmpeg_errors():
            times = _timestamps(data)
            if start < 0 or count < 1 or start + count > len(times):
                raise ValueError(f"holds {len(times)} frames, expected frames {start}..{start + count - 1}")
            frames = _frames(data, times[start : start + count], seek=start > 0)
            if start and len(frames) < count:  # seeking may skip frames in fragmented files and open groups of pictures
                frames = _frames(data, times[start : start + count], seek=False)
        if len(frames) != count:
            raise ValueError(f"only {len(frames)} of {count} frames could be decoded from frame {start} on")
        if any(frame.shape != frames[0].shape for frame in frames):
            raise ValueError("changes its size between frames: encode it again with one")
        return np.stack(frames)


def frame_count(data: bytes) -> int:
    """Number of frames of an encoded clip that a player shows, without decoding; errors as in `PyAVDecoder.decode`."""
    with ffmpeg_errors():
        return len(_timestamps(data))


@contextmanager
def ffmpeg_errors() -> Iterator[None]:
    """Converts FFmpeg's errors to ValueError, except a lack of memory, which is not an error of the clip."""
    try:
        yield
    except av.error.MemoryError:
        raise MemoryError("out of memory while decoding") from None
    except av.error.FFmpegError as error:
        raise ValueError(f"cannot be decoded: {error.strerror}") from None


def _timestamps(data: bytes) -> list[int]:
    """Presentation times of the shown frames; an edit list marks packets that are not shown."""
    with av.open(io.BytesIO(data), mode="r") as container:
        packets = container.demux(_stream(container))
        return sorted(p.pts for p in packets if p.pts is not None and p.size and not p.is_discard)


def _stream(container: InputContainer) -> VideoStream:
    """The video stream. Raises ValueError if there is none, or one that would be shown incorrectly."""
    if not container.streams.video:
        raise ValueError("holds no video stream")
    stream = container.streams.video[0]
    if (ratio := stream.sample_aspect_ratio) not in (None, 0, 1):
        raise ValueError(f"has pixels of aspect ratio {ratio}: encode it again with square pixels")
    if (transfer := stream.codec_context.color_trc) in _HDR:
        raise ValueError(f"is HDR ({_HDR[transfer]}): encode it again in standard dynamic range, BT.709 or BT.601")
    return stream


def _frames(data: bytes, times: list[int], *, seek: bool) -> list[np.ndarray]:
    wanted = set(times)
    frames: list[np.ndarray] = []
    turn: _Turn | None = None
    with av.open(io.BytesIO(data), mode="r") as container:
        stream = _stream(container)
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        if seek:
            container.seek(times[0], stream=stream)
        for frame in container.decode(stream):
            if frame.pts in wanted:
                if turn is None:  # once: reading side data keeps a frame in memory until the collector frees it
                    turn, rotation = _turn(frame), frame.rotation
                if frame.rotation != rotation:
                    raise ValueError("changes its orientation between frames: encode it again with one")
                # One thread: what a frame has of swscale's threads cannot be freed in a forked process, which has none.
                frames.append(turn(frame.to_ndarray(format="rgb24", threads=1)))
                if len(frames) == len(times):
                    break
    return frames


def _turn(frame: av.VideoFrame) -> _Turn:
    """Function that rotates and mirrors pixels [H, W, 3] by the display matrix of a frame."""
    stored: Any = frame.side_data.get("DISPLAYMATRIX")
    if stored is None:
        return lambda rgb: rgb
    # x' = a x + c y, y' = b x + d y, in units of 1 / 65536.
    a, b, _, c, d = (value / 65536 for value in struct.unpack("5i", bytes(stored)[:20]))
    if (abs(a), abs(b), abs(c), abs(d)) not in ((1, 0, 0, 1), (0, 1, 1, 0)):
        raise ValueError(f"has the display matrix [{a:g} {c:g}; {b:g} {d:g}], no rotation by 90, 180 or 270 degrees")
    axes = (1, 0, 2) if a == 0 else (0, 1, 2)
    rows, columns = (-1 if b + d < 0 else 1), (-1 if a + c < 0 else 1)
    return lambda rgb: rgb.transpose(axes)[::rows, ::columns]
