"""`phys4d label` on several ranks, after kills, and with clips that cannot be used."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from phys4d.cli import main
from phys4d.commands.datasets import _cores
from phys4d.engine.data.dataset import ClipDataset, ClipFault
from phys4d.engine.data.files.shards import ShardWriter
from phys4d.engine.data.tools.rank_shards import NOTES, RankShards, divided
from phys4d.engine.data.tools.verify import verify
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import UserError
from phys4d.teachers.interface import default_device
from phys4d.teachers.label import LEFT_OUT, label_dataset
from phys4d.teachers.small_depth import SmallDepth, SmallDepthConfig
from tests.stages.conftest import session
from tests.teachers.test_label import Ramp, Shift

__all__ = ["session"]

Write = Callable[..., Path]
NO_VIDEO = b"\0\0\0\x18ftypisom" + bytes(60)


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a dataset by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def with_bad(source: Path, out: Path, bad: tuple[int, ...]) -> Path:
    """A copy of a dataset in which the mp4s of these clips are none."""
    clips = ClipDataset(source)
    with ShardWriter(out) as writer:
        for index in range(len(clips)):
            row = clips.row(index)
            members = {name: clips.member(row, name) for name in row["members"]}
            members |= {"mp4": NO_VIDEO} if index in bad else {}
            writer.add(row["key"], members, row["frames"], row["fps"], row["height"], row["width"])
    return out


@pytest.mark.slow
def test_ranks_and_kills_leave_the_bytes_of_one_rank(
    session: Callable[..., dict[str, Any]], write_clips: Write, tmp_path: Path
) -> None:
    videos, scenes = write_clips("videos", 2, 40, truth=False), write_clips("scenes", 1, 1)
    words = ["label", "--videos", videos, "--scenes", scenes, "--steps", 2, "--set", "depth.width=4", "--workers", 2]
    whole = session(*words, "--out", tmp_path / "one")
    assert whole["codes"] == [0], whole["errors"]
    assert len(list((tmp_path / "one").glob("shard-*.tar"))) == 40 and verify(tmp_path / "one") == []
    partial = tmp_path / ".killed.partial" / NOTES
    command = [sys.executable, "-m", "phys4d", *map(str, words), "--out", str(tmp_path / "killed")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # as the ranks: the sums of a training depend on it
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment) as process:
        while process.poll() is None and len(list(partial.glob("shard-*.json"))) < 3:
            time.sleep(0.002)
        process.kill()
    assert 3 <= len(list(partial.glob("shard-*.json"))) < 40 and not (tmp_path / "killed").exists()
    for name in ("killed", "three"):
        ended = session(*words, "--out", tmp_path / name, ranks=3)
        assert ended["codes"] == [0, 0, 0], ended["errors"]
        assert content(tmp_path / name) == content(tmp_path / "one")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "one", "scenes", "three", "videos"]


def test_a_bad_clip_of_one_rank_ends_all_with_one_line(
    session: Callable[..., dict[str, Any]], write_clips: Write, tmp_path: Path
) -> None:
    videos = with_bad(write_clips("sound", 2, 6, truth=False), tmp_path / "videos", (3,))
    words = ["--videos", videos, "--scenes", write_clips("scenes", 1, 1), "--steps", 1, "--set", "depth.width=4"]
    ended = session("label", *words, "--out", tmp_path / "out", ranks=2)
    assert ended["codes"] == [2, 2]
    lines = [line for error in ended["errors"] for line in error.splitlines() if "error" in line]
    assert len(lines) == 1 and "shard-000000.tar: clip clip000003: mp4 cannot be decoded" in lines[0]
    ended = session("label", *words, "--out", tmp_path / "out", "--on-bad", "skip", ranks=2)
    assert ended["codes"] == [0, 0], ended["errors"]
    assert ClipDataset(tmp_path / "out").keys().to_pylist() == [f"clip00000{clip}" for clip in (0, 1, 2, 4, 5)]
    assert main(["label", *map(str, words), "--out", str(tmp_path / "alone"), "--on-bad", "skip"]) == 0
    assert content(tmp_path / "alone") == content(tmp_path / "out")


def test_bad_clips_are_left_out_named_and_limited(
    write_clips: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound, scenes = write_clips("sound", 2, 30, truth=False), write_clips("scenes", 1, 1)
    fault = "shard-000000.tar: clip clip000005: mp4 cannot be decoded"
    one, two = with_bad(sound, tmp_path / "one", (5,)), with_bad(sound, tmp_path / "two", (5, 20))
    words = ["label", "--scenes", str(scenes), "--steps", "1", "--set", "depth.width=4", "--out", str(tmp_path / "out")]
    assert main([*words, "--videos", str(one)]) == 2
    assert f"phys4d: error: {one}/{fault}" in capsys.readouterr().err
    assert main([*words, "--videos", str(two), "--on-bad", "skip"]) == 2
    assert "begun with other settings" in capsys.readouterr().err
    assert main([*words, "--videos", str(one), "--on-bad", "skip"]) == 0
    captured = capsys.readouterr()
    assert "label: 30/30 clips" in captured.err
    printed = captured.out.splitlines()
    assert printed[0].startswith(f"left out: {fault}")
    assert printed[1] == (
        f"{tmp_path}/out: 29 clips labelled by small depth network and DIS, 1 left out: see {LEFT_OUT} in it"
    )
    labelled = ClipDataset(tmp_path / "out")
    assert "clip000005" not in labelled.keys().to_pylist() and len(labelled) == 29 and verify(tmp_path / "out") == []
    (key, said), = json.loads((tmp_path / "out" / LEFT_OUT).read_text()).items()
    assert key == "clip000005" and said.startswith(fault)
    label_dataset(sound, tmp_path / "sound-out", Ramp(), Shift())
    assert not (tmp_path / "sound-out" / LEFT_OUT).exists()
    with pytest.raises(UserError, match="two: 2 of 30 clips cannot be used, at most 1 are skipped; one is shard-0"):
        label_dataset(two, tmp_path / "more", Ramp(), Shift(), on_bad="skip")


class Wild(Shift):
    """One value of the flow of its third clip is not a number."""

    calls = 0

    def label(self, video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        flow, valid = super().label(video)
        if self.calls == 2:
            flow[0, 0, 0, 0] = np.nan
        self.calls += 1
        return flow, valid


def test_wrong_labels_are_a_fault_of_their_clip(write_clips: Write, tmp_path: Path) -> None:
    videos = write_clips("videos", 2, 4, truth=False)
    message = "shard-000000.tar: clip clip000002: its labels by ramp and shift are wrong: array 'motion'"
    with pytest.raises(ClipFault, match=message):
        label_dataset(videos, tmp_path / "stop", Ramp(), Wild())
    written = label_dataset(videos, tmp_path / "skip", Ramp(), Wild(), on_bad="skip")
    assert written is not None and list(written.bad) == ["clip000002"] and len(written.rows) == 3


def test_what_was_left_out_stays_left_out(write_clips: Write, tmp_path: Path) -> None:
    videos = with_bad(write_clips("sound", 2, 4, truth=False), tmp_path / "videos", (1,))

    class Ending(Ramp):
        calls = 0

        def label(self, video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            self.calls += 1
            if self.calls == 3:
                raise ZeroDivisionError
            return super().label(video)

    with pytest.raises(ZeroDivisionError):
        label_dataset(videos, tmp_path / "out", Ending(), Shift(), on_bad="skip")
    with pytest.raises(UserError, match="out: begun with --on-bad skip, which left out clip clip000001: give it again"):
        label_dataset(videos, tmp_path / "out", Ramp(), Shift())
    written = label_dataset(videos, tmp_path / "out", Ramp(), Shift(), on_bad="skip")
    assert written is not None and list(written.bad) == ["clip000001"]


def test_a_teacher_is_trained_once(write_clips: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = write_clips("scenes", 1, 2)
    videos = with_bad(write_clips("sound", 2, 4, truth=False), tmp_path / "videos", (2,))
    trained: list[int] = []
    real = SmallDepth.prepare
    monkeypatch.setattr(SmallDepth, "prepare", lambda teacher: (trained.append(1), real(teacher))[1])

    def teacher(**changed: int) -> SmallDepth:
        return SmallDepth(SmallDepthConfig(**{"steps": 2, "batch": 2, "width": 4, **changed}), scenes)

    first = teacher()
    with pytest.raises(ClipFault):
        label_dataset(videos, tmp_path / "out", first, Shift())
    again = teacher()
    label_dataset(videos, tmp_path / "out", again, Shift(), on_bad="skip")
    assert trained == [1] and again.provenance() == first.provenance()
    assert not list((tmp_path / "out").glob("*.safetensors"))
    stored = first.trained()
    assert not teacher(seed=1).restore(stored) and not teacher().restore(stored[:-4])
    assert not teacher().restore(b"") and not teacher().restore(b"\xff" * 64)
    with pytest.raises(ClipFault):  # at the first shard: nothing stays that would fix the settings
        label_dataset(with_bad(videos, tmp_path / "first", (0,)), tmp_path / "none", teacher(), Shift())
    assert not (tmp_path / ".none.partial").exists()


class Second(Parallel):
    """Rank 1 of two, where rank 0 has done its part."""

    def __init__(self) -> None:
        super().__init__(1, 2, torch.device("cpu"))

    def on_rank_zero(self, action: Callable[[], Any]) -> None:
        return None


def test_a_rank_of_other_settings_is_refused(tmp_path: Path) -> None:
    with RankShards(tmp_path / "out", Parallel.alone()) as first:
        second = RankShards(tmp_path / "out", Second())
        with pytest.raises(UserError, match="rank 1 does not see it: name --out on a disk that all ranks share"):
            second.begin([], None, lambda: ("a", {}))
        first.begin([], None, lambda: ("a", {"weights": b"1"}))
        seen: list[bytes] = []
        second.begin([], None, lambda: (seen.append((second.notes / "weights").read_bytes()), ("a", {}))[1])
        assert seen == [b"1"]
        with pytest.raises(UserError, match=r"rank 1 has other settings, versions or weights \(b\) than rank 0 \(a\)"):
            second.begin([], None, lambda: ("b", {}))


def test_shards_are_bounded_by_clips_and_bytes() -> None:
    assert divided(5, 100) == [range(n, n + 1) for n in range(5)] and divided(0, 1) == []
    for count, each, size in ((130, 1, 3), (100_000, 1, 256), (100_000, 100 << 20, 10), (100_000, 5 << 30, 1)):
        shards = divided(count, each)
        assert len(shards[0]) == size and [i for shard in shards for i in shard] == list(range(count))


def test_each_rank_keeps_to_its_device_and_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 3)
    assert default_device() == torch.device("cuda", 3)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(16)))
    for ranks, cores in (("", 16), ("4", 4), ("32", 1), ("none", 16)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
        assert _cores() == cores
