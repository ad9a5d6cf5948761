"""Run time: every session counts once, also a killed one."""

import json
from pathlib import Path

import pytest

from phys4d.engine.run_folder import clock
from phys4d.engine.run_folder.clock import Clock


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time returned by the patched clock; the test advances it."""
    time = [100.0]
    monkeypatch.setattr(clock.time, "monotonic", lambda: time[0])
    return time


def test_sessions_add_up_and_a_killed_one_counts_to_its_last_save(tmp_path: Path, now: list[float]) -> None:
    path = tmp_path / "clock.json"
    first = Clock(path, since=90.0)
    with first.stage("backbone"):
        now[0] += 5
        first.save()
        now[0] += 7  # lost: killed here, without another save
        killed = path.read_text()
    path.write_text(killed)
    now[0] = 1000.0
    second = Clock(path, since=999.0)
    with second.stage("backbone"):
        now[0] += 2
    now[0] += 1  # between the stages
    with second.stage("pretrain"):
        now[0] += 4
        assert second.stages == {"backbone": 7.0, "pretrain": 4.0}
    assert second.seconds == 15 + 8
    second.save()
    assert json.loads(path.read_text()) == {"seconds": 23.0, "stages": {"backbone": 7.0, "pretrain": 4.0}}


def test_ticks_write_once_a_second_and_other_ranks_never(tmp_path: Path, now: list[float]) -> None:
    clock, other = Clock(tmp_path / "a", since=100.0), Clock(tmp_path / "b", since=100.0, writes=False)
    written = []
    for _ in range(6):
        now[0] += 0.4
        clock.tick()
        other.tick()
        written.append(json.loads((tmp_path / "a").read_text())["seconds"] if (tmp_path / "a").exists() else None)
    assert written == [None, None, *[pytest.approx(1.2)] * 3, pytest.approx(2.4)]
    other.save()
    assert not (tmp_path / "b").exists() and other.seconds == pytest.approx(2.4)
