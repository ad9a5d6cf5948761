"""Counts of what `phys4d generate` takes: the ways that fit a card of 24 GB, and the committed counts."""

import pytest

from phys4d.benchmarks import generation_memory, results


@pytest.mark.parametrize(
    ("changes", "way"),
    [
        ({}, "yes"), ({"offload none": 21.5}, "`parts`"), ({"offload none": 30.0, "offload parts": 21.3}, "`parts`"),
        ({"offload none": 30.0, "offload parts": 22.0}, "`parts`, `--vae-tiling`"),
        ({"offload none": 30.0, "offload parts": 22.0, "tiled": None}, "`blocks`"),
        ({"offload none": 30.0, "offload parts": 22.0, "offload blocks": 21.36, "tiled": None}, "no"),
    ],
)  # fmt: skip
def test_a_card_of_24_gb_has_21_35_gib_for_a_clip(changes: dict[str, float | None], way: str) -> None:
    row = {"offload none": 21.3, "offload parts": 12.0, "offload blocks": 12.0, "tiled": 11.0} | changes
    assert generation_memory.fits(row) == way


def test_a_card_of_24_gb_generates_with_each_backbone_of_the_paper_and_at_720p() -> None:
    rows = [results.committed(source)["row"] for source in generation_memory.sources()]
    assert [row["case"] for row in rows] == [generation_memory.name_of(*case) for case in generation_memory.CASES]
    for row in rows:
        at_720p = row["case"].endswith("x1280")
        ways = ("`parts`, `--vae-tiling`", "`blocks`") if at_720p else ("yes", "`parts`")
        assert generation_memory.fits(row) in ways, row
        assert row["offload blocks"] <= row["offload parts"] <= row["offload none"]
