"""What `phys4d data motion` counts: clips that move until their end, and the samples that were rejected before them."""

from pathlib import Path

import numpy as np
import pytest

from phys4d.cli import main
from phys4d.engine.data.files.shards import ShardWriter
from phys4d.engine.errors import UserError
from phys4d.simulation.activity import activity, moves_late
from phys4d.simulation.generate import SimulateConfig, make_clip, simulate


def test_what_moves_before_the_last_quarter_or_in_few_pixels_does_not_count() -> None:
    moving = np.zeros((16, 40, 50), dtype=bool)
    moving[:12] = True
    assert not moves_late(moving)
    moving[12, 0, 0] = True
    assert not moves_late(moving)  # one pixel of two thousand
    moving[12, 0, :3] = True
    assert moves_late(moving)


def test_smoke_counts_where_it_changes() -> None:
    moving, opacity = np.zeros((8, 20, 20), dtype=bool), np.full((9, 20, 20), 90, dtype=np.uint8)
    assert not moves_late(moving, opacity)
    opacity[8, :4] = 200
    assert moves_late(moving, opacity)


def test_the_counts_of_a_dataset_are_those_of_its_clips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = SimulateConfig(families=("spin", "crank"), clips=4, size=(32, 32), frames=9, seed=2)
    summary = simulate(config, tmp_path / "clips", workers=1)
    found = activity(tmp_path / "clips")
    assert list(found) == ["articulated", "rigid", "all"]
    assert found["all"].clips == 4 and found["rigid"].clips == 2 and found["articulated"].late == 2
    assert found["all"].redrawn == sum(summary.redrawn.values())
    assert found["all"].dropped == sum(summary.dropped.values())
    assert main(["data", "motion", str(tmp_path / "clips")]) == 0
    assert "| articulated | 2 | 100% |" in capsys.readouterr().out


def test_clips_without_truth_are_refused(tmp_path: Path) -> None:
    config = SimulateConfig(families=("spin",), clips=1, size=(32, 32), frames=9, seed=2, truth=False)
    with ShardWriter(tmp_path / "bare", recipe="{}") as writer:
        writer.add("clip", make_clip(config, 0), 9, 24, 32, 32)
    with pytest.raises(UserError, match="clip clip holds no truth"):
        activity(tmp_path / "bare")
