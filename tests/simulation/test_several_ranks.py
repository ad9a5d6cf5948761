"""Ranks that share a simulation write the clips of one process, each its own; rank 0 says for which others it waits."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.data.files.journal import journal_name, partial_folder
from phys4d.engine.data.tools.verify import verify
from phys4d.engine.errors import UserError
from phys4d.simulation import distributed
from phys4d.simulation.distributed import ProcessRank
from phys4d.simulation.generate import SimulateConfig, simulate
from phys4d.simulation.summary import Summary

CONFIG = SimulateConfig(clips=5, size=(16, 16), frames=9, fps=8, families=("fall",))
WORDS = ["--clips", "5", "--size", "16", "--frames", "9", "--fps", "8", "--family", "fall", "--workers", "1"]


def run(out: Path, rank: int = 0, world_size: int = 1) -> Summary:
    return simulate(CONFIG, out, workers=1, process_rank=ProcessRank(rank, world_size))


def rows(folder: Path) -> list[dict[str, Any]]:
    """Rows of the index without the place of each clip in the shards; the digests are those of its bytes."""
    whole = pq.read_table(folder / "index.parquet").drop(["shard"]).to_pylist()
    return [row | {"members": [member | {"offset": 0} for member in row["members"]]} for row in whole]


def shards(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix == ".tar")


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset that one process writes."""
    folder = tmp_path_factory.mktemp("ranks") / "one"
    run(folder)
    assert shards(folder) == ["shard-000000.tar"]
    return folder


def is_that_of_one(folder: Path, one: Path) -> bool:
    left = [path.name for path in folder.parent.iterdir() if path.name.startswith(".")]
    found = {path.name for path in folder.iterdir()} - {*shards(folder)}
    assert left == [] and found == {"index.parquet", "manifest.json"} and verify(folder) == []
    return rows(folder) == rows(one) and [row["key"] for row in rows(one)] == [f"clip00000{i}" for i in range(5)]


def test_each_rank_writes_its_own_shards_and_the_index_is_that_of_one(one: Path, tmp_path: Path) -> None:
    out = tmp_path / "two"
    assert run(out, 1, 2).clips == {"rigid": 2}  # first, as a fast machine would, and rank 0 need not run meanwhile
    assert not out.exists()
    assert run(out, 0, 2).clips == {"rigid": 5}
    assert is_that_of_one(out, one) and shards(out) == ["shard-000000.tar", "shard-1-000000.tar"]
    dataset = ClipDataset(out)
    assert [dataset.row(i)["shard"] for i in range(5)] == [shards(out)[i % 2] for i in range(5)]
    assert run(out, 1, 2).clips == {}  # complete


def test_an_absent_rank_is_named_while_it_is_awaited_and_another_number_of_ranks_goes_on(
    one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "three"
    run(out, 2, 3)
    monkeypatch.setattr(distributed, "SILENCE", 0.8)
    monkeypatch.setattr(distributed, "SAY", 0.3)
    with pytest.raises(UserError, match="three: rank 1 gave no sign of life for 1 s: start all ranks .* are kept"):
        run(out, 0, 3)
    said = [line for line in capsys.readouterr().err.splitlines() if "rank 0 waits for" in line]
    assert len(said) >= 2 and said[0] == "simulate: rank 0 waits for rank 1 (never seen 0 s): 2 clips are missing"
    assert not out.exists()
    assert run(out).clips == {"rigid": 2}  # clips 1 and 4
    assert is_that_of_one(out, one) and shards(out) == ["shard-000000.tar", "shard-2-000000.tar"]


def test_a_killed_rank_is_missed_and_goes_on_behind_its_clips(
    one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "two"

    def begun(rank: int) -> subprocess.Popen[str]:
        words = [sys.executable, "-m", "phys4d", "simulate", "--out", str(out), *WORDS]
        environment = os.environ | {"RANK": str(rank), "WORLD_SIZE": "2"}
        return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    killed, journal = begun(1), partial_folder(out) / journal_name(1)
    while killed.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") == 2):
        time.sleep(0.005)
    killed.kill()
    killed.communicate(timeout=60)
    assert journal.read_bytes().count(b"\n") == 2, "it was killed behind its first clip"
    with monkeypatch.context() as patched:
        patched.setattr(distributed, "SILENCE", 1.0)
        with pytest.raises(UserError, match="two: rank 1 gave no sign of life"):
            run(out, 0, 2)
    again = begun(1)
    counted, said = again.communicate(timeout=120)
    assert again.returncode == 0 and counted.startswith("rigid: 1 clips")
    assert "rank 1 of 2: all its clips are written; rank 0 makes the index" in said
    assert run(out, 0, 2).clips == {"rigid": 1}  # of this call: the second of rank 1
    assert is_that_of_one(out, one)


def test_a_rank_that_ended_before_is_not_taken_for_one_that_has_ended_now(
    one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank 1 of 3 has made clips 1 and 4; of 2, it has clip 3 to make, and its earlier end does not count."""
    out = tmp_path / "again"
    run(out, 1, 3)
    monkeypatch.setattr(distributed, "SILENCE", 0.5)
    with pytest.raises(UserError, match="rank 1 gave no sign of life"):
        run(out, 0, 2)
    run(out, 1, 2)
    run(out, 0, 2)
    assert is_that_of_one(out, one)
