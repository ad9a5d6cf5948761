"""Counts of a dataset, by hand, as a table and as bars; and the check of every clip by several threads."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from phys4d.cli import main
from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.data.files.clip_index import ClipIndex
from phys4d.engine.data.files.shards import ShardWriter
from phys4d.engine.data.tools.statistics import readable, statistics
from phys4d.engine.data.tools.verify import verify
from phys4d.engine.errors import UserError
from tests.engine.servers import web_server

Write = Callable[[dict[int, dict[str, bytes]]], Path]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with ShardWriter(tmp_path / "clips", shard_bytes=3000) as writer:
        for number in range(12):
            caption = " ".join(["word"] * number)
            meta = {"caption": caption, "category": "fluid" if number < 3 else "rigid"}
            members = {"mp4": bytes(100 + number), "json": json.dumps(meta).encode()}
            writer.add(f"c{number:02d}", members, 13 if number % 2 else 25, 12.5 if number < 6 else 24, 16, 24 + number)
    return tmp_path / "clips"


def test_counts_by_hand(folder: Path) -> None:
    found = statistics(ClipIndex(folder))
    assert (found.clips, found.shards, found.frames) == (12, len(list(folder.glob("*.tar"))), 6 * 13 + 6 * 25)
    assert found.seconds == pytest.approx((3 * 13 + 3 * 25) / 12.5 + (3 * 13 + 3 * 25) / 24)
    assert found.members["mp4"] == sum(range(100, 112)) and found.members.keys() == {"json", "mp4"}
    assert found.counts["frames of a clip"] == [("13", 6), ("25", 6)]
    assert found.counts["frames a second"] == [("12.5", 6), ("24", 6)]
    assert found.counts["category"] == [("rigid", 9), ("fluid", 3)]
    assert found.counts["height x width, px"][0] == ("16x24", 1)
    assert found.counts["height x width, px"][-1] == ("2 others", 2) and len(found.counts["height x width, px"]) == 11
    assert found.counts["words of a caption"] == [
        ("0", 1), ("1", 1), ("2 to 3", 2), ("4", 1), ("5", 1), ("6 to 7", 2), ("8", 1), ("9 to 11", 3),
    ]  # fmt: skip
    seconds = found.counts["seconds of a clip"]
    assert seconds[0] == ("0.5417 to 0.724", 3) and sum(count for _, count in seconds) == 12
    assert "family" not in found.counts and "source" not in found.counts
    assert "  rigid          9   75.0%" in found.lines()
    assert [readable(size) for size in (0, 1023, 1536, 5 << 40)] == ["0 B", "1023 B", "1.5 KiB", "5.00 TiB"]


def test_the_command_prints_a_table_and_draws_bars(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "stats.png"
    with web_server(tmp_path) as server:
        assert main(["data", "stats", f"{server.url}/clips", "--out", str(out)]) == 0
        assert [path for path, _ in server.sent if path.endswith("tar")] == []
    said = capsys.readouterr().out
    assert "12 clips in" in said and "  fluid          3   25.0%" in said
    picture = np.asarray(Image.open(out).convert("RGB")).astype(int)
    blue = (picture == (30, 136, 229)).all(axis=2)
    bars = [row for row in np.unique(blue.sum(axis=1)) if row]
    assert len(bars) > 3 and blue.sum() > 10_000
    assert main(["data", "stats", str(folder), "--out", str(tmp_path / "stats.gif")]) == 2
    assert "expected a name that ends in .png" in capsys.readouterr().err
    with ShardWriter(tmp_path / "empty"):
        pass
    with pytest.raises(UserError, match="empty: holds no clips"):
        statistics(ClipIndex(tmp_path / "empty"))


def test_a_clip_of_one_value_and_a_caption_that_is_cut(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "clips") as writer:
        writer.add("a", {"json": json.dumps({"caption": "word " * 300}).encode()}, 13, 24, 16, 24)
    found = statistics(ClipIndex(tmp_path / "clips"))
    assert found.counts["words of a caption in its first 1024 bytes"] == [("205", 1)]
    assert found.counts["seconds of a clip"] == [("0.5417", 1)]


def test_every_bad_clip_is_named_in_order_by_any_number_of_threads(
    write_dataset: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_dataset({1: {"json": b"{"}, 4: {"truth": b"x"}})
    table = pq.read_table(folder / "index.parquet")
    captions = table.column("caption").to_pylist()
    changed = pa.array([*captions[:3], "another", *captions[4:]])
    (folder / "manifest.json").unlink()
    place = table.column_names.index("caption")
    pq.write_table(table.set_column(place, "caption", changed), folder / "index.parquet")
    read: list[tuple[str, str]] = []
    real = ClipDataset.member
    monkeypatch.setattr(ClipDataset, "member", lambda *given: read.append((given[1]["key"], given[2])) or real(*given))
    one, several = verify(folder), verify(folder, workers=3)
    assert one == several
    assert [line.split(": ")[1] for line in one] == ["clip clip-1", "clip clip-3", "clip clip-4"]
    assert "json caption: is 'clip number 3', the index says 'another'" in one[1]
    assert len(read) == 2 * 18 and len(set(read)) == 18  # each member once
    with pytest.raises(UserError, match="--workers 0: expected 1 or more"):
        verify(folder, workers=0)
