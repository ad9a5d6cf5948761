"""Which rank the watchdog names, from the last signs of life of all; tests/stages/test_hangs.py runs its threads."""

import os
import signal

import pytest
import torch

from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.distributed.watchdog import MEETING, Sign, Timeouts, judge
from phys4d.engine.errors import RankLost
from phys4d.engine.signals import Stopping

NOW, SILENCE = 1000.0, 120.0


def sign(passed: int = 7, *, ago: float = 0.5, over: float = -1.0, waits: bool = False, count: int = 3) -> Sign:
    return Sign(count, passed, f"step {passed}", over, waits, NOW - ago)


@pytest.mark.parametrize(
    ("signs", "line"),
    [
        ([sign(), sign(), sign()], None),
        ([sign(), sign(ago=SILENCE), sign()], None),
        ([sign(), sign(5, ago=SILENCE + 1), sign()], "rank 1 gave no sign of life for 120 s, last seen during step 5"),
        (
            [sign(), sign(5, ago=SILENCE + 1), sign(ago=500)],
            "ranks 1, 2 gave no sign of life for 120 s, last seen during step 5",
        ),
        ([sign(), sign(count=-1, ago=MEETING - 1)], None),
        ([sign(), sign(count=-1, ago=MEETING + 1)], "rank 1 did not start within 600 s"),
        ([sign(7, over=1), sign(6), sign(7)], "rank 1 passed the time limit of step 6, and the others wait for it"),
        ([sign(6), sign(7), sign(7, over=0.1)], "rank 0 passed the time limit of step 6, and the others wait for it"),
        (
            [sign(7, over=1, waits=True), sign(7, over=1), sign(7, over=1, waits=True)],
            "rank 1 passed the time limit of step 7, and the others wait for it",
        ),
        (
            [sign(7, over=1, waits=True), sign(6, over=1, waits=True), sign(7)],
            "rank 1 passed the time limit of step 6, and the others wait for it",
        ),
        ([sign(7, over=1, waits=True), sign(7, over=1, waits=True)], "all ranks passed the time limit of step 7"),
        ([sign(7, over=0), sign(6, over=0)], None),
    ],
)
def test_rank_0_names_the_rank_that_the_others_wait_for(signs: list[Sign], line: str | None) -> None:
    assert judge(0, dict(enumerate(signs)), NOW, SILENCE) == line


def test_other_ranks_judge_the_silence_of_rank_0_alone() -> None:
    assert judge(2, {0: sign(6, over=5), 2: sign(7, over=5)}, NOW, SILENCE) is None
    line = "rank 0 gave no sign of life for 120 s, last seen during step 6"
    assert judge(2, {0: sign(6, ago=130), 2: sign(7)}, NOW, SILENCE) == line


class Terminated:
    """A watchdog that gets a SIGTERM from torchrun while it finds out which rank is gone."""

    timeouts = Timeouts()

    def lost(self, error: BaseException) -> str:
        os.kill(os.getpid(), signal.SIGTERM)
        return "rank 0 ended during step 3"

    def stop(self) -> None:
        pass


def test_a_signal_does_not_hide_which_rank_is_gone() -> None:
    parallel = Parallel(1, 2, torch.device("cpu"), watchdog=Terminated())  # type: ignore[arg-type]
    with Stopping() as stopping, pytest.raises(RankLost, match="rank 0 ended during step 3"), parallel:
        raise RuntimeError("Connection closed by peer")
    assert stopping.received is signal.SIGTERM
