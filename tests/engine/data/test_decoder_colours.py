"""Colours of decoded frames: by the matrix, range and depth that a video states, or refused."""

import functools
import io
from itertools import pairwise

import av
import numpy as np
import pytest
from av.video.reformatter import Colorspace

from phys4d.engine.data.decoders import choice, colours
from phys4d.engine.data.decoders.interface import Request, Unservable, VideoDecoder, decode
from phys4d.engine.data.decoders.probe import probe
from phys4d.engine.data.decoders.pyav import PyAVDecoder
from tests.engine.data import video_clips
from tests.engine.data.video_clips import FRAMES, HEIGHT, WIDTH

YCC = [(126, 128, 128), (90, 110, 150), (160, 150, 110), (60, 140, 120), (200, 120, 135)]
"""Y, Cb, Cr in levels of limited range, inside the range of RGB by every matrix."""
WEIGHTS = {"BT.601": (6, (0.299, 0.114)), "BT.709": (1, (0.2126, 0.0722)), "BT.2020": (9, (0.2627, 0.0593))}


def rgb_of(weights: tuple[float, float], full: bool) -> np.ndarray:
    """The colours of `YCC` by the formulas of ITU-R BT.601, BT.709 and BT.2020: [5, 3] in levels."""
    levels = np.array(YCC, float)
    luma, chroma = (levels[:, :1] - (0 if full else 16)) / (255 if full else 219), (levels[:, 1:] - 128)
    ycc = np.concatenate([luma, chroma / (255 if full else 224)], axis=1)
    return np.clip(255 * ycc @ colours.to_rgb(weights).T, 0, 255)


@functools.cache
def solid(matrix: int, full: bool, codec: str, bits: int) -> bytes:
    """A lossless video of one colour of `YCC` a frame, written as Y, Cb and Cr."""
    planes = []
    for y, cb, cr in YCC:
        area = [(y, HEIGHT * WIDTH), (cb, HEIGHT * WIDTH // 4), (cr, HEIGHT * WIDTH // 4)]
        picture = np.concatenate([np.full(count, level) for level, count in area]).reshape(HEIGHT * 3 // 2, WIDTH)
        planes.append(picture.astype(np.uint8))
    options = {"lossless": "1", "cpu-used": "8"} if codec == "libvpx-vp9" else {"qp": "0"}
    frames = np.stack(planes)
    if bits == 10:
        frames = frames.astype(np.uint16) * 4
    pixel_format = "yuv420p" if bits == 8 else "yuv420p10le"
    data = video_clips.encoded(frames, codec, pixel_format, matrix=matrix, full=full, **options)
    assert probe(data).bits == bits and probe(data).matrix == matrix and probe(data).full_range == full
    return data


@pytest.mark.parametrize("matrix", WEIGHTS)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(("codec", "bits"), [("libvpx-vp9", 8), ("libx264", 8), ("libx264", 10)])
def test_colours_are_those_of_the_standard_by_the_tagged_matrix_and_range(
    decoder: VideoDecoder, matrix: str, full: bool, codec: str, bits: int
) -> None:
    number, weights = WEIGHTS[matrix]
    request = Request(solid(number, full, codec, bits), len(YCC))
    refused = {
        "pyav": False,
        "torchcodec": full,
        "dali": codec == "libx264" or matrix == "BT.2020",
    }
    if refused[decoder.name]:
        with pytest.raises(Unservable):
            decode(decoder, request)
        return
    middle = decode(decoder, request)[:, HEIGHT // 2, WIDTH // 2]
    exact = {"pyav": bits == 10, "torchcodec": False, "dali": True}[decoder.name]
    assert np.abs(middle - rgb_of(weights, full)).max() <= (1 if exact else 3)  # another matrix: 9 and more


def by_filter(data: bytes, matrix: str, full: bool, flags: str) -> np.ndarray:
    """FFmpeg's own conversion, by its filter `scale` with matrix and range named."""
    graph = av.filter.Graph()
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        reach = "full" if full else "limited"
        chain = [
            graph.add_buffer(template=stream),
            graph.add("scale", f"in_color_matrix={matrix}:in_range={reach}:out_range=full:flags={flags}"),
            graph.add("format", "rgb24"),
            graph.add("buffersink"),
        ]
        for before, after in pairwise(chain):
            before.link_to(after)
        graph.configure()
        out = []
        for frame in container.decode(stream):
            graph.push(frame)
            out.append(graph.pull().to_ndarray(format="rgb24"))
    return np.stack(out)


@pytest.mark.parametrize(
    ("name", "matrix", "full"),
    [("vp9", "bt601", False), ("vp9 BT.709", "bt709", False), ("vp9 BT.2020", "bt2020", False),
     ("vp9 full range", "bt601", True), ("h264 10 bits", "bt601", False), ("h264 4:4:4", "bt601", False)],
)  # fmt: skip
def test_pyav_converts_as_ffmpeg_itself(clips: dict[str, bytes], name: str, matrix: str, full: bool) -> None:
    flags = "bilinear+full_chroma_int" if "10 bits" in name else "bilinear"
    decoded = decode(PyAVDecoder(), Request(clips[name], FRAMES))
    assert np.abs(decoded.astype(int) - by_filter(clips[name], matrix, full, flags)).max() <= 2


def test_a_bt709_video_with_colours_that_dali_cuts_off_is_refused() -> None:
    if (reason := choice.absence("dali")) is not None:
        pytest.skip(reason)
    green = np.zeros((3, HEIGHT, WIDTH, 3), np.uint8)
    green[:, :, : WIDTH // 2] = (20, 235, 20)
    right = video_clips.encoded(green, "libvpx-vp9", matrix=Colorspace.ITU709, crf="4", b="0")
    with pytest.raises(Unservable, match=r"cuts off saturated colours of BT\.709, up to 4\d % of the pixels"):
        decode(choice.choose("dali"), Request(right, 3))
    assert decode(choice.choose("dali"), Request(video_clips.encoded(green, "libvpx-vp9", crf="4", b="0"), 3)).any()


def test_the_correction_to_bt709_is_exact_where_no_colour_is_cut_off() -> None:
    levels = np.stack(np.meshgrid(*[np.arange(0, 256, 15.0)] * 3, indexing="ij"), -1).reshape(-1, 3)
    as_601 = levels @ (colours.to_rgb(colours.BT601) @ np.linalg.inv(colours.to_rgb(colours.BT709))).T
    cut = np.clip(np.rint(as_601), 0, 255)
    error = np.abs(cut @ colours.CORRECTION.T - levels).max(1)
    inside = ((as_601 >= 0) & (as_601 <= 255)).all(1)
    suspect = ((cut.max(1) == 255) | (cut.min(1) == 0)) & (np.ptp(cut, axis=1) > colours.SATURATED)
    assert error[inside].max() <= 0.6 and error.max() == pytest.approx(37, abs=0.5)
    assert inside.mean() > 0.8 and error[~suspect].max() <= 5.5
