"""Encodes clips as mp4 (H.264 or VP9), with equal bytes in every run; `decoders/` holds what decodes them."""

import io
from fractions import Fraction
from typing import Any, Literal

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

_KEYFRAME_EVERY = 12  # frames; random access decodes at most this many frames more than needed
_CRF = 8  # x264's quality, 0 is best
_SMPTE170M = 6  # BT.601 in H.264's tables of primaries, transfer and matrix


PixelFormat = Literal["yuv444p", "yuv420p"]
VideoCodec = Literal["h264", "vp9"]
_ENCODERS = {
    # without cpu-independent, mbtree's assembly reads uninitialised memory
    "h264": ("libx264", {"preset": "medium", "x264-params": "cpu-independent=1"}),
    "vp9": ("libvpx-vp9", {"b": "0", "deadline": "good", "cpu-used": "4", "auto-alt-ref": "0", "row-mt": "0"}),
}


def checked_pixel_format(name: PixelFormat, size: tuple[int, int]) -> PixelFormat:
    """The name. Raises ValueError if frames of this (height, width) cannot be stored in that format."""
    if name == "yuv420p" and (size[0] % 2 or size[1] % 2):
        raise ValueError(f"yuv420p needs even height and width, got {size[0]}x{size[1]}")
    return name


def encode_mp4(
    frames: np.ndarray, fps: float, *, pixel_format: PixelFormat = "yuv444p", codec: VideoCodec = "h264"
) -> bytes:
    """Encodes RGB frames; equal input gives equal bytes (one thread, no dates, no version tags).

    Colours are stored and tagged as BT.601, limited range, the one matrix that all decoders apply correctly.

    frames: uint8 [T, H, W, 3], RGB.
    fps: frames per second.
    pixel_format: "yuv444p" keeps colour at full resolution; "yuv420p" plays in every player, is decoded by GPUs (DALI),
        and needs even H and W.
    codec: of the stream; H.264 is what every player and browser shows.

    Raises ValueError for another dtype or shape.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise ValueError(f"expected RGB frames uint8 [T, H, W, 3], got {frames.dtype} {list(frames.shape)}")
    checked_pixel_format(pixel_format, frames.shape[1:3])
    target = io.BytesIO()
    with av.open(target, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        encoder, options = _ENCODERS[codec]
        stream: Any = container.add_stream(encoder, rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pixel_format
        context = stream.codec_context
        context.thread_count, context.gop_size = 1, _KEYFRAME_EVERY
        context.options = {"crf": str(_CRF), "flags": "+bitexact"} | options
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
