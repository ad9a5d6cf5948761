"""A rank that hangs, is stopped or killed ends all of them in time: one line names it, and --resume goes on."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Session = Callable[..., dict[str, Any]]
Start = Callable[..., dict[str, Any]]


@pytest.fixture
def start(session: Session, write_run: Callable[..., Path], clips: Path, tmp_path: Path) -> Start:
    """Trains `backbone` on two ranks, with a checkpoint at every step."""
    run = write_run(tmp_path / "run.toml", tmp_path / "out", clips, ["backbone"])
    run.write_text(run.read_text().partition("[evaluate]")[0])

    def with_limits(*arguments: str, **options: Any) -> dict[str, Any]:
        changes = ["backbone.loop={steps=4, log_every=1, checkpoint_every=1, save_in_background=false}", *arguments]
        words = [word for change in changes for word in (("--set", change) if "=" in change else (change,))]
        return session("train", run, *words, ranks=2, **options)

    return with_limits


KEPT = "finished stages and checkpoints are kept: --resume goes on from there"


@pytest.mark.slow
def test_a_stopped_rank_is_named_in_time_and_the_run_resumes(start: Start, tmp_path: Path) -> None:
    ended = start("timeouts={silence=3}", stop={"rank": 1, "stage": "backbone", "step": 2})
    assert ended["codes"] == [3, -9]
    lines = ended["errors"][0].splitlines()
    seen = "(saving step [12]|step [123]) of backbone"  # signs are a second apart
    assert re.fullmatch(
        rf"phys4d: rank 1 gave no sign of life for 3 s, last seen during {seen}: {tmp_path / 'out'}: {KEPT}", lines[-1]
    )
    assert "rank 0 during step 3 of backbone:" in lines and any("torch/distributed" in line for line in lines)
    assert (tmp_path / "out" / "latest").read_text() == "checkpoint-backbone-2\n"
    again = start("timeouts={silence=60}", "--resume")
    assert again["codes"] == [0, 0], again["errors"]


def test_a_rank_that_hangs_is_named_with_where_it_is(start: Start, tmp_path: Path) -> None:
    ended = start("timeouts={step=3, silence=60}", stop={"rank": 1, "stage": "backbone", "step": 2, "sleeps": True})
    assert ended["codes"] == [3, 3]
    line = "phys4d: rank 1 passed the time limit of step 3 of backbone, and the others wait for it"
    assert ended["errors"][0].splitlines()[-1] == f"{line}: {tmp_path / 'out'}: {KEPT}"
    assert "time.sleep(3600)" in ended["errors"][1] and "phys4d: " not in ended["errors"][1]


@pytest.mark.slow
def test_rank_0_is_stopped(start: Start) -> None:
    ended = start("timeouts={silence=3}", stop={"rank": 0, "stage": "backbone", "step": 2})
    assert ended["codes"] == [3, -9]
    assert ended["errors"][1].splitlines()[-1].startswith("phys4d: rank 0 ")


def test_a_killed_rank_is_one_line_without_a_traceback(start: Start, tmp_path: Path) -> None:
    ended = start("timeouts={silence=60}", kill={"rank": 1, "stage": "backbone", "step": 2})
    assert ended["codes"] == [3, -9]
    lines = [line for line in ended["errors"][0].splitlines() if not line.startswith("backbone: ")]
    assert lines == [f"phys4d: rank 1 ended during step 3 of backbone: {tmp_path / 'out'}: {KEPT}"]


@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_rank_killed_while_a_checkpoint_is_written_is_one_line(start: Start, tmp_path: Path, rank: int) -> None:
    ended = start("timeouts={silence=60}", kill={"rank": rank, "stage": "backbone", "step": 2, "moment": 0})
    assert ended["codes"][rank] == -9 and ended["codes"][1 - rank] == 3
    error = ended["errors"][1 - rank]  # with torch's warnings about a store that ended with rank 0
    line = f"phys4d: rank {rank} ended during saving step 2 of backbone: {tmp_path / 'out'}: {KEPT}"
    assert error.splitlines()[-1] == line and "Traceback" not in error


@pytest.mark.slow
def test_two_signals_end_a_rank_that_waits_for_a_stopped_one(start: Start, tmp_path: Path) -> None:
    ended = start("timeouts={silence=100}", stop={"rank": 1, "stage": "backbone", "step": 2}, terminate=True)
    assert ended["codes"] == [3, -9]
    assert ended["errors"][0].splitlines()[-1] == f"phys4d: stopped by SIGTERM: {tmp_path / 'out'}: {KEPT}"
