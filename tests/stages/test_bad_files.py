"""Every kind of bad file through every reader: refused in one line that names shard and key, and nothing is left."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from phys4d.caches.source import Source
from phys4d.caches.write import encode_dataset
from phys4d.engine.data.clip import blob
from phys4d.engine.data.clip.video import encode_mp4
from phys4d.engine.data.dataset import ClipDataset, ClipFault
from phys4d.engine.data.files.shards import ShardWriter
from phys4d.engine.data.tools.verify import verify
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import UserError
from phys4d.teachers.label import label_dataset
from tests.engine.data import video_clips
from tests.engine.data.test_hostile_datasets import with_header
from tests.teachers.test_label import Ramp, Shift

FRAMES, SIZE = 5, 16
K = [[20.0, 0, 8], [0, 20, 8], [0, 0, 1]]
NOISE = np.random.default_rng(0).integers(0, 255, (FRAMES, SIZE, SIZE, 3)).astype(np.uint8)
META = {"caption": "a square", "intrinsics": [K] * FRAMES}
SOUND = {
    "mp4": encode_mp4(NOISE, 24),
    "truth": blob.encode({"depth": np.ones((FRAMES, SIZE, SIZE), np.float32)}),
    "json": json.dumps(META).encode(),
}
Row = dict[str, Any]
READERS: dict[str, Callable[[Path, Path], object]] = {
    "read": lambda folder, out: ClipDataset(folder)[1],
    "verify": lambda folder, out: _first(verify(folder), folder),
    "label": lambda folder, out: label_dataset(folder, out, Ramp(), Shift()),
    "encode": lambda folder, out: encode_dataset(folder, out, Source("tiny", None), Parallel.alone()),
}
PIXELS = ("label", "encode")
"""Readers that never open truth."""


def _first(problems: list[str], folder: Path) -> None:
    """Raises the first problem; `verify` lists what others raise."""
    if problems:
        raise ClipFault(folder, "clip1", problems[0])


def member(**changed: bytes) -> Callable[[Path], Path]:
    """Clip 1 of three has these members, with digests that are right."""

    def write(folder: Path) -> Path:
        with ShardWriter(folder) as writer:
            for clip in range(3):
                members = SOUND | (changed if clip == 1 else {})
                writer.add(f"clip{clip}", {n: d for n, d in members.items() if d != b"none"}, FRAMES, 24, SIZE, SIZE)
        return folder

    return write


def damage(change: Callable[[Path, Row], object]) -> Callable[[Path], Path]:
    """A shard that is changed after it was written."""

    def write(folder: Path) -> Path:
        row = ClipDataset(member()(folder)).row(1)
        change(folder / row["shard"], row)
        return folder

    return write


def overwrite(name: str, at: int) -> Callable[[Path, Row], object]:
    def change(shard: Path, row: Row) -> None:
        data = bytearray(shard.read_bytes())
        data[row["members"][name]["offset"] + at] ^= 1
        shard.write_bytes(data)

    return change


def cut(shard: Path, row: Row) -> None:
    with open(shard, "r+b") as file:
        file.truncate(row["members"]["mp4"]["offset"] + 100)


def link(shard: Path, row: Row) -> None:
    shard.unlink()
    shard.symlink_to("/dev/zero")


def claiming(frames: int) -> bytes:
    """The mp4 whose table of sizes claims so many frames."""
    data = bytearray(SOUND["mp4"])
    at = data.index(b"stsz") + 12
    assert int.from_bytes(data[at : at + 4]) == FRAMES
    data[at : at + 4] = frames.to_bytes(4)
    return bytes(data)


def huge(header: dict[str, Any]) -> None:
    header["arrays"][0]["shape"] = [10**6, 10**6]


BAD: dict[str, tuple[Callable[[Path], Path], str, bool]] = {  # how it is made, its fault, whether it is in truth
    **{name: (member(mp4=data), "mp4 ", False) for name, data in video_clips.bad(SOUND["mp4"]).items()},
    "no mp4": (member(mp4=b"none"), "mp4 is not there", False),
    "too few frames": (member(mp4=encode_mp4(NOISE[:4], 24)), "mp4 holds 4 frames", False),
    "too large": (
        member(mp4=encode_mp4(np.zeros((FRAMES, 1024, 1024, 3), np.uint8), 24)), "mp4 is 1024x1024, the index", False,
    ),
    "too many frames": (member(mp4=claiming(2**31)), "mp4 claims 2147483648 frames", False),
    "no json": (member(json=b"none"), "json is not there", False),
    "empty json": (member(json=b""), "json ", False),
    "deep json": (member(json=b"[" * 100_000), "json ", False),
    "json of another clip": (member(json=json.dumps(META | {"frames": 7}).encode()), "json frames: is 7", False),
    "json without a camera": (member(json=json.dumps({"caption": "a"}).encode()), "json has no intrinsics", False),
    "truth that is none": (member(truth=b"hello"), "truth is no array blob", True),
    "empty truth": (member(truth=b""), "truth is no array blob: 0 bytes", True),
    "truth of terabytes": (member(truth=with_header(SOUND["truth"], huge)), "truth array 'depth'", True),
    "one bit of the video": (damage(overwrite("mp4", 700)), "mp4 differs from its digest in the index", False),
    "one bit of the json": (damage(overwrite("json", 5)), "json differs from its digest in the index", False),
    "one bit of the truth": (damage(overwrite("truth", 40)), "truth differs from its digest in the index", True),
    "a shard that is cut": (damage(cut), "mp4 is truncated: 100 of", False),
    "an empty shard": (damage(lambda shard, row: shard.write_bytes(b"")), "mp4 is truncated: 0 of", False),
    "a shard that is gone": (damage(lambda shard, row: shard.unlink()), "the shard cannot be opened (No such", False),
    "a shard that is a device": (damage(link), "the shard cannot be opened (it is no regular file)", False),
}  # fmt: skip
WHOLE_SHARD = ("an empty shard", "a shard that is gone", "a shard that is a device")
REQUIRED_ELSEWHERE = ("json without a camera",)  # reading without `required` does not ask for it


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_named_by_every_reader(name: str, tmp_path: Path) -> None:
    write, fault, in_truth = BAD[name]
    folder = write(tmp_path / "data")
    key = "clip0" if name in WHOLE_SHARD else "clip1"
    for reader, read in READERS.items():
        if (in_truth and reader in PIXELS) or (reader == "read" and name in REQUIRED_ELSEWHERE):
            read(folder, tmp_path / reader)
            continue
        expected = "clip1" if reader == "read" else key
        with pytest.raises(ClipFault) as caught:
            read(folder, tmp_path / reader)
        message = str(caught.value)
        assert message.startswith(f"{folder}/shard-000000.tar: clip {expected}: {fault}"), (reader, message)
        assert message.isprintable() and caught.value.key in (expected, "clip1")
        assert not (tmp_path / reader).exists()


def test_a_member_that_the_index_has_twice(tmp_path: Path) -> None:
    index = member()(tmp_path / "data") / "index.parquet"
    table = pq.read_table(index)
    rows = table.to_pylist()
    rows[1]["members"].append(rows[0]["members"][0])
    pq.write_table(pa.Table.from_pylist(rows, table.schema), index)
    (tmp_path / "data" / "manifest.json").unlink()
    with pytest.raises(UserError, match="shard-000000.tar: clip clip1: mp4 is in the index twice"):
        READERS["encode"](tmp_path / "data", tmp_path / "out")
