"""The texts of clips in the index: what is written, what is read of older indexes, and clips chosen by them."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.data.files.columns import TEXTS
from phys4d.engine.data.files.index import read_index
from phys4d.engine.data.files.shards import SCHEMA, ShardWriter
from phys4d.engine.errors import UserError

STATED: list[dict[str, Any]] = [
    {
        "caption": "a ball", "category": "rigid", "family": "fall",
        "provenance": {"source": "phys4d.simulation", "seed": 7},
    },
    {
        "caption": "water", "category": "fluid", "depth_kind": "metric",
        "provenance": {"source": "video", "file": "sea/wave.mp4"},
    },
    {"caption": "é" * 600, "category": "fluid", "source": "web", "depth_kind": "affine_disparity", "seed": "9"},
    {"caption": 3, "category": None, "family": "\ud800x", "provenance": {"seed": True}},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dataset of five clips, of which the json of the last cannot be read."""
    with ShardWriter(tmp_path / "clips") as writer:
        for number, meta in enumerate([*(json.dumps(meta).encode() for meta in STATED), b"{"]):
            writer.add(f"c{number}", {"mp4": b"x", "json": meta}, 5 + number % 2, 24 + number / 2, 16, 24)
    return tmp_path / "clips"


def test_the_writer_takes_the_texts_from_the_json(folder: Path) -> None:
    dataset = ClipDataset(folder)
    assert {name: dataset.column(name).to_pylist() for name in TEXTS} == {
        "caption": ["a ball", "water", "é" * 512, "", ""],
        "category": ["rigid", "fluid", "fluid", "", ""],
        "family": ["fall", "", "", "?x", ""],
        "source": ["phys4d.simulation", "sea/wave.mp4", "web", "", ""],
        "depth_kind": ["", "metric", "affine_disparity", "", ""],
        "seed": ["7", "", "", "", ""],
    }
    assert dataset.column("fps").to_pylist() == [24, 24.5, 25, 25.5, 26]
    assert dataset.column("key").to_pylist() == [f"c{number}" for number in range(5)]
    with pytest.raises(UserError, match=r"clips: no column 'members': expected caption, category, family, source, de"):
        dataset.column("members")


@pytest.mark.parametrize(
    ("where", "keys"),
    [
        ({"category": ["fluid", "soft"]}, ["c1", "c2"]),
        ({"category": {"fluid", "rigid"}, "frames": (5,)}, ["c0", "c2"]),
        ({"fps": [24.5, 26]}, ["c1", "c4"]),
        ({"height": [16], "width": [24]}, ["c0", "c1", "c2", "c3", "c4"]),
        ({"source": [""]}, ["c3", "c4"]),
        ({"depth_kind": ["affine_disparity"]}, ["c2"]),
        ({"seed": ["7"]}, ["c0"]),
    ],
)
def test_only_the_clips_of_the_allowed_values_are_there(folder: Path, where: dict[str, Any], keys: list[str]) -> None:
    dataset, every = ClipDataset(folder, where=where), ClipDataset(folder)
    assert dataset.keys().to_pylist() == keys and len(dataset) == len(keys)
    assert [dataset.row(number)["key"] for number in range(len(keys))] == keys
    whole = dict(zip(every.keys().to_pylist(), every.column("caption").to_pylist(), strict=True))
    assert dataset.column("caption").to_pylist() == [whole[key] for key in keys]
    assert dataset.digests("mp4").to_pylist() == every.digests("mp4").to_pylist()[: len(keys)]
    assert dataset.shard_edges()[-1] == len(keys) - 1


@pytest.mark.parametrize(
    ("where", "fault"),
    [
        ({"colour": ["red"]}, "no column 'colour': expected caption, category, family, source, depth_kind, seed"),
        ({"category": "fluid"}, "category: expected a list of values, got 'fluid'"),
        ({"category": [3]}, "category: expected texts, got 3"),
        ({"frames": ["5"]}, "frames: expected numbers, got '5'"),
        ({"frames": [True]}, "frames: expected numbers, got True"),
        ({"category": ["gas"]}, r"no clip has category 'gas': there are '', 'fluid', 'rigid'$"),
        ({"category": []}, r"no clip has category none: there are"),
        (
            {"category": ["fluid"], "fps": [24, 26]},
            r"no clip has fps 24, 26 among those of category 'fluid': there are 24.5, 25$",
        ),
    ],
)
def test_a_choice_that_is_wrong_or_empty(folder: Path, where: dict[str, Any], fault: str) -> None:
    with pytest.raises(UserError, match=f"clips: where: {fault}"):
        ClipDataset(folder, where=where)


def test_an_index_of_an_earlier_version_has_empty_texts(folder: Path) -> None:
    table = pq.read_table(folder / "index.parquet").select(SCHEMA.names)
    (folder / "manifest.json").unlink()
    pq.write_table(table, folder / "index.parquet")
    assert ClipDataset(folder).column("category").to_pylist() == [""] * 5
    assert len(ClipDataset(folder, where={"frames": [6]})) == 2
    with pytest.raises(UserError, match="category 'fluid': no clip states its category, or the index was written bef"):
        ClipDataset(folder, where={"category": ["fluid"]})


def test_a_writer_goes_on_after_one_that_noted_no_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phys4d.engine.data.files.shards.texts_of", lambda members: {})
    with pytest.raises(ZeroDivisionError), ShardWriter(tmp_path / "clips", recipe="seed 1") as writer:
        writer.add("a", {"json": b'{"category": "rigid"}'}, 1, 24, 2, 2)
        raise ZeroDivisionError
    monkeypatch.undo()
    with ShardWriter(tmp_path / "clips", recipe="seed 1") as writer:
        writer.add("b", {"json": b'{"category": "rigid"}'}, 1, 24, 2, 2)
    assert ClipDataset(tmp_path / "clips").column("category").to_pylist() == ["", "rigid"]


@pytest.mark.parametrize(("name", "most"), [("caption", 1024), ("category", 255)])
def test_a_text_longer_than_a_writer_leaves(folder: Path, name: str, most: int) -> None:
    table = pq.read_table(folder / "index.parquet").drop_columns([name])
    (folder / "manifest.json").unlink()
    for count, fault in ((most, None), (most + 1, f"{name}: a text of more than {most} bytes"), (0, "a row has none")):
        texts = pa.array(["x" * count] * 5) if count else pa.array([None] * 5, pa.string())
        pq.write_table(table.append_column(name, texts), folder / "index.parquet")
        if fault is None:
            assert read_index(folder, texts=(name,)).column(name).to_pylist() == ["x" * most] * 5
            continue
        with pytest.raises(UserError, match=fault):
            read_index(folder, texts=(name,))
        assert len(ClipDataset(folder)) == 5


def test_a_dataset_that_is_replaced_while_it_is_open(folder: Path) -> None:
    datasets = [ClipDataset(folder), ClipDataset(folder, where={"category": ["rigid", "fluid"]})]
    table = pq.read_table(folder / "index.parquet")
    (folder / "manifest.json").unlink()
    pq.write_table(table.slice(1), folder / "index.parquet")
    for dataset in datasets:
        with pytest.raises(UserError, match="clips: the dataset was replaced while it was read: start again"):
            dataset.column("caption")
