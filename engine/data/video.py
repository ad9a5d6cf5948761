"""Clips as mp4 (H.264): a reproducible encoder, and a frame-exact decoder behind a small interface."""

import io
from fractions import Fraction
from typing import Protocol

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

_KEYFRAME_EVERY = 12  # short groups of pictures: random access decodes at most this many frames in vain
_SMPTE170M = 6  # BT.601 in H.264's tables of primaries, transfer and matrix


class VideoDecoder(Protocol):
    """Anything that turns an encoded clip into frames."""

    def decode(self, data: bytes, start: int, count: int) -> np.ndarray:
        """Frames start .. start+count-1 as RGB uint8 [count, H, W, 3]; ValueError if not all are there."""


def encode_mp4(frames: np.ndarray, fps: float, *, crf: int = 8, pixel_format: str = "yuv444p") -> bytes:
    """Encodes RGB frames; the same input gives the same bytes (one thread, no dates, no version tags).

    frames: uint8 [T, H, W, 3], RGB. fps: frames per second. crf: x264's quality, 0 is best. pixel_format:
    "yuv444p" keeps colour at full resolution; "yuv420p" is what every player takes and needs even H and W.
    Colours are stored as BT.601, limited range, and tagged so: the one matrix that every decoder gets right.
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
        context.options = {"crf": str(crf), "preset": "medium", "flags": "+bitexact"}
        context.options |= {"x264-params": "cpu-independent=1"}  # else mbtree's assembly reads uninitialised memory
        context.colorspace = context.color_primaries = context.color_trc = _SMPTE170M
        context.color_range = ColorRange.MPEG
        for rgb in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
            yuv = frame.reformat(
                format=pixel_format, dst_colorspace=Colorspace.SMPTE170M, dst_color_range=ColorRange.MPEG
            )
            container.mux(stream.encode(yuv))
        container.mux(stream.encode(None))
    return target.getvalue()


class PyAVDecoder:
    """Decodes on the CPU with FFmpeg through PyAV, frame-exact by an index of the packets' timestamps."""

    def decode(self, data: bytes, start: int, count: int) -> np.ndarray:
        """Frames start .. start+count-1 as RGB uint8 [count, H, W, 3].

        Raises ValueError when the data is no video, holds fewer frames, or breaks off while decoding.
        """
        try:
            times = _timestamps(data)
            if start < 0 or count < 1 or start + count > len(times):
                raise ValueError(f"holds {len(times)} frames, expected frames {start}..{start + count - 1}")
            frames = _frames(data, times[start : start + count], seek=start > 0)
        except av.error.FFmpegError as error:
            raise ValueError(f"cannot be decoded: {error.strerror}") from None
        if len(frames) != count:
            raise ValueError(f"only {len(frames)} of {count} frames could be decoded from frame {start} on")
        return np.stack(frames)


def frame_count(data: bytes) -> int:
    """How many frames an encoded clip announces, without decoding; ValueError when it is no video."""
    try:
        return len(_timestamps(data))
    except av.error.FFmpegError as error:
        raise ValueError(f"cannot be decoded: {error.strerror}") from None


def _timestamps(data: bytes) -> list[int]:
    with av.open(io.BytesIO(data), mode="r") as container:
        if not container.streams.video:
            raise ValueError("holds no video stream")
        packets = container.demux(container.streams.video[0])
        return sorted(packet.pts for packet in packets if packet.pts is not None and packet.size)


def _frames(data: bytes, times: list[int], *, seek: bool) -> list[np.ndarray]:
    wanted = set(times)
    frames: list[np.ndarray] = []
    with av.open(io.BytesIO(data), mode="r") as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        if seek:
            container.seek(times[0], stream=stream)
        for frame in container.decode(stream):
            if frame.pts in wanted:
                frames.append(frame.to_ndarray(format="rgb24"))
                if len(frames) == len(times):
                    break
    return frames
