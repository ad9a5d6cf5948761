"""Tars in WebDataset's layout that another program wrote, the library webdataset on ours, and tars that are refused."""

import io
import json
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from phys4d.cli import main
from phys4d.engine.data.clip.video import encode_mp4
from phys4d.engine.data.dataset import ClipDataset, ClipFault
from phys4d.engine.data.files.tar_headers import tar_files
from phys4d.engine.data.tools.tar_index import index_tars
from phys4d.engine.data.tools.verify import verify
from phys4d.engine.errors import UserError
from phys4d.engine.limits import MEMBER_BYTES

Write = Callable[[dict[int, dict[str, bytes]]], Path]


@pytest.fixture(scope="module")
def mp4() -> bytes:
    return encode_mp4(np.random.default_rng(0).integers(0, 256, (7, 16, 24, 3), dtype=np.uint8), 12.5)


def entry(name: str, data: bytes = b"", form: int = tarfile.PAX_FORMAT, **fields: Any) -> bytes:
    """A file of a tar, with these fields of its header; webdataset writes the first format."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(form) + data + bytes(-len(data) % 512)


END = bytes(1024)


def tar(folder: Path, *entries: bytes, end: bytes = END, name: str = "000000.tar") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"".join(entries) + end)
    return folder


def test_the_index_of_our_own_shards_is_made_again(write_dataset: Write) -> None:
    folder = write_dataset({})
    written = pq.read_table(folder / "index.parquet")
    for name in ("index.parquet", "manifest.json"):
        (folder / name).unlink()
    done = index_tars(folder, workers=2)
    assert (done.clips, done.shards, done.lines, done.ignored) == (6, 3, [], 0)
    assert pq.read_table(folder / "index.parquet").select(written.column_names).equals(written)
    assert (folder / "manifest.json").is_file() and verify(folder) == []


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_what_other_programs_write(tmp_path: Path, mp4: bytes, form: int) -> None:
    shown = {"caption": "a wave", "category": "fluid", "fps": 12.0}
    folder = tar(
        tmp_path / "tars",
        entry("./", type=tarfile.DIRTYPE, form=form),
        entry("./000.MP4", mp4, mtime=3.5 if form == tarfile.PAX_FORMAT else 3, form=form),
        entry("./000.txt", " a boat\n".encode("utf-8-sig"), form=form),
        entry("./._000.mp4", b"of a Mac", form=form),
        entry("b_1.mp4", mp4, form=form),
        entry("b_1.json", json.dumps(shown).encode(), form=form),
        entry("b_1.depth.npy", b"x", form=form),
        entry("README", b"x", form=form),
        end=bytes(10240),
    )
    done = index_tars(folder)
    assert (done.clips, done.lines, done.ignored) == (2, [], 3) and "._000.mp4" in done.first_ignored
    dataset = ClipDataset(folder)
    assert [dataset[0].meta, dataset[1].meta] == [{"caption": "a boat"}, shown]
    assert dataset.column("caption").to_pylist() == ["a boat", "a wave"]
    assert [dataset.row(n)["fps"] for n in range(2)] == [12.5, 12.0]
    assert dataset[0].video.shape == dataset[1].video.shape == (7, 16, 24, 3)
    with pytest.raises(ClipFault, match="clip 000: json has no intrinsics"):
        ClipDataset(folder, required=("caption", "intrinsics"))[0]


def test_the_library_webdataset_and_this_reader_take_each_others_shards(write_dataset: Write, tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset", reason="no webdataset: pip install webdataset")
    folder = write_dataset({})
    ours, urls = ClipDataset(folder), [str(path) for path in sorted(folder.glob("*.tar"))]
    read = list(wds.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"] for sample in read] == ours.keys().to_pylist()
    for index, sample in enumerate(read):
        row = ours.row(index)
        assert all(sample[name] == ours.member(row, name) for name in ("mp4", "truth", "json"))
    (tmp_path / "theirs").mkdir()
    with wds.ShardWriter(str(tmp_path / "theirs" / "%06d.tar"), maxcount=4, verbose=0) as writer:
        for sample in read:
            meta = json.loads(sample["json"])
            writer.write({"__key__": sample["__key__"], "mp4": sample["mp4"], "truth": sample["truth"], "json": meta})
    assert index_tars(tmp_path / "theirs").shards == 2
    theirs = ClipDataset(tmp_path / "theirs", required=("caption", "intrinsics"))
    for index in range(6):
        one, other = theirs[index], ours[index]
        assert one.meta == other.meta and np.array_equal(one.video, other.video)
        assert all(np.array_equal(one.arrays[name], other.arrays[name]) for name in other.arrays)
    assert verify(tmp_path / "theirs") == []


def raw(data: bytes, kind: bytes, size: int | None = None, name: bytes = b"x") -> bytes:
    """A header of a kind that Python's tarfile does not write, which claims `size` bytes."""
    info = tarfile.TarInfo("x")
    info.type = kind
    header = bytearray(info.tobuf(tarfile.USTAR_FORMAT)[:512])
    stated = len(data) if size is None else size
    header[:100] = name.ljust(100, b"\0")
    header[124:136] = b"%011o\0" % stated if stated < 8**11 else struct.pack(">BxxxQ", 0x80, stated)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + data + bytes(-len(data) % 512)


