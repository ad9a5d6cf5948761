"""Which rank prints the line about a rank that is gone, and what the line says."""

import signal

import pytest

from phys4d.cli import _ended
from phys4d.engine.errors import RankLost
from phys4d.engine.signals import Stopping

FIRST, OTHER = "rank 0 ended during step 3 of a", "rank 2 ended during step 3 of a"


@pytest.mark.parametrize(
    ("rank", "lost", "received", "line"),
    [
        (0, OTHER, None, f"{OTHER}: kept"),
        (1, OTHER, None, None),
        (1, FIRST, None, f"{FIRST}: kept"),
        (0, OTHER, signal.SIGTERM, f"stopped by SIGTERM ({OTHER}): kept"),
        (1, OTHER, signal.SIGTERM, None),
        (1, FIRST, signal.SIGTERM, f"stopped by SIGTERM ({FIRST}): kept"),
    ],
)
def test_the_first_rank_speaks_or_where_it_is_gone_the_others(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    rank: int,
    lost: str,
    received: signal.Signals | None,
    line: str | None,
) -> None:
    """torchrun's agents send a SIGTERM as soon as a node is gone, before a rank can tell which it was."""
    monkeypatch.setenv("RANK", f"{rank}")
    monkeypatch.setenv("WORLD_SIZE", "3")
    stopping = Stopping()
    stopping.received, stopping.kept = received, "kept"
    assert _ended(RankLost(lost), stopping) == 3
    assert capsys.readouterr().err == ("" if line is None else f"phys4d: {line}\n")
