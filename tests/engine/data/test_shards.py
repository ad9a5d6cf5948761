"""Writing datasets: readable by any tar reader, correct offsets, identical bytes, never partially visible."""

import hashlib
import os
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.data.files import shards
from phys4d.engine.data.files.journal import JOURNAL
from phys4d.engine.data.files.shards import ShardWriter
from phys4d.engine.errors import UserError

clips = st.lists(
    st.dictionaries(st.sampled_from(["mp4", "truth", "json"]), st.binary(max_size=1500), min_size=1),
    max_size=6,
)


def write(folder: Path, members: list[dict[str, bytes]], shard_bytes: int) -> Path:
    with ShardWriter(folder, shard_bytes=shard_bytes) as writer:
        for number, clip in enumerate(members):
            writer.add(f"k{number}", clip, frames=5, fps=24, height=16, width=24)
    return folder


@settings(max_examples=40, deadline=None)
@given(members=clips, shard_bytes=st.sampled_from([1, 4096, 1 << 20]))
def test_tarfile_and_the_index_find_every_member(
    members: list[dict[str, bytes]], shard_bytes: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = write(tmp_path_factory.mktemp("data") / "clips", members, shard_bytes)
    files = sorted(folder.glob("shard-*.tar"))
    in_tar = {}
    for shard in files:
        with tarfile.open(shard) as tar:
            in_tar |= {(shard.name, info.name): tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]
    rows = pq.read_table(folder / "index.parquet").to_pylist()
    assert [row["key"] for row in rows] == [f"k{number}" for number in range(len(members))]
    by_offset = {}
    for row, clip in zip(rows, members, strict=True):
        assert (row["frames"], row["fps"], row["height"], row["width"]) == (5, 24.0, 16, 24)
        for member in row["members"]:
            data = (folder / row["shard"]).read_bytes()[member["offset"] :][: member["size"]]
            assert data == clip[member["name"]] and member["sha256"] == hashlib.sha256(data).hexdigest()
            assert member["xxh3"] == xxhash.xxh3_64_intdigest(data)
            by_offset[row["shard"], f"{row['key']}.{member['name']}"] = data
    assert by_offset == in_tar and len(by_offset) == sum(map(len, members))
    assert all(shard.stat().st_size <= max(shard_bytes, 3 * 3072) + 1024 for shard in files)


def test_the_bytes_depend_on_the_clips_only(tmp_path: Path) -> None:
    members = [{"mp4": b"v" * 700, "json": b"{}"} for _ in range(3)]
    first, second = (write(tmp_path / name, members, 3000) for name in ("a", "b"))
    names = sorted(path.name for path in first.iterdir())
    assert names == ["index.parquet", "manifest.json", "shard-000000.tar", "shard-000001.tar", "shard-000002.tar"]
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_an_error_in_the_block_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), ShardWriter(tmp_path / "clips") as writer:
        writer.add("a", {"mp4": b"x"}, 1, 24, 2, 2)
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_kill_leaves_no_dataset_and_the_next_writer_starts_clean(
    tmp_path: Path, in_child: Callable[[Callable[[], None]], int]
) -> None:
    def killed() -> None:
        with ShardWriter(tmp_path / "clips", shard_bytes=1000) as writer:
            for number in range(5):
                writer.add(f"old-{number}", {"mp4": b"x" * 600}, 1, 24, 2, 2)
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(killed) == -signal.SIGKILL
    assert not (tmp_path / "clips").exists() and (tmp_path / ".clips.partial").exists()
    write(tmp_path / "clips", [{"mp4": b"y"}], 1000)
    assert [path.name for path in tmp_path.iterdir()] == ["clips"]
    assert sorted(path.name for path in (tmp_path / "clips").iterdir()) == [
        "index.parquet",
        "manifest.json",
        "shard-000000.tar",
    ]


