"""Ranks that share a simulation write the bytes of one process; rank 0 does not wait for ever for an absent one."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from phys4d.engine.errors import UserError
from phys4d.simulation import distributed
from phys4d.simulation.distributed import ProcessRank
from phys4d.simulation.generate import SimulateConfig, simulate

CONFIG = SimulateConfig(clips=3, size=(16, 16), frames=9, fps=8, families=("fall",))


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_two_ranks_write_what_one_writes(tmp_path: Path) -> None:
    simulate(CONFIG, tmp_path / "one", workers=1, process_rank=ProcessRank())
    simulate(CONFIG, tmp_path / "two", workers=1, process_rank=ProcessRank(1, 2))  # first, as a fast machine would
    with ThreadPoolExecutor() as pool:
        summary = pool.submit(simulate, CONFIG, tmp_path / "two", workers=1, process_rank=ProcessRank(0, 2)).result()
    assert sum(summary.clips.values()) == 3
    assert files(tmp_path / "two") == files(tmp_path / "one")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_rank_that_gives_no_sign_of_life_is_named_and_finished_clips_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "SILENCE", 1.0)
    with pytest.raises(UserError, match="clip clip000001: rank 1, which makes it, gave no sign of life for 1 s: start"):
        simulate(CONFIG, tmp_path / "two", workers=1, process_rank=ProcessRank(0, 2))
    monkeypatch.setattr(distributed, "SILENCE", 600.0)
    assert sum(simulate(CONFIG, tmp_path / "two", workers=1, process_rank=ProcessRank()).clips.values()) == 2
