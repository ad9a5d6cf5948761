"""The benchmark of video decoders: every decoder that is installed has a row, every other one its reason."""

import json
from pathlib import Path

import pytest

from phys4d.benchmarks import decoding
from phys4d.cli import main
from phys4d.engine.data.decoders import choice

SMALL = decoding.Effort(clips=2, frames=4, size=(64, 96), rounds=1)


def test_every_decoder_has_its_row_or_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(decoding, "QUICK", SMALL)
    words = ["--case", "vp9", "--case", "h264, from frame 30", "--device", "cpu", "--quick", "--out", str(tmp_path)]
    assert main(["bench", "data", *words]) == 0
    result = json.loads((tmp_path / "data.json").read_text())
    assert (result["frames"], result["height"], result["width"]) == (4, 64, 96) and result["provenance"]["torch"]
    assert len(result["load"]["before"]) == len(result["load"]["after"]) == 3
    for case in ("vp9", "h264, from frame 30"):
        rows = [row for row in result["rows"] if row["case"] == case]
        assert {row["decoder"] for row in rows} == {*choice.DECODERS, "alone"}
        for row in rows:
            if (reason := row.get("refused")) is not None:
                assert reason == choice.absence(row["decoder"]) or "DALI decodes h264 on a GPU only" in reason
            else:
                assert row["frames_per_s"] > 0 and row["cpu_s_per_clip"] > 0 and row["error"] < 4
    printed = capsys.readouterr().out
    assert "h264, yuv420p, BT.601, limited range; a key frame every 24 frames" in printed
    assert printed.count("| alone | 1 |") == 2 == (tmp_path / "data.md").read_text().count("| alone | 1 |")


def test_the_loop_of_pyav_alone_decodes_the_same_frames() -> None:
    case = decoding.CASES[1]
    data = decoding.encode(case, decoding.scene(SMALL, 40, 0))
    request = decoding.Request(data, 4, case.start)
    assert (decoding.alone(request) == decoding.decode(decoding.PyAVDecoder(), request)).all()


def test_an_unknown_case_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "data", "--case", "h266"]) == 2
    assert "--case h266: expected one of h264, " in capsys.readouterr().err