@pytest.mark.parametrize(
    ("torn", "left"),
    [("between clips", 5), ("inside a clip", 5), ("inside a line of the journal", 5), ("one bit of the journal", 2)],
)
def test_after_a_kill_a_writer_with_the_same_recipe_goes_on_to_the_same_bytes(
    tmp_path: Path, in_child: Callable[[Callable[[], None]], int], torn: str, left: int
) -> None:
    def clip(number: int) -> dict[str, bytes]:
        return {"mp4": bytes([number]) * (500 + 100 * number), "json": b"{}"}

    def killed() -> None:
        with ShardWriter(tmp_path / "clips", shard_bytes=5000, recipe="seed 1") as writer:
            for number in range(5):
                writer.add(f"clip-{number}", clip(number), 1, 24, 2, 2)
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(killed) == -signal.SIGKILL
    partial = tmp_path / ".clips.partial"
    if torn == "one bit of the journal":
        lines = (partial / JOURNAL).read_bytes().splitlines(keepends=True)
        lines[3] = lines[3].replace(b'"frames": 1', b'"frames": 3')
        (partial / JOURNAL).write_bytes(b"".join(lines))
    elif torn != "between clips":
        name = JOURNAL if "journal" in torn else sorted(path.name for path in partial.glob("shard-*"))[-1]
        with open(partial / name, "ab") as file:
            file.write(b'{"key": "clip-5", "sha' * 40)
    with pytest.raises(UserError, match="clips: begun with other settings .seed 1.: give the same ones again, or"):
        ShardWriter(tmp_path / "clips", recipe="seed 2").__enter__()
    for folder, kept in (("clips", left), ("whole", 0)):
        with ShardWriter(tmp_path / folder, shard_bytes=5000, recipe="seed 1") as writer:
            assert writer.kept == kept
            for number in range(kept, 9):
                writer.add(f"clip-{number}", clip(number), 1, 24, 2, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips", "whole"]
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert len(names) > 3 and names == sorted(path.name for path in (tmp_path / "clips").iterdir())
    for name in names:
        assert (tmp_path / "clips" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_an_exception_keeps_what_has_a_recipe(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), ShardWriter(tmp_path / "clips", recipe="seed 1") as writer:
        writer.add("a", {"mp4": b"x"}, 1, 24, 2, 2)
        raise ZeroDivisionError
    with ShardWriter(tmp_path / "clips", recipe="seed 1") as writer:
        assert writer.kept == 1
        with pytest.raises(ValueError, match="expected a new key"):
            writer.add("a", {"mp4": b"x"}, 1, 24, 2, 2)


def test_what_is_there_is_never_overwritten(tmp_path: Path) -> None:
    write(tmp_path / "clips", [{"mp4": b"y"}], 1000)
    with pytest.raises(UserError, match="clips: exists and is not empty: choose another folder or remove it"):
        write(tmp_path / "clips", [], 1000)
    with (
        ShardWriter(tmp_path / "other"),
        pytest.raises(UserError, match="other: another process is writing this dataset"),
    ):
        write(tmp_path / "other", [], 1000)


def test_keys_are_checked(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "clips") as writer:
        writer.add("a", {"mp4": b"x"}, 1, 24, 2, 2)
        for key in ("a", "", "a.b", "a/b", "x" * 81):
            with pytest.raises(ValueError, match="expected a new key"):
                writer.add(key, {"mp4": b"x"}, 1, 24, 2, 2)
        with pytest.raises(ValueError, match="expected members named like 'mp4'"):
            writer.add("b", {"a.b": b"x"}, 1, 24, 2, 2)


@pytest.mark.parametrize("existed", [False, True])
def test_a_writer_that_waits_at_the_lock_while_another_finishes_touches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existed: bool
) -> None:
    out = tmp_path / "clips"
    if existed:
        out.mkdir()
    first = ShardWriter(out)
    first.__enter__()
    first.add("a", {"json": b"{}"}, 1, 24, 2, 2)
    second, flock = ShardWriter(out), shards.fcntl.flock

    def late(lock: int, how: int) -> None:
        monkeypatch.setattr(shards.fcntl, "flock", flock)
        first.__exit__(None, None, None)
        flock(lock, how)

    monkeypatch.setattr(shards.fcntl, "flock", late)
    with pytest.raises(UserError, match="clips: another process has just written this dataset: choose another folder"):
        second.__enter__()
    assert len(ClipDataset(out)) == 1 and [path.name for path in tmp_path.iterdir()] == ["clips"]
