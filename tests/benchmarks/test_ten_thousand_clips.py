"""The benchmark of many clips: every command runs, and memory and files do not grow with the clips."""

from pathlib import Path

import pytest

from phys4d.benchmarks import ten_thousand_clips
from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.data.tools.verify import verify


@pytest.mark.slow
def test_a_thousand_clips(tmp_path: Path) -> None:
    rows = ten_thousand_clips.measure(tmp_path, 1000)
    assert [row["command"] for row in rows] == [
        "verify", "stats", "label", "verify labels", "encode", "verify cache", "an epoch of videos",
        "an epoch from the cache",
    ]  # fmt: skip
    for row in rows:
        assert 0 < row["first"] <= row["peak"] and 3 <= row["open_files"] < 256, row
        bound = 40 if "epoch" not in row["command"] else 400  # MiB; training keeps decoded clips where they fit
        assert row["growth"] < bound, row


def test_clips_are_sound_and_a_command_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ten_thousand_clips.write_clips(tmp_path / "clips", 20, truth=True)
    assert len(ClipDataset(tmp_path / "clips")) == 20 and verify(tmp_path / "clips") == []
    work = "import sys, time\nheld = []\nfor n in range(11):\n    held.append(b'1' * (4 << 20))\n    time.sleep(0.1)\n"
    work += "    print(f'work: {n}/10 clips, fast', file=sys.stderr, flush=True)\n    time.sleep(0.1)\n"
    monkeypatch.setattr(ten_thousand_clips, "PROGRAM", work)
    found = ten_thousand_clips.watched([], "work")
    assert 20 < found["growth"] < 44 and found["peak"] >= found["last"] > found["first"] and found["open_files"] >= 3
    monkeypatch.setattr(ten_thousand_clips, "PROGRAM", "import sys; sys.exit('it failed')")
    with pytest.raises(SystemExit, match="ended with 1:\nit failed"):
        ten_thousand_clips.watched([], "work")
