"""One suite for all decoders: exact frames, right colours, and every video that cannot be shown right is refused."""

import pickle
import signal
import threading
from collections.abc import Callable

import numpy as np
import pytest

from phys4d.engine.data.decoders import choice, orientation, pixels
from phys4d.engine.data.decoders.interface import Request, Unservable, VideoDecoder, decode
from phys4d.engine.data.decoders.probe import probe
from phys4d.engine.data.decoders.pyav import PyAVDecoder
from phys4d.engine.limits import VIDEO_BYTES
from tests.engine.data import video_clips
from tests.engine.data.video_clips import FRAMES, HEIGHT, UPRIGHT, WIDTH, numbers

REFUSED = {
    "pyav": {},
    "dali": {
        "h264": "DALI decodes h264 on a GPU only",
        "hevc": "DALI decodes hevc on a GPU only",
        "av1": "DALI decodes av1 on a GPU only",
        "edit list": "its edit list hides 5 frames, which DALI would show",
        "BT.2020": "DALI converts colours by BT.601, which can be corrected to BT.709 only",
    },
    "torchcodec": {
        "edit list": "its edit list hides (5|10) frames, which torchcodec would show",
        "mirrored": "it is mirrored, which torchcodec does not show",
        "full range": "its are of full range",
        "mjpeg": "its are of full range",
    },
}
"""What each decoder refuses on the CPU: words of a clip's name, and the reason. It serves all other clips."""
MEAN, MOST = {"pyav": 0, "torchcodec": 3, "dali": 1.25}, {"pyav": 0, "torchcodec": 8, "dali": 16}
"""Levels by which the frames of each decoder differ from PyAV's at most, on average and in any pixel. DALI interpolates
colour differences where swscale repeats them; torchcodec is too dark at 10 bits, and equal at 8."""


def upright(name: str) -> Callable[[np.ndarray], np.ndarray]:
    return next((turn for word, turn in UPRIGHT.items() if word in name), lambda frame: frame)


def shown(name: str) -> list[int]:
    return list(range(5, 25)) if "edit list" in name else list(range(FRAMES))


def refusal(decoder: VideoDecoder, name: str) -> str | None:
    return next((reason for word, reason in REFUSED[decoder.name].items() if word in name), None)


def test_every_decoder_shows_the_frames_of_a_player_or_refuses(decoder: VideoDecoder, clips: dict[str, bytes]) -> None:
    for name, data in clips.items():
        frames = shown(name)
        whole = Request(data, len(frames))
        if (reason := refusal(decoder, name)) is not None:
            with pytest.raises(Unservable, match=reason):
                decode(decoder, whole)
            continue
        assert decoder.refusal(probe(data)) is None, name
        for start, count, stride in ((0, len(frames), 1), (7, 5, 1), (1, 4, 3), (13, 1, 1)):
            request = Request(data, count, start, stride)
            got, expected = decode(decoder, request), decode(PyAVDecoder(), request)
            assert numbers(got, upright(name)) == frames[start : start + count * stride : stride], name
            error = np.abs(got.astype(int) - expected)
            assert error.mean() <= MEAN[decoder.name] and error.max() <= MOST[decoder.name], name


def test_frames_that_are_not_there_are_an_error(decoder: VideoDecoder, clips: dict[str, bytes]) -> None:
    data = clips["vp9"]
    for start, count, stride in ((FRAMES - 3, 4, 1), (0, 2, FRAMES), (FRAMES, 1, 1), (-1, 1, 1), (0, 0, 1)):
        with pytest.raises(ValueError, match=f"holds {FRAMES} frames, expected frames"):
            decode(decoder, Request(data, count, start, stride))
    assert numbers(decode(decoder, Request(data, 3, FRAMES - 3))) == [FRAMES - 3, FRAMES - 2, FRAMES - 1]


