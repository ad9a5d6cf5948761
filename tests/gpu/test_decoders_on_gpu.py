"""DALI on a GPU: exact frames, colours near PyAV's, frames that stay on the device, faults of one clip alone."""

import threading

import numpy as np
import pytest
import torch

for needed in ("av", "PIL", "pyarrow"):
    pytest.importorskip(needed, reason="decoding needs phys4d[train]")

from phys4d.clips import Clips  # noqa: E402
from phys4d.engine.data.decoders import choice, pixels  # noqa: E402
from phys4d.engine.data.decoders.interface import Request, Unservable, decode  # noqa: E402
from phys4d.engine.data.decoders.probe import probe  # noqa: E402
from phys4d.engine.data.decoders.pyav import PyAVDecoder  # noqa: E402
from phys4d.engine.data.files.shards import ShardWriter  # noqa: E402
from phys4d.engine.distributed.parallel import Parallel  # noqa: E402
from phys4d.models.tiny.words import WordEncoder  # noqa: E402
from tests.engine.data import video_clips  # noqa: E402
from tests.engine.data.video_clips import FRAMES, UPRIGHT, numbers  # noqa: E402

pytestmark = [pytest.mark.gpu, pytest.mark.slow]
DEVICE = torch.device("cuda", 0)
SCALE = 3  # clips of 192 x 288: NVDEC takes no smaller ones of HEVC, VP9 and AV1
MEAN, MOST = 3.0, 40
"""Levels from PyAV, on average and in any pixel: other chroma interpolation, at the edges of the black and white blocks
most. Half of what a wrong matrix changes on average."""


@pytest.fixture(scope="module")
def dali():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    if (reason := choice.absence("dali")) is not None:
        pytest.skip(reason)
    return choice.choose("dali", DEVICE)


@pytest.fixture(scope="module")
def clips() -> dict[str, bytes]:
    return video_clips.clips(scale=SCALE)


def upright(name):
    return next((turn for word, turn in UPRIGHT.items() if word in name), lambda frame: frame)


def host(frames: torch.Tensor) -> np.ndarray:
    assert frames.device == DEVICE
    return frames.cpu().numpy()


def test_frames_are_those_of_a_player_or_refused(dali, clips):
    served = set()
    for name, data in clips.items():
        count = FRAMES - 10 if "edit list" in name else FRAMES
        if (reason := dali.refusal(probe(data))) is not None:
            with pytest.raises(Unservable, match=r"^" + reason[:20]):
                decode(dali, Request(data, count))
            continue
        for start, length, stride in ((0, count, 1), (7, 5, 1), (1, 4, 3), (13, 1, 1), (count - 1, 1, 1)):
            request = Request(data, length, start, stride)
            got, expected = host(decode(dali, request)), decode(PyAVDecoder(), request)
            turn = upright(name)
            assert numbers(got, turn, SCALE) == list(range(start, start + length * stride, stride)), name
            error = np.abs(got.astype(int) - expected)
            assert error.mean() <= MEAN and error.max() <= MOST, (name, error.mean(), error.max())
        served.add(name)
    assert {"h264 with B-frames", "h264 open groups", "h264 long group", "h264 variable rate", "h264 quarter turn",
            "h264 fragments", "hevc", "vp9", "vp9 mirrored", "vp9 BT.709"} <= served  # fmt: skip


def test_resizing_and_normalising_in_the_graph_equal_our_own(dali, clips):
    request = Request(clips["h264 quarter turn"], 5, 3)
    stored = host(decode(dali, request))
    smaller = Request(request.data, 5, 3, size=(96, 64))
    assert np.abs(host(decode(dali, smaller)).astype(int) - pixels.resized(stored, (96, 64))).max() <= 1
    unit = host(decode(dali, request, normalised=True))
    assert unit.dtype == np.float32 and np.abs(unit - pixels.normalised(stored)).max() < 1e-6


def test_frames_outlive_later_runs(dali, clips):
    """DALI reuses its memory; what it returned must not change with it, nor while another stream reads it."""
    kept = [decode(dali, Request(clips["h264 with B-frames"], 8, start)) for start in range(0, 20, 4)]
    for _ in range(20):
        decode(dali, Request(clips["vp9"], 8))
    for start, frames in zip(range(0, 20, 4), kept, strict=True):
        assert numbers(host(frames), scale=SCALE) == list(range(start, start + 8))


def test_a_bad_clip_is_an_error_and_leaves_the_others(dali, clips):
    sound = Request(clips["h264 with B-frames"], 3, 4)
    for kind in ("h264 with B-frames", "vp9"):
        damaged = video_clips.bad(clips[kind])
        results = dali.decode_many([sound, *(Request(data, FRAMES) for data in damaged.values()), sound])
        assert numbers(host(results[0]), scale=SCALE) == numbers(host(results[-1]), scale=SCALE) == [4, 5, 6]
        readable = [name for name, result in zip(damaged, results[1:-1], strict=True) if torch.is_tensor(result)]
        assert not readable


def test_many_threads_share_the_device(dali, clips):
    found: dict[int, list[int]] = {}

    def read(place: int) -> None:
        data = clips[("h264 with B-frames", "hevc", "vp9 BT.709")[place % 3]]
        found[place] = numbers(host(decode(dali, Request(data, 4, place))), scale=SCALE)

    threads = [threading.Thread(target=read, args=(place,)) for place in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert found == {place: list(range(place, place + 4)) for place in range(24)}


def test_a_batch_of_a_run_is_on_the_device_and_near_pyavs(dali, tmp_path):
    """Through `Clips`, as a stage reads it, with the decoder "auto"."""
    with ShardWriter(tmp_path / "clips") as writer:
        for number in range(4):
            data = video_clips.encoded(video_clips.numbered(9, scale=SCALE)[number:][:5], crf="8")
            meta = b'{"caption": "a wave", "intrinsics": [%s]}' % b", ".join([b"[[9,0,1],[0,9,1],[0,0,1]]"] * 5)
            writer.add(f"clip{number}", {"mp4": data, "json": meta}, frames=5, fps=24.0, height=192, width=288)
    source, reference = (Clips(tmp_path / "clips", (), WordEncoder()) for _ in range(2))
    decoder = choice.choose("auto", DEVICE)
    source.decode_by(decoder)
    place = Parallel.alone()
    batch, expected = (each.batch(4, place, 0, "pretrain", 0).video for each in (source, reference))
    assert batch.shape == (4, 3, 5, 192, 288)
    assert (batch.cpu() - expected.cpu()).abs().mean() * 127.5 <= MEAN
