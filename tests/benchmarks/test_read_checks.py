"""The benchmark of the reader's checks: without them, what they refuse is read, and what they pass is read alike."""

from pathlib import Path

import numpy as np
import pytest

from phys4d.benchmarks import read_checks, ten_thousand_clips
from phys4d.engine.data.dataset import ClipDataset, ClipFault


def test_checks_are_all_there_or_none(tmp_path: Path) -> None:
    ten_thousand_clips.write_clips(tmp_path / "clips", 3, truth=True)
    dataset = ClipDataset(tmp_path / "clips")
    row = dataset.row(1)
    with read_checks.unchecked():
        bare = dataset[1]
    sample = dataset[1]
    assert sample.meta == bare.meta and np.array_equal(sample.video, bare.video)
    assert sample.arrays and all(np.array_equal(array, bare.arrays[name]) for name, array in sample.arrays.items())
    with open(tmp_path / "clips" / row["shard"], "r+b") as shard:
        shard.seek(row["members"]["json"]["offset"] + 1)
        shard.write(b" ")  # a key without its first quote, or a value of another length
    with pytest.raises(ClipFault, match="json differs from the sha256"):
        dataset[1]
    with read_checks.unchecked(), pytest.raises(ClipFault, match="json is no JSON"):  # what is not compared, but parsed
        dataset[1]


def test_a_row_has_the_median_between_the_quartiles(tmp_path: Path) -> None:
    ten_thousand_clips.write_clips(tmp_path / "clips", 3, truth=True)
    row = read_checks.measure(tmp_path / "clips", 0.2)
    low, cost, high = row["cost"]
    assert row["pairs"] >= 2 and row["clips"] == 3 and low <= cost <= high and min(row["checked"], row["bare"]) > 0
    text = read_checks.table({"rows": [row | {"cost": [0.011, 0.0194, 0.03], "checked": 5.5, "bare": 5.25}]})
    assert text.splitlines()[2].endswith(f"| 5.50 | 5.25 | 1.9 % (1.1 to 3.0; {row['pairs']}) |")
