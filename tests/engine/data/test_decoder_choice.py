"""Which decoder serves which video, and which one a run gets."""

import av
import numpy as np
import pytest
import torch

from phys4d.engine.data.decoders import choice
from phys4d.engine.data.decoders.interface import Request, Unservable
from phys4d.engine.data.decoders.probe import Video, probe
from phys4d.engine.data.decoders.pyav import PyAVDecoder
from phys4d.engine.errors import UserError

GPU = torch.device("cuda", 0)
SERVED = Video("mp4", "h264", "yuv420p", 8, 6, False, (480, 720), tuple(range(49)), 0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"codec": "hevc"}, None),
        ({"codec": "av1", "matrix": 1}, None),
        ({"codec": "vp9", "matrix": 2}, None),
        ({"container": "mpegts"}, "DALI is given mp4, mov, webm and mkv only, it is mpegts"),
        ({"codec": "mjpeg"}, "DALI does not decode mjpeg on a GPU"),
        ({"codec": "prores"}, "DALI does not decode prores on a GPU"),
        ({"pixel_format": "yuv444p"}, "DALI takes 4:2:0 with 8 bits (yuv420p), it is yuv444p"),
        ({"pixel_format": "yuv420p10le", "bits": 10}, "DALI takes 4:2:0 with 8 bits (yuv420p), it is yuv420p10le"),
        ({"matrix": 9}, "DALI converts colours by BT.601, which can be corrected to BT.709 only"),
        ({"full_range": True}, "DALI on a GPU takes colours of limited range, its are of full range"),
        ({"hidden": 2}, "its edit list hides 2 frames, which DALI would show"),
        ({"codec": "hevc", "stored": (128, 720)}, "it is 128x720, the GPU decodes hevc from 144x144 on"),
    ],
)
def test_what_dali_serves_on_a_gpu(change: dict, reason: str | None) -> None:
    """Decided from headers, so that it needs neither a GPU nor DALI."""
    from phys4d.engine.data.decoders.dali import DaliDecoder

    found = DaliDecoder(GPU).refusal(Video(**{**SERVED.__dict__, **change}))
    assert found == reason if reason is None or found is None else found.startswith(reason)


class Half:
    """Serves VP9 and nothing else."""

    name, version, together = "half", "1", 3

    def refusal(self, video: Video) -> str | None:
        return None if video.codec == "vp9" else f"half does not decode {video.codec}"

    def decode_many(self, requests, *, normalised=False):
        served = [Unservable(reason) if (reason := self.refusal(probe(r.data))) else None for r in requests]
        return [no or np.full((r.count, 1, 1, 3), 7, np.uint8) for r, no in zip(requests, served, strict=True)]


def test_the_reference_decodes_what_the_preferred_one_does_not_serve(
    clips: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    best = choice.BestDecoder(Half(), PyAVDecoder())
    names = ("vp9", "h264 with B-frames", "vp9", "h264 long group", "hevc")
    results = best.decode_many([Request(clips[name], 2) for name in names])
    assert [result.shape[1] for result in results] == [1, 64, 1, 64, 64]
    assert capsys.readouterr().err.splitlines() == [
        f"decoder: pyav for clips that half does not serve: half does not decode {codec}" for codec in ("h264", "hevc")
    ]
    assert choice.explain(best, clips["vp9"]) == "half 1 (vp9, yuv420p, BT.601, limited range)"
    expected = f"pyav {av.__version__} (hevc, yuv420p, BT.601, limited range); not half: half does not decode hevc"
    assert choice.explain(best, clips["hevc"]) == expected
    assert best.together == 3


def test_the_choice_of_a_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(choice.choose("auto"), PyAVDecoder) and isinstance(choice.choose("pyav"), PyAVDecoder)

    def absent(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(choice.importlib, "import_module", absent)
    line = "decoder = \"dali\": dali is not installed (No module named 'nvidia.dali'): pip install 'phys4d[dali]', "
    with pytest.raises(UserError) as caught:
        choice.choose("dali")
    assert str(caught.value) == line + 'or set "auto"'
    assert isinstance(choice.choose("auto", GPU), PyAVDecoder)
    monkeypatch.setattr(choice.importlib, "import_module", lambda name: None)
    best = choice.choose("auto", GPU)
    assert isinstance(best, choice.BestDecoder) and best.preferred.name == "dali" and best.preferred.device == GPU
