"""Clips as mp4 (H.264): a reproducible encoder and a frame-exact decoder."""

import io
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any, cast

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream

from phys4d.engine.data.mp4_boxes import check_tables
from phys4d.engine.limits import FRAMES, PICTURE_PIXELS

_KEYFRAME_EVERY = 12  # frames; random access decodes at most this many frames more than needed
_CRF = 8  # x264's quality, 0 is best
_SMPTE170M = 6  # BT.601 in H.264's tables of primaries, transfer and matrix
_Turn = Callable[[np.ndarray], np.ndarray]
_HDR = {16: "PQ", 18: "HLG"}  # transfer numbers in H.264's table
# A playlist or script among the formats that FFmpeg recognises could name other files to open.
_FORMATS = {"format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,h264,hevc", "protocol_whitelist": ""}
_BLOCK = 64  # pixels: codecs store sides as multiples of at most this


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

    def decode(self, data: bytes, start: int, count: int, size: tuple[int, int] | None = None) -> np.ndarray:
        """Frames start .. start+count-1 as RGB uint8 [count, H, W, 3].

        size: (height, width) of the frames in the index, None if it is not known; another size is refused before a
            frame is decoded.

        Raises ValueError if the data is not a video, has fewer frames or another size, is damaged, exceeds a limit
        (`engine.limits`) or cannot be shown as stored; MemoryError if the machine lacks memory.
        """
        with ffmpeg_errors():
            times = _timestamps(data, size)
            if start < 0 or count < 1 or start + count > len(times):
                raise ValueError(f"holds {len(times)} frames, expected frames {start}..{start + count - 1}")
            frames = _frames(data, times[start : start + count], size, seek=start > 0)
            if start and len(frames) < count:  # seeking may skip frames in fragmented files and open groups of pictures
                frames = _frames(data, times[start : start + count], size, seek=False)
        if len(frames) != count:
            raise ValueError(f"only {len(frames)} of {count} frames could be decoded from frame {start} on")
        if any(frame.shape != frames[0].shape for frame in frames):
            raise ValueError("changes its size between frames: encode it again with one")
        if size is not None and frames[0].shape[:2] != size:
            raise ValueError(_other_size(frames[0].shape[:2], size))
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


@contextmanager
def opened(data: bytes) -> Iterator[InputContainer]:
    """The video file in `data`. Raises ValueError if its tables claim more frames than `engine.limits.FRAMES`; FFmpeg's
    errors if it is no video file.
    """
    check_tables(data)
    with av.open(io.BytesIO(data), mode="r", options=_FORMATS) as container:
        yield container


def _timestamps(data: bytes, size: tuple[int, int] | None = None) -> list[int]:
    """Presentation times of the shown frames; an edit list marks packets that are not shown."""
    with opened(data) as container:
        times: list[int] = []
        for packet in container.demux(_stream(container, size)):
            if packet.pts is not None and packet.size and not packet.is_discard:
                times.append(packet.pts)
                if len(times) > FRAMES:
                    raise ValueError(f"holds more than {FRAMES} frames, the most that are read")
        return sorted(times)


def _stream(container: InputContainer, size: tuple[int, int] | None = None) -> VideoStream:
    """The video stream. Raises ValueError if there is none, one of another size, or one that would be shown
    incorrectly.
    """
    if not container.streams.video:
        raise ValueError("holds no video stream")
    stream = container.streams.video[0]
    _check_codec(stream)
    stored = stream.codec_context.height, stream.codec_context.width
    if size is not None and stored not in (size, size[::-1]) and 0 not in stored:  # a display matrix may turn it
        raise ValueError(_other_size(stored, size))
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


def limit_frames(stream: VideoStream, size: tuple[int, int] | None = None) -> None:
    """Limits the decoder to one thread and to frames of `size` (None: of `engine.limits.PICTURE_PIXELS`), also where
    the stream changes its size.
    """
    _check_codec(stream)
    stream.thread_type, stream.codec_context.thread_count = "NONE", 1
    pixels = PICTURE_PIXELS if size is None else (size[0] + _BLOCK) * (size[1] + _BLOCK)
    stream.codec_context.options = {"max_pixels": str(pixels)}


def _other_size(found: tuple[int, ...], size: tuple[int, int]) -> str:
    return f"is {found[0]}x{found[1]}, the index says {size[0]}x{size[1]}"


def _frames(data: bytes, times: list[int], size: tuple[int, int] | None, *, seek: bool) -> list[np.ndarray]:
    wanted = set(times)
    frames: list[np.ndarray] = []
    turn: _Turn | None = None
    with opened(data) as container:
        stream = _stream(container, size)
        limit_frames(stream, size)
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
