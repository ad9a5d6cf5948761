"""Indexes that are damaged, claim more than they hold or lead out of the dataset: one line, before rows are used."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.data.files.index import read_index
from phys4d.engine.data.files.shards import SCHEMA
from phys4d.engine.errors import UserError

Write = Callable[[dict[int, dict[str, bytes]]], Path]


@pytest.fixture
def write_dataset(write_dataset: Write) -> Write:
    """Without the manifest, as another program or a hostile writer leaves it."""

    def write(replaced: dict[int, dict[str, bytes]]) -> Path:
        folder = write_dataset(replaced)
        (folder / "manifest.json").unlink()
        return folder

    return write


def reindexed(folder: Path, change: Callable[[list[dict[str, Any]]], object]) -> Path:
    rows = pq.read_table(folder / "index.parquet").to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / "index.parquet", compression="zstd")
    return folder


def first(**changed: Any) -> Callable[[list[dict[str, Any]]], object]:
    return lambda rows: rows[0].update(changed)


def member(**changed: Any) -> Callable[[list[dict[str, Any]]], object]:
    return lambda rows: rows[1]["members"][0].update(changed)


ROWS = {
    "a shard above": (first(shard="../shard-000000.tar"), r"row 1: shard: expected the name of a file in the dataset"),
    "a shard anywhere": (first(shard="/etc/passwd"), r"row 1: shard: .* got '/etc/passwd'"),
    "a hidden shard": (first(shard=".lock"), "row 1: shard"),
    "no shard": (first(shard=None), "shard: a row has none"),
    "a key that writes": (first(key="a\x1b[2J\nall clips are whole"), r"row 1: key: .*'a\\x1b\[2J\\nall"),
    "a long key": (first(key="k" * 300), "key: a text of more than 255 bytes"),
    "a key twice": (first(key="clip-1"), "key: two clips have the same one"),
    "no frames": (first(frames=0), "row 1: frames: expected 1 to 100000, got 0"),
    "many frames": (first(frames=100_001), "row 1: frames: expected 1 to 100000"),
    "a large picture": (first(height=2**30, width=2**30), "row 1: height"),
    "a negative width": (first(width=-24), "row 1: height"),
    "a long video": (first(frames=90_000, height=1000), "row 1: frames: frames of more than 2147483648 bytes"),
    "fps that is no number": (first(fps=float("nan")), "row 1: fps"),
    "infinite fps": (first(fps=float("inf")), "row 1: fps"),
    "no members": (first(members=[]), "members: expected 1 to 16 of each clip"),
    "many members": (lambda rows: rows[0].update(members=rows[0]["members"] * 6), "members: expected 1 to 16"),
    "a negative offset": (member(offset=-1), "members: an offset below 0"),
    "a huge offset": (member(offset=2**63 - 1), "members: an offset below 0"),
    "a huge size": (member(size=2**40), "members: an offset below 0, or a size not from 0 to 2147483648"),
    "no digest": (member(sha256=""), "members: sha256: expected 64 hexadecimal digits"),
    "a name that writes": (member(name="mp4\x1b[2J"), "members: name: expected 1 to 16 small letters"),
    "a field that is absent": (member(offset=None), "members: one lacks a field"),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_the_index_that_is_wrong(write_dataset: Write, name: str) -> None:
    change, fault = ROWS[name]
    with pytest.raises(UserError, match=f"index.parquet: {fault}") as caught:
        ClipDataset(reindexed(write_dataset({}), change))
    assert str(caught.value).isprintable()


def test_an_index_of_other_columns(write_dataset: Write) -> None:
    folder = write_dataset({})
    table = pq.read_table(folder / "index.parquet")
    numbers = pa.array(range(table.num_rows))
    for changed, fault in (
        (table.drop_columns(["shard"]), "has no column shard"),
        (table.set_column(0, "key", numbers), "key: has the type int64, expected strings"),
        (table.set_column(2, "frames", table.column("key")), "has a column of another type"),
        (table.set_column(6, "members", numbers), "has a column of another type"),
        (table.slice(0, 0), None),
    ):
        pq.write_table(changed, folder / "index.parquet")
        if fault is None:
            assert len(ClipDataset(folder)) == 0
            continue
        with pytest.raises(UserError, match=f"index.parquet: {fault}"):
            ClipDataset(folder)


def test_an_index_that_repeats_a_long_text_is_not_unpacked(write_dataset: Write) -> None:
    """Four kilobytes that hold 4,000 rows with a key of 100,000 bytes: 400 MB as strings."""
    folder = write_dataset({})
    row = pq.read_table(folder / "index.parquet").slice(0, 1).to_pylist()[0]
    keys = pa.DictionaryArray.from_arrays(pa.array([0] * 4000, pa.int32()), pa.array(["k" * 100_000]))
    rest = pa.Table.from_pylist([row] * 4000, SCHEMA).drop_columns(["key"])
    pq.write_table(rest.add_column(0, "key", keys), folder / "index.parquet", compression="zstd")
    assert (folder / "index.parquet").stat().st_size < 5000
    before = pa.total_allocated_bytes()
    with pytest.raises(UserError, match=r"index\.parquet: key: a text of more than 255 bytes"):
        ClipDataset(folder)
    assert pa.default_memory_pool().max_memory() - before < 100 << 20


def test_an_index_of_more_rows_than_its_bytes_can_hold(write_dataset: Write) -> None:
    folder = write_dataset({})
    row = pq.read_table(folder / "index.parquet").slice(0, 1).to_pylist()[0]
    pq.write_table(pa.Table.from_pylist([row] * 50_000, SCHEMA), folder / "index.parquet", compression="zstd")
    with pytest.raises(UserError, match=r"index\.parquet: claims 50000 clips in \d+ bytes"):
        ClipDataset(folder)


def test_a_further_column_of_digests(write_dataset: Write) -> None:
    folder = write_dataset({})
    table = pq.read_table(folder / "index.parquet").select(SCHEMA.names)
    count = table.num_rows
    long = pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array(["0" * 100_000]))
    columns = {
        "has no column source": None,
        "source: has the type int64, expected strings": pa.array(range(count)),
        "source: a text of more than 255 bytes": long,
        f"row {count}: source: expected 64 hexadecimal digits, got '0a'": pa.array(["0a" * 32] * (count - 1) + ["0a"]),
        "source: a row has none": pa.array(["0a" * 32] * (count - 1) + [None]),
    }
    for fault, column in columns.items():
        changed = table if column is None else table.append_column("source", column)
        pq.write_table(changed, folder / "index.parquet")
        with pytest.raises(UserError, match=f"index.parquet: {fault}"):
            read_index(folder, ("source",))
        assert len(ClipDataset(folder)) == count
    pq.write_table(table.append_column("source", pa.array(["0a" * 32] * count)), folder / "index.parquet")
    assert read_index(folder, ("source",)).column("source").to_pylist() == ["0a" * 32] * count
