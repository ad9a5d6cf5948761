"""The dataset card: its numbers by hand, what it defines, and that other readers take the folder as it is."""

import json
from pathlib import Path

import numpy as np
import pytest
import webdataset

from phys4d.cli import main
from phys4d.engine.data.clip import blob
from phys4d.engine.data.files.shards import ShardWriter
from phys4d.engine.data.tools.card import ARRAYS, CARD, write_card
from phys4d.engine.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three clips of 25 frames at 24 fps; two of category rigid, two of seed 7."""
    truth = blob.encode({"depth": np.ones((25, 4, 6), np.float32), "own": np.ones(3, np.uint8)})
    with ShardWriter(tmp_path / "clips") as writer:
        for number, (category, seed) in enumerate([("rigid", 7), ("rigid", 8), ("fluid", 7)]):
            meta = {
                "caption": "a | b", "category": category, "family": "fall", "intrinsics": [np.eye(3).tolist()] * 25,
                "provenance": {"source": "phys4d.simulation", "seed": seed},
            }  # fmt: skip
            members = {"mp4": bytes(100), "truth": truth, "json": json.dumps(meta).encode()}
            writer.add(f"c{number}", members, 25, 24, 4, 6)
    return tmp_path / "clips"


def test_the_card_states_counts_sizes_licence_seeds_and_definitions(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "card", str(folder), "--licence", "cc-by-4.0"]) == 0
    assert str(folder / CARD) in capsys.readouterr().out
    lines = (folder / CARD).read_text().splitlines()
    assert lines[:2] == ["---", "license: cc-by-4.0"] and '    path: "*.tar"' in lines
    assert "3 clips in 1 shards, 75 frames, 3 s (0.00 h). Licence: cc-by-4.0." in lines
    for row in ("| rigid | 2 | 66.7% |", "| 7 | 2 | 66.7% |", "| 4x6 | 3 | 100.0% |", "| `mp4` | 300 B | 100 B |"):
        assert row in lines, row
    assert f"| `depth` | float32 [25, 4, 6] | {ARRAYS['depth']} |" in lines
    assert "| `own` | uint8 [3] | not defined by this program |" in lines
    assert any(line.startswith("| `caption` |") for line in lines)
    assert not any(line.startswith("| `tracks` |") for line in lines)  # the clips have none


def test_a_card_is_written_again_and_another_file_is_kept(folder: Path) -> None:
    write_card(folder, licence="mit")
    write_card(folder, licence="cc0-1.0")
    assert "license: cc0-1.0" in (folder / CARD).read_text()
    (folder / CARD).write_text("mine")
    with pytest.raises(UserError, match=r"README.md: is not a card that this program wrote"):
        write_card(folder, licence="mit")
    with pytest.raises(UserError, match="--licence Creative Commons: expected an identifier"):
        write_card(folder, licence="Creative Commons")


def test_every_array_of_the_schema_is_defined() -> None:
    from phys4d.engine.data.clip.schema import ARRAYS as known

    assert set(known) <= set(ARRAYS)


def test_webdataset_reads_the_folder_with_its_card(folder: Path) -> None:
    write_card(folder, licence="mit")
    clips = list(webdataset.WebDataset(str(folder / "shard-000000.tar"), shardshuffle=False))
    assert [clip["__key__"] for clip in clips] == ["c0", "c1", "c2"]
    assert {"mp4", "truth", "json"} <= clips[0].keys()