@pytest.mark.parametrize("kind", ["vp9", "h264 with B-frames"])
def test_a_bad_video_is_an_error_and_leaves_the_others(
    decoder: VideoDecoder, clips: dict[str, bytes], kind: str
) -> None:
    if refusal(decoder, kind) is not None:
        kind = "vp9"
    damaged, sound = video_clips.bad(clips[kind]), Request(clips["vp9"], 3, 4)
    results = decoder.decode_many([sound, *(Request(data, FRAMES) for data in damaged.values()), sound])
    assert numbers(results[0]) == numbers(results[-1]) == [4, 5, 6]
    for name, result in zip(damaged, results[1:-1], strict=True):
        assert isinstance(result, ValueError) and not isinstance(result, Unservable), name
        assert str(result).startswith(("cannot be decoded", "holds no video stream", "is cut off", "only")), name
    assert numbers(decode(decoder, sound)) == [4, 5, 6]


def test_what_is_larger_than_the_index_says_is_refused_before_a_frame_is_decoded(
    decoder: VideoDecoder, clips: dict[str, bytes]
) -> None:
    for name in ("vp9", "vp9 quarter turn"):
        with pytest.raises(ValueError, match="is (64x96|96x64), the index says 32x48"):
            decode(decoder, Request(clips[name], 3, stored=(32, 48)))
    right = decode(decoder, Request(clips["vp9 quarter turn"], 3, stored=(WIDTH, HEIGHT)))
    assert right.shape == (3, WIDTH, HEIGHT, 3)
    with pytest.raises(ValueError, match="is 96x64, the index says 64x96"):
        decode(decoder, Request(clips["vp9 quarter turn"], 3, stored=(HEIGHT, WIDTH)))


def test_a_video_that_changes_its_size_is_refused(decoder: VideoDecoder, clips: dict[str, bytes]) -> None:
    larger = video_clips.encoded(video_clips.numbered(scale=2), **video_clips.VP9)
    data = video_clips.joined(clips["vp9"], larger)
    assert numbers(decode(decoder, Request(data, 3, FRAMES - 3))) == [FRAMES - 3, FRAMES - 2, FRAMES - 1]
    with pytest.raises(ValueError, match="changes its size between frames"):
        decode(decoder, Request(data, 6, FRAMES - 3))


def test_more_bytes_than_the_limit_are_not_allocated() -> None:
    with pytest.raises(ValueError, match=f"would take {30000 * 3 * 8192 * 8192} bytes as RGB, at most {VIDEO_BYTES}"):
        Request(b"", 30000).check_bytes((8192, 8192))
    Request(b"", 49).check_bytes((1080, 1920))


@pytest.mark.parametrize("name", ["vp9", "vp9 quarter turn", "vp9 BT.709"])
@pytest.mark.parametrize("size", [(40, 60), (64, 64), (80, 120), (30, 60)])
def test_frames_are_cut_and_resized_as_by_our_own_filter(
    decoder: VideoDecoder, clips: dict[str, bytes], name: str, size: tuple[int, int]
) -> None:
    stored = decode(decoder, Request(clips[name], 3, 5))
    smaller = decode(decoder, Request(clips[name], 3, 5, size=size))
    assert np.abs(smaller.astype(int) - pixels.resized(stored, size)).max() <= 1


def test_frames_are_normalised_as_by_our_own_code(decoder: VideoDecoder, clips: dict[str, bytes]) -> None:
    for size in (None, (40, 60)):
        request = Request(clips["vp9 three quarters"], 3, 5, 2, size=size)
        levels, unit = decode(decoder, request), decode(decoder, request, normalised=True)
        assert unit.dtype == np.float32 and unit.shape == (3, 3, *levels.shape[1:3])
        assert np.abs(unit - pixels.normalised(levels)).max() < 1e-6


