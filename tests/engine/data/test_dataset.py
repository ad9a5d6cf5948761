"""Reading datasets from threads, forks and pickles; one exact line for every error."""

import json
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from phys4d.engine.data.clip import blob
from phys4d.engine.data.clip.video import encode_mp4
from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.data.files.shards import ShardWriter
from phys4d.engine.data.stream import stream
from phys4d.engine.data.tools.verify import verify
from phys4d.engine.errors import UserError

Write = Callable[[dict[int, dict[str, bytes]]], Path]


def fault(dataset: ClipDataset, index: int) -> str:
    with pytest.raises(UserError) as caught:
        dataset[index]
    return str(caught.value)


def test_a_sample_is_what_was_written(write_dataset: Write, clip_members: list[dict[str, bytes]]) -> None:
    folder = write_dataset({})
    dataset = ClipDataset(folder)
    assert len(dataset) == 6 and len(list(folder.glob("*.tar"))) == 3
    for index in (5, 0, 3):
        sample = dataset[index]
        assert sample.key == f"clip-{index}" and sample.meta["caption"] == f"clip number {index}"
        assert sample.video.shape == (5, 16, 24, 3) and sample.video.dtype == np.uint8
        expected = blob.decode(clip_members[index]["truth"])
        assert sample.arrays.keys() == expected.keys()
        assert all(np.array_equal(sample.arrays[name], expected[name]) for name in expected)
    with pytest.raises(IndexError, match="clip 6 of 6"):
        dataset[6]


def test_only_the_arrays_asked_for_are_read(
    write_dataset: Write, clip_members: list[dict[str, bytes]]
) -> None:
    folder = write_dataset({})
    assert list(ClipDataset(folder, arrays=["depth"])[0].arrays) == ["depth"]
    assert ClipDataset(folder, arrays=())[0].arrays == {}
    what = "truth holds no array 'speed', only depth, depth_valid, motion"
    message = f"{folder}/shard-000000.tar: clip clip-1: {what}: see `phys4d data verify {folder}`"
    assert fault(ClipDataset(folder, arrays=["speed"]), 1) == message


def test_one_object_serves_a_fork_and_a_pickle(
    write_dataset: Write, in_child: Callable[[Callable[[], None]], int]
) -> None:
    dataset = ClipDataset(write_dataset({}))
    expected = dataset[2].video

    def reads() -> None:
        assert all(np.array_equal(dataset[2].video, expected) for _ in range(3))

    assert in_child(reads) == 0
    assert np.array_equal(dataset[2].video, expected)
    assert np.array_equal(pickle.loads(pickle.dumps(dataset))[2].video, expected)


@pytest.mark.parametrize(("threads", "prefetch"), [(1, 0), (2, 2), (4, 7)])
def test_a_stream_keeps_the_order(write_dataset: Write, threads: int, prefetch: int) -> None:
    batches = [[5, 0], [1], [2, 2, 3], [], [4]]
    got = stream(ClipDataset(write_dataset({}), arrays=()), batches, threads=threads, prefetch=prefetch)
    assert [[int(sample.key[-1]) for sample in batch] for batch in got] == batches


def test_a_stream_reads_no_further_ahead_than_asked_and_raises_in_its_place(write_dataset: Write) -> None:
    taken: list[int] = []

    def endless() -> Iterator[list[int]]:
        for index in (0, 1, 99, 2, 3):
            taken.append(index)
            yield [index]

    batches = stream(ClipDataset(write_dataset({}), arrays=()), endless(), prefetch=2)
    assert next(batches)[0].key == "clip-0" and taken == [0, 1, 99]
    assert next(batches)[0].key == "clip-1"
    with pytest.raises(IndexError, match="clip 99 of 6"):
        next(batches)


def test_a_missing_folder_or_index_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"/none: no such dataset: make one with `phys4d simulate --out .*/none --clips N`$"
    ):
        ClipDataset(tmp_path / "none")
    with pytest.raises(
        UserError, match=r"no index\.parquet in it: this is no dataset, or its writing was cut off$"
    ):
        ClipDataset(tmp_path)
    (tmp_path / "index.parquet").write_bytes(b"PAR1 but not really PAR1")
    with pytest.raises(UserError, match=r"index\.parquet: cannot be read as parquet: "):
        ClipDataset(tmp_path)


def test_a_sound_dataset_has_no_problems(write_dataset: Write) -> None:
    assert verify(write_dataset({})) == []


def test_a_truncated_shard(write_dataset: Write) -> None:
    folder = write_dataset({})
    shard = folder / "shard-000001.tar"
    member = ClipDataset(folder).row(3)["members"]["mp4"]
    os.truncate(shard, member["offset"] + 100)
    what = f"clip clip-3: mp4 is truncated: 100 of {member['size']} bytes can be read"
    assert fault(ClipDataset(folder), 3) == f"{shard}: {what}: see `phys4d data verify {folder}`"
    assert ClipDataset(folder)[2].key == "clip-2"
    problems = verify(folder)
    assert problems[0] == f"shard-000001.tar: {what}"
    assert problems[1:] == [
        f"shard-000001.tar: clip clip-3: {name} is truncated: 0 of {size} bytes can be read"
        for name, size in (
            (name, ClipDataset(folder).row(3)["members"][name]["size"]) for name in ("truth", "json")
        )
    ]