def record(key: str, value: str) -> bytes:
    text = f" {key}={value}\n"
    return f"{len(text) + 2}{text}".encode()


HOSTILE: dict[str, tuple[bytes, str]] = {
    "a path above": (entry("../a.mp4", b"x"), r"'\.\./a\.mp4', a path that leads out of it"),
    "a path above, by an extended header": (
        raw(record("path", "../../a.mp4"), b"x") + entry("a.mp4", b"x"), r"'\.\./\.\./a\.mp4', a path that leads out",
    ),
    "an absolute path": (entry("/etc/passwd.mp4", b"x"), "'/etc/passwd.mp4', a path that leads out of it"),
    "a folder above": (entry("../", type=tarfile.DIRTYPE), r"'\.\./', a path that leads out"),
    "a file in a folder": (entry("train/a.mp4", b"x"), "'train/a.mp4': a file in a folder: expected a key of 1 to 80"),
    "a key that writes": (entry("a\x1b[2J.mp4", b"x"), r"'a\\x1b\[2J\.mp4': a key of other characters"),
    "a long key": (entry("k" * 81 + ".mp4", b"x"), "a key of other characters"),
    "a symbolic link": (entry("a.mp4", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "holds a link at byte 0"),
    "a hard link": (entry("a.mp4", type=tarfile.LNKTYPE, linkname="b.mp4"), "holds a link at byte 0"),
    "a device": (entry("a.mp4", type=tarfile.CHRTYPE), "holds a device at byte 0"),
    "a pipe": (entry("a.mp4", type=tarfile.FIFOTYPE), "holds a pipe at byte 0"),
    "a sparse file": (raw(b"", b"S"), "holds a sparse file"),
    "an unknown kind": (raw(b"", b"Z"), "holds an entry of another kind"),
    "a huge extended header": (raw(b"x" * 70_000, b"x"), "has a header of 70000 bytes at byte 0, at most 65536"),
    "a header that claims gigabytes": (raw(b"", b"x", 1 << 40), "has a header of 1099511627776 bytes at byte 0"),
    "a long name that claims gigabytes": (raw(b"", b"L", 1 << 33), "has a header of 8589934592 bytes"),
    "a huge file": (raw(b"", b"0", MEMBER_BYTES + 1, b"a.mp4"), f"'a.mp4' claims {MEMBER_BYTES + 1} bytes, at most"),
    "a huge file, by an extended header": (raw(record("size", "9" * 9), b"x") + entry("a.mp4", b"x"), "is cut off: 'a"),
    "a sparse file, by an extended header": (raw(record("GNU.sparse.major", "1"), b"x"), "extended header of 'GNU.s"),
    "a name for all files": (raw(record("path", "a.mp4"), b"g"), "has an extended header of 'path'"),
    "a damaged extended header": (raw(b"99 path=a.mp4\n", b"x"), "has a damaged extended header at byte 0"),
    "no number in an extended header": (raw(record("size", "-1"), b"x"), "has a damaged extended header"),
    "a name of other bytes": (raw(b"", b"0", 0, b"\xff.mp4"), "has a name that is not UTF-8 at byte 0"),
    "a file twice": (entry("a.mp4", b"x") + entry("a.mp4", b"y"), "clip a: holds mp4 twice"),
    "many files": (b"".join(entry(f"a.m{n}", b"x") for n in range(17)), "clip a: holds more than 16 files"),
    "a clip in two parts": (b"".join(entry(f"{name}.mp4", b"x") for name in "aba"), "clip a: there are two of this ke"),
    "a second tar": (entry("a.mp4", b"x") + END + entry("b.mp4", b"x"), "holds more behind its end at byte 1024"),
    "a damaged header": (entry("a.mp4", b"x") + b"y" + entry("b.mp4", b"x")[1:], "has a damaged header at byte 1024"),
    "no tar": (b"\x1f\x8b" + bytes(range(256)) * 4, "is no tar: if it is compressed, unpack it first"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_tar_that_is_refused(tmp_path: Path, name: str) -> None:
    data, fault = HOSTILE[name]
    folder = tar(tmp_path / "tars", data)
    with pytest.raises(UserError, match=f"000000.tar: .*{fault}") as caught:
        index_tars(folder)
    assert str(caught.value).isprintable() and not (folder / "index.parquet").exists()


@pytest.mark.parametrize("left", [0, 100, 1536, 2048, 2600])
def test_a_tar_that_is_cut_off(tmp_path: Path, left: int) -> None:
    whole = entry("a.mp4", b"x" * 700) + entry("a.txt", b"x")
    folder = tar(tmp_path / "tars", whole[:left], end=b"")
    with pytest.raises(UserError, match="000000.tar: is cut off: "):
        index_tars(folder)


def test_two_clips_of_one_key_in_two_shards(tmp_path: Path, mp4: bytes) -> None:
    clip = entry("a.mp4", mp4) + entry("a.txt", b"x")
    tar(tmp_path / "tars", clip)
    with pytest.raises(UserError, match="000001.tar: clip a: there are two of this key"):
        index_tars(tar(tmp_path / "tars", clip, name="000001.tar"))


def test_a_shard_that_is_a_pipe_or_badly_named(tmp_path: Path, mp4: bytes) -> None:
    with pytest.raises(UserError, match=r"\.hidden\.tar: expected a name of letters"):
        index_tars(tar(tmp_path / "a", name=".hidden.tar"))
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match=r"b: holds no tar: expected shards such as 000000\.tar"):
        index_tars(tmp_path / "b")
    (tmp_path / "b" / "0.tar").symlink_to("/dev/zero")
    with pytest.raises(UserError, match=r"0\.tar: cannot be opened \(it is no regular file\)"):
        index_tars(tmp_path / "b")
    with pytest.raises(UserError, match=r"0\.tar\.gz: is compressed: unpack the tar"):
        index_tars(tar(tmp_path / "c", name="0.tar.gz"))
    with pytest.raises(UserError, match="none: no such folder"):
        index_tars(tmp_path / "none")


def test_clips_that_cannot_be_used_are_left_out_by_name(
    tmp_path: Path, mp4: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tar(
        tmp_path / "tars",
        entry("a.txt", b"x"),
        entry("b.mp4", mp4) + entry("b.jpg", b"x"),
        entry("c.mp4", mp4[:-300]) + entry("c.txt", b"x"),
        entry("d.mp4", mp4) + entry("d.json", b'{"frames": 6}'),
        entry("e.mp4", mp4) + entry("e.txt", b"\xff"),
        entry("f.mp4", mp4) + entry("f.txt", b"x") + entry("f.truth", b"x"),
        entry("g.mp4", mp4) + entry("g.txt", b"good"),
    )
    assert main(["data", "index", str(folder)]) == 0
    said = [line.partition("clip ")[2] for line in capsys.readouterr().out.splitlines()[:-1]]
    assert [line[:40] for line in said] == [
        "a: has no mp4, only txt",
        "b: has no json, and no txt, only mp4, jp",
        said[2][:40],
        "d: json frames: is 6, the index says 7",
        "e: txt is not UTF-8 text (byte 0)",
        "f: truth is no array blob: 1 bytes begin",
    ]
    assert said[2].startswith("c: mp4 ")
    assert ClipDataset(folder).keys().to_pylist() == ["g"]
    assert main(["data", "index", str(folder)]) == 2
    assert "has index.parquet: it is a dataset" in capsys.readouterr().err
    only = tar(tmp_path / "only", entry("a.txt", b"x"))
    with pytest.raises(UserError, match="only: not one clip in 1 tars, see above"):
        index_tars(only)
    assert [path.name for path in only.iterdir()] == ["000000.tar"]


def test_names_and_sizes_of_extended_headers(tmp_path: Path) -> None:
    name = "n" * 150 + ".mp4"
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        (tmp_path / "a.tar").write_bytes(entry(name, b"abc", form=form) + entry("b.txt", b"d") + END)
        with tarfile.open(fileobj=io.BytesIO((tmp_path / "a.tar").read_bytes())) as other:
            expected = [(info.name, info.offset_data, info.size) for info in other]
        assert [(file.name, file.offset, file.size) for file in tar_files(tmp_path / "a.tar")] == expected
