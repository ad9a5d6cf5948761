"""Progress: plain lines without a terminal, always a final line, silent on other ranks."""

import pytest

from phys4d.engine import progress as module
from phys4d.engine.progress import progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_a_line_every_ten_seconds_and_a_last_one(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("simulate", total=60, unit="clips") as bar:
        for _ in range(60):
            clock[0] += 0.5
            bar.advance(1, loss=0.25)
    assert capsys.readouterr().err.splitlines() == [
        "simulate: 20/60 clips, 2/s, 20 s left, loss 0.25",
        "simulate: 40/60 clips, 2/s, 10 s left, loss 0.25",
        "simulate: 60/60 clips, 2/s, 30.0 s, loss 0.25",
    ]


def test_a_stopped_piece_of_work_says_so(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), progress("label", total=4) as bar:
        clock[0] += 2
        bar.advance(1)
        raise KeyError
    assert capsys.readouterr().err == "label: 1/4 steps, 0.5/s, 2.0 s (stopped)\n"


def test_only_rank_0_speaks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with progress("train", total=1) as bar:
        bar.advance(1)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(module.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with progress("train", total=3, unit="steps") as bar:
        bar.advance(3, loss=0.5)
    shown = capsys.readouterr().err
    assert "train" in shown and "3/3" in shown and "loss 0.5" in shown