def test_shard_edges_are_the_first_and_last_clips_of_shards(write_dataset: Write) -> None:
    dataset = ClipDataset(write_dataset({}))
    assert dataset.shard_edges() == [0, 1, 2, 3, 4, 5]  # two clips in a shard
    dataset._index = dataset._index.take([0, 0, 0, 1, 1, 4])  # shards 0 and 2, of five and one clips
    assert dataset.shard_edges() == [0, 4, 5]


def test_a_missing_shard(write_dataset: Write) -> None:
    folder = write_dataset({})
    (folder / "shard-000002.tar").unlink()
    brief = "shard-000002.tar: clip clip-4: the shard cannot be opened (No such file or directory)"
    assert fault(ClipDataset(folder), 4) == f"{folder}/{brief}: see `phys4d data verify {folder}`"
    assert verify(folder) == [brief] * 3 + [brief.replace("clip-4", "clip-5")] * 3


def flip(shard: Path, position: int, bit: int) -> None:
    with open(shard, "r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1 << bit]))


def edit_members(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Changes the entry of every member in the index of a dataset."""
    index = pq.read_table(folder / "index.parquet")
    rows = index.to_pylist()
    for row in rows:
        for member in row["members"]:
            edit(member)
    schema = index.schema
    if "xxh3" not in rows[0]["members"][0]:
        kept = [field for field in schema.field("members").type.value_type if field.name != "xxh3"]
        schema = schema.set(schema.get_field_index("members"), pa.field("members", pa.list_(pa.struct(kept))))
    (folder / "manifest.json").unlink()
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "index.parquet")


@pytest.mark.parametrize("earlier", [False, True], ids=["", "index of an earlier version"])
@pytest.mark.parametrize("name", ["mp4", "truth", "json"])
def test_every_flipped_bit_of_a_member_is_refused_on_reading(
    write_dataset: Write, name: str, earlier: bool
) -> None:
    folder = write_dataset({})
    if earlier:  # without the faster digest
        edit_members(folder, lambda member: member.pop("xxh3"))
    shard, member = folder / "shard-000000.tar", ClipDataset(folder).row(0)["members"][name]
    brief = f"shard-000000.tar: clip clip-0: {name} differs from its digest in the index"
    for number in range(16):
        position = member["offset"] + number * (member["size"] - 1) // 15
        flip(shard, position, number % 8)
        assert fault(ClipDataset(folder), 0) == f"{folder}/{brief}: it is damaged, copy it again"
        if number == 0:
            assert verify(folder) == [brief]
        flip(shard, position, number % 8)
    assert ClipDataset(folder)[0].key == "clip-0" and verify(folder) == []


def test_readers_compare_the_faster_digest_and_verify_both(write_dataset: Write) -> None:
    folder = write_dataset({})
    edit_members(folder, lambda member: member.update(sha256="0" * 64))
    assert ClipDataset(folder)[0].key == "clip-0"
    wrong = [line for line in verify(folder) if "clip clip-0" in line]
    places = ["shard-000000.tar: clip clip-0: " + name for name in ClipDataset(folder).row(0)["members"]]
    assert wrong == [f"{place} differs from the sha256 in the index" for place in places]


def test_a_wrong_faster_digest_is_a_fault_beside_a_right_sha256(write_dataset: Write) -> None:
    folder = write_dataset({})
    edit_members(folder, lambda member: member.update(xxh3=7))
    assert fault(ClipDataset(folder), 0).endswith("it is damaged, copy it again")


def test_members_that_were_wrong_when_written(
    write_dataset: Write, clip_members: list[dict[str, bytes]]
) -> None:
    short = encode_mp4(np.zeros((3, 16, 24, 3), np.uint8), 12)
    long = encode_mp4(np.zeros((7, 16, 24, 3), np.uint8), 12)
    small = encode_mp4(np.zeros((5, 16, 16, 3), np.uint8), 12)
    replaced = [
        {"mp4": b"this is no video at all"},
        {"mp4": short},
        {"mp4": long},
        {"mp4": small},
        {"truth": b"no blob"},
        {"json": b'{"single": one}'},
    ]
    folder = write_dataset(dict(enumerate(replaced)))
    assert [line.split(": ", 1)[1] for line in verify(folder)] == [
        "clip clip-0: mp4 cannot be decoded: Invalid data found when processing input",
        "clip clip-1: mp4 holds 3 frames, the index says 5",
        "clip clip-2: mp4 holds 7 frames, the index says 5",
        "clip clip-3: mp4 is 16x16, the index says 16x24",
        "clip clip-4: truth is no array blob: 7 bytes beginning with b'no blob'",
        "clip clip-5: json is no JSON: Expecting value: line 1 column 12 (char 11)",
    ]
    dataset = ClipDataset(folder)
    assert "clip clip-1: mp4 holds 3 frames, expected frames 0..4: see" in fault(dataset, 1)
    for index in (0, 3, 4, 5):
        assert f"clip clip-{index}: " in fault(dataset, index)


def test_a_clip_without_truth(
    write_dataset: Write, tmp_path: Path, clip_members: list[dict[str, bytes]]
) -> None:
    with ShardWriter(tmp_path / "videos") as writer:
        members = {name: clip_members[0][name] for name in ("mp4", "json")}
        writer.add("only", members, 5, 12.0, 16, 24)
    assert ClipDataset(tmp_path / "videos")[0].arrays == {}
    assert json.loads(clip_members[0]["json"]) == ClipDataset(tmp_path / "videos").meta(0)
    message = "clip only: truth is not there, the clip has only mp4, json"
    assert message in fault(ClipDataset(tmp_path / "videos", arrays=["depth"]), 0)
    assert verify(tmp_path / "videos") == []
