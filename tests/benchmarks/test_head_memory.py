"""Counts of the heads' memory."""

import pytest

from phys4d.benchmarks import head_memory, results
from phys4d.models.heads import HeadConfig
from phys4d.models.interface import Grid


def test_reading_with_the_linear_head_takes_the_modulated_tokens_and_the_result() -> None:
    """The motion head's projection is the largest part: tokens x 3 x pixels; depth's result is there already."""
    case = head_memory.Case("small", Grid(9, 64, 64, (4, 32, 32)), 8, 5)
    with head_memory.FakeTensorMode(allow_non_fake_inputs=True):
        figures = head_memory.count(case, HeadConfig(kind="linear"), "read")
    assert figures["weights_m"] == pytest.approx(2 * (65 * 16 + 16) / 1e6 + (8 + 1) * 4 * 4096 / 1e6)
    pixels = 3 * 4 * 4096 * 4 / head_memory.GIB  # of three token frames of four tokens, four frames each, in fp32
    assert 2 * 3 * pixels < figures["gib"] < 10 * pixels


def test_the_committed_counts_are_of_every_kind_and_chunks_save_most_of_it() -> None:
    """At 49 x 480 x 832 of Wan2.2-TI2V-5B conv and dpt take below 2 GiB, under a quarter of the whole."""
    rows = results.committed("head-memory.json")["rows"]
    kinds = [(case, kind) for case in head_memory.CASES for kind in head_memory.KINDS]
    assert [(row["case"], row["kind"]) for row in rows] == kinds
    for row in rows:
        assert row["read_gib"] <= row["pretrain_gib"] <= row["finetune_gib"] <= row["whole_gib"]
        if row["case"] == "wan2.2-ti2v-5b 49x480x832" and row["kind"] != "linear":
            assert row["finetune_gib"] < min(2, row["whole_gib"] / 4)
