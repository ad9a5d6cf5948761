"""The benchmark of the reader's checks: without them, what they refuse is read, and what they pass is read alike."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phys4d.benchmarks import read_checks, ten_thousand_clips
from phys4d.engine.data import dataset as dataset_module
from phys4d.engine.data.clip import schema
from phys4d.engine.data.dataset import ClipDataset, ClipFault
from phys4d.engine.data.decoders import probe
from phys4d.engine.run_folder.provenance import provenance


def test_checks_are_all_there_or_none(tmp_path: Path) -> None:
    ten_thousand_clips.write_clips(tmp_path / "clips", 3, truth=True)
    dataset = ClipDataset(tmp_path / "clips")
    row = dataset.row(1)
    with read_checks.unchecked(dataset):
        bare = dataset[1]
    sample = dataset[1]
    assert sample.meta == bare.meta and np.array_equal(sample.video, bare.video)
    assert sample.arrays and all(np.array_equal(array, bare.arrays[name]) for name, array in sample.arrays.items())
    with open(tmp_path / "clips" / row["shard"], "r+b") as shard:
        shard.seek(row["members"]["json"]["offset"] + 1)
        shard.write(b" ")  # a key without its first quote, or a value of another length
    with pytest.raises(ClipFault, match="json differs from its digest"):
        dataset[1]
    with read_checks.unchecked(dataset), pytest.raises(ClipFault, match="json Expecting property name"):
        dataset[1]  # what is not compared, but parsed


def test_each_way_makes_its_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ten_thousand_clips.write_clips(tmp_path / "clips", 2, truth=True)
    dataset, made = ClipDataset(tmp_path / "clips"), []

    def noted(owner: Any, name: str) -> None:
        real = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *given: (made.append(name), real(*given))[1])

    noted(schema, "check_header")
    noted(probe, "check_tables")
    noted(dataset_module, "is_whole")
    digests = ["is_whole"] * len(dataset.row(0)["members"])
    every = ["check_header", "check_tables", *digests]
    for way, expected in (("first", every), ("later", every[1:]), ("bare", []), ("first", every), ("later", every[1:])):
        made.clear()
        assert read_checks.seconds(dataset, 0, way) > 0
        assert sorted(made) == expected, way


def test_costs_are_those_of_the_lower_quartiles_of_each_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ten_thousand_clips.write_clips(tmp_path / "clips", 2, truth=True)
    # Seconds of the two clips; one more in the second round.
    spent = {"first": (3.0, 5.0), "later": (2.0, 4.0), "bare": (1.0, 3.0)}
    drawn = iter(range(10**6))
    monkeypatch.setattr(
        read_checks, "seconds", lambda clips, index, way: spent[way][index] + (0 if next(drawn) < 6 else 1)
    )
    row = read_checks.measure(tmp_path / "clips", 0)
    assert row["rounds"] == 2 and (row["first"], row["later"], row["bare"]) == (4250, 3250, 2250)
    assert (row["first_cost"], row["later_cost"]) == pytest.approx((8 / 9, 4 / 9))
    # first: 3/1, 5/3, 4/2, 6/4; later: 2/1, 4/3, 3/2, 5/4
    assert row["first_pairs"][1] == pytest.approx((5 / 3 + 2) / 2 - 1)
    assert row["later_pairs"][1] == pytest.approx((4 / 3 + 3 / 2) / 2 - 1)
    text = read_checks.table({"rows": [row], "provenance": provenance()})
    assert text.splitlines()[2].startswith("| 2 of ")
    assert "| 2250.00 | 4250.00 | 88.9 % | 83.3 (" in text and "| 3250.00 | 44.4 % | 41.7 (" in text