def test_the_resizing_filter_by_hand() -> None:
    """Halving weighs four pixels along each axis by 1, 3, 3, 1 eighths; the part is centred."""
    frames = np.zeros((1, 4, 8, 3), np.uint8)
    frames[0, :, 3] = 80
    assert pixels.centred((4, 8), (2, 2)) == (0, 2, 4, 6)
    assert pixels.centred((8, 4), (2, 2)) == (2, 0, 6, 4)
    assert pixels.resized(frames, (2, 2))[0, :, :, 0].tolist() == [[30, 10], [30, 10]]
    assert pixels.normalised(frames)[:, 0, 0, 3] == pytest.approx(80 / 127.5 - 1)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_an_mp4s_headers_say_the_turn_of_its_frames(clips: dict[str, bytes], degrees: int, mirrored: bool) -> None:
    data = video_clips.turned(clips["vp9"], degrees, mirrored=mirrored)
    plain = decode(PyAVDecoder(), Request(clips["vp9"], 1))
    turn = orientation.of_mp4(data)
    assert turn is not None and turn.mirrored == mirrored
    assert np.array_equal(turn.apply(plain), decode(PyAVDecoder(), Request(data, 1)))


def test_many_threads_share_a_decoder(decoder: VideoDecoder, clips: dict[str, bytes]) -> None:
    """With clips of several kinds among them, so that runs of different graphs are waiting at the same time."""
    found: dict[int, object] = {}

    def read(place: int) -> None:
        data = (clips["vp9"], clips["vp9 BT.709"], b"bad")[place % 3]
        size = (40, 60) if place % 2 else None
        (result,) = decoder.decode_many([Request(data, 2, place, size=size)], normalised=place % 4 == 1)
        found[place] = result

    threads = [threading.Thread(target=read, args=(place,)) for place in range(18)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(found) == list(range(18))
    for place, result in found.items():
        if place % 3 == 2:
            assert isinstance(result, ValueError)
        elif place % 2 == 0:
            assert numbers(result) == [place, place + 1]


def test_a_decoder_can_be_pickled(decoder: VideoDecoder, clips: dict[str, bytes]) -> None:
    decode(decoder, Request(clips["vp9"], 1))
    again = pickle.loads(pickle.dumps(decoder))
    assert numbers(decode(again, Request(clips["vp9"], 2, 3))) == [3, 4]


def test_dali_in_a_forked_process_is_an_error_and_does_not_wait(
    clips: dict[str, bytes], in_child: Callable[[Callable[[], None]], int]
) -> None:
    if (reason := choice.absence("dali")) is not None:
        pytest.skip(reason)
    dali, request = choice.choose("dali"), Request(clips["vp9"], 1)
    decode(dali, request)

    def forked() -> None:
        signal.alarm(20)
        with pytest.raises(RuntimeError, match="DALI ran before this process was forked"):
            decode(dali, request)
        with pytest.raises(RuntimeError, match="DALI ran before this process was forked"):
            decode(choice.choose("dali"), request)

    assert in_child(forked) == 0


def test_a_lack_of_memory_is_not_the_clips_fault(clips: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    if (reason := choice.absence("dali")) is not None:
        pytest.skip(reason)
    from phys4d.engine.data.decoders import dali_graph

    decoder, request = choice.choose("dali"), Request(clips["vp9"], 1)
    with monkeypatch.context() as full:

        def failing(*arguments: object) -> None:
            raise RuntimeError("Critical error in pipeline: encountered:\n\nCUDA allocation failed: out of memory")

        full.setattr(dali_graph.Graph, "run", failing)
        with pytest.raises(MemoryError, match="DALI: out of memory while decoding"):
            decode(decoder, request)
    assert numbers(decode(decoder, request)) == [0]


def test_a_codec_that_the_gpu_lacks_is_tried_once_each_time_by_a_new_pipeline(
    clips: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    if (reason := choice.absence("dali")) is not None:
        pytest.skip(reason)
    from phys4d.engine.data.decoders import dali_graph

    runs: list[int] = []
    graphs: list[object] = []

    def lacking(graph: object, jobs: list) -> None:
        runs.append(len(jobs))
        graphs.append(graph)
        raise RuntimeError("encountered:\n\nCodec configuration not supported on this GPU. Codec: VP9, bit depth: 8")

    monkeypatch.setattr(dali_graph.Graph, "run", lacking)
    decoder = choice.choose("dali")
    for _ in range(3):
        for result in decoder.decode_many([Request(clips["vp9"], 1)] * 2):
            assert isinstance(result, Unservable) and str(result) == "this GPU does not decode vp9"
    assert runs == [2, 1, 1] and len(set(map(id, graphs))) == 3
