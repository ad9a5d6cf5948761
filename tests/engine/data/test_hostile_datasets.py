"""Datasets that claim more than they hold, or lead out of their folder: one line, before memory is allocated."""

import json
import os
import resource
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phys4d.cli import main
from phys4d.engine.data.clip import blob
from phys4d.engine.data.clip.mp4_boxes import check_tables
from phys4d.engine.data.clip.video import encode_mp4
from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.data.decoders import probe, pyav
from phys4d.engine.data.files import shards
from phys4d.engine.data.files.shards import ShardWriter
from phys4d.engine.data.tools.verify import verify
from phys4d.engine.errors import UserError

Write = Callable[[dict[int, dict[str, bytes]]], Path]
SIZE = (5, 16, 24)
EXTRA = {"depth": np.ones(SIZE, np.float32), "depth_valid": np.ones(SIZE, bool)}


@pytest.fixture(autouse=True)
def without_manifest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The author of such a dataset writes its digests, too."""
    monkeypatch.setattr(shards, "write_manifest", lambda folder, files: None)


def with_header(data: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """The blob with its header changed, and the checksum of the header made right again."""
    start = 16 + struct.unpack_from("<I", data, 8)[0]
    header = json.loads(data[16:start])
    change(header)
    raw = json.dumps(header).encode()
    return struct.pack("<8sII", data[:8], len(raw), zlib.crc32(raw)) + raw + data[start:]


def entry(**changed: Any) -> Callable[[bytes], bytes]:
    return lambda data: with_header(data, lambda header: header["arrays"][0].update(changed))


def rule(kind: str, **changed: Any) -> Callable[[bytes], bytes]:
    def change(header: dict[str, Any]) -> None:
        found = next(e for e in header["arrays"] if e.get("quantisation", {}).get("kind") == kind)
        found["quantisation"].update(changed)

    return lambda data: with_header(data, change)


def chunk(**changed: int) -> Callable[[bytes], bytes]:
    """The blob with a field of the first blosc2 chunk changed, and all checksums right."""
    at = {"flags": (2, "B"), "size": (4, "i"), "block": (8, "i"), "packed": (12, "i"), "filter": (21, "B")}

    def change(data: bytes) -> bytes:
        start, changed_data = 16 + struct.unpack_from("<I", data, 8)[0], bytearray(data)
        for name, value in changed.items():
            struct.pack_into(f"<{at[name][1]}", changed_data, start + at[name][0], value)
        first = json.loads(data[16:start])["arrays"][0]
        return with_header(bytes(changed_data), lambda header: header["arrays"][0].update(
            crc32=zlib.crc32(changed_data[start : start + first["bytes"]])
        ))  # fmt: skip

    return change


TRUTH = blob.encode(
    {**EXTRA, "motion": np.linspace(-9, 9, 3 * 4 * 16 * 24, dtype=np.float32).reshape(3, 4, 16, 24)}, blob.QUANTISATION
)
LIES = {
    "3.6 TiB": (entry(shape=[10**6, 10**6]), "needs 4000000000000 bytes, at most 2147483648 are read"),
    "a number of dimensions": (entry(shape=[1] * 9), "cannot read dtype"),
    "a fractional side": (entry(shape=[5, 16.0, 24]), "a number that is not whole"),
    "a negative side": (entry(shape=[5, -16, 24]), "cannot read dtype"),
    "an unknown dtype": (entry(dtype="object"), "cannot read dtype object"),
    "no dtype": (entry(dtype=None), "cannot read dtype None"),
    "a name that is an object": (entry(name={"depth": 1}), "a name that is no text"),
    "a name that is a number": (entry(name=1), "a name that is no text"),
    "a place before the data": (entry(offset=-4), "is truncated"),
    "a place behind the data": (entry(bytes=10**9), "is truncated"),
    "a list of lists": (lambda data: with_header(data, lambda h: h.update(arrays=[[1]])), "header cannot be read"),
    "no list": (lambda data: with_header(data, lambda h: h.pop("arrays")), "header cannot be read"),
    "many arrays": (lambda data: with_header(data, lambda h: h.update(arrays=h["arrays"][:1] * 65)), "at most 64 are"),
    "a deep header": (lambda data: with_header(data, lambda h: h.update(deep=deep(5000))), "cannot be read"),
    "a rule without numbers": (rule("inverse16", step=None), "quantisation inverse16"),
    "a rule of text": (rule("linear16", base=["a", 0, 0]), "quantisation linear16"),
    "a rule for other slices": (rule("linear16", base=[0.0], zero=[0], step=[1.0]), "quantisation linear16"),
    "values that are not finite": (rule("inverse16", low=1e-200, step=0.0), "values that are not finite"),
    "a huge step": (rule("linear16", step=[1e200, 1e200, 1e200]), "values that are not finite"),
    "another size of the chunk": (chunk(size=10**9), "holds 1000000000 bytes, its shape needs 3840"),
    "a block of 2 GiB": (chunk(block=2**31 - 1), "a header that cannot be read"),
    "a chunk that is longer": (chunk(packed=10**6), "a header that cannot be read"),
    "a codec that is a plugin": (chunk(flags=0xD5), "a header that cannot be read"),
    "a filter that is a plugin": (chunk(filter=35), "a header that cannot be read"),
}  # fmt: skip


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("name", LIES)
def test_a_blob_that_lies_with_all_checksums_right(write_dataset: Write, name: str) -> None:
    change, fault = LIES[name]
    if name == "a deep header":
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(20_000)  # to write it
        data = change(TRUTH)
        sys.setrecursionlimit(limit)
    else:
        data = change(TRUTH)
    with pytest.raises(ValueError, match=fault):
        blob.decode(data)
    folder = write_dataset({2: {"truth": data}})
    assert [line for line in verify(folder) if "clip clip-2: truth " in line]


def test_arrays_that_unpack_to_far_more_than_the_clip_has_pixels(write_dataset: Write) -> None:
    """A few kilobytes that would unpack to gigabytes; here 4 MiB, of a clip of 1,920 pixels."""
    data = blob.encode(EXTRA | {f"zeros{number}": np.zeros(1 << 19, np.uint8) for number in range(8)})
    assert len(data) < 3000
    folder = write_dataset({1: {"truth": data}})
    what = "truth unpacks to 4203904 bytes, at most 1171456 are read of a clip of this size"
    assert [line.partition("clip-1: ")[2] for line in verify(folder)] == [what]
    with pytest.raises(UserError, match=what):
        ClipDataset(folder).probe(1)


def test_a_video_of_another_size_is_refused_before_it_is_decoded(
    write_dataset: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_dataset({0: {"mp4": encode_mp4(np.zeros((5, 512, 512, 3), np.uint8), 12)}})
    decoded: list[object] = []
    real = pyav._Picked.read
    monkeypatch.setattr(pyav._Picked, "read", lambda *given: decoded.append(given) or real(*given))
    with pytest.raises(UserError, match="clip-0: mp4 is 512x512, the index says 16x24"):
        ClipDataset(folder)[0]
    assert not decoded
    assert ClipDataset(folder)[1].key == "clip-1" and len(decoded) == 1


def test_a_video_whose_header_understates_its_frames() -> None:
    """The size in the sample description says 16x24; that of the stream is what FFmpeg would decode."""
    data = bytearray(encode_mp4(np.zeros((3, 256, 256, 3), np.uint8), 12))
    at = data.index(b"avc1", data.index(b"stsd")) + 4 + 24  # of width and height, 16 bits each
    assert struct.unpack_from(">HH", data, at) == (256, 256)
    struct.pack_into(">HH", data, at, 24, 16)
    with pytest.raises(ValueError, match=r"is 256x256, the index says 16x24|cannot be decoded"):
        pyav.PyAVDecoder().decode(bytes(data), 0, 3, (16, 24))


def test_the_decoder_itself_takes_no_larger_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """For streams whose header says another size than their frames have."""
    monkeypatch.setattr(pyav, "video_stream", lambda container, size=None: container.streams.video[0])
    with pytest.raises(ValueError, match="cannot be decoded"):
        pyav.PyAVDecoder().decode(encode_mp4(np.zeros((3, 512, 512, 3), np.uint8), 12), 0, 3, (16, 24))


def test_a_codec_that_is_not_known() -> None:
    data = bytearray(encode_mp4(np.zeros((3, 16, 16, 3), np.uint8), 12))
    at = data.index(b"avc1", data.index(b"stsd"))
    data[at : at + 4] = b"\0zzz"
    for read in (probe.frame_count, lambda data: pyav.PyAVDecoder().decode(data, 0, 1)):
        with pytest.raises(ValueError, match="codec that is not known"):
            read(bytes(data))


def table(kind: bytes, numbers: tuple[int, ...]) -> bytes:
    """A box of 32-bit numbers inside the boxes that hold tables of frames."""
    content = struct.pack(f">{len(numbers)}I", *numbers)
    for name in (kind, b"stbl", b"minf", b"mdia", b"trak", b"moov"):
        content = struct.pack(">I4s", 8 + len(content), name) + content
    return content


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (table(b"stsz", (0, 4, 2**31)), "claims 2147483648 frames"),
        (table(b"stz2", (0, 8, 10**6)), "claims 1000000 frames"),
        (table(b"stts", (0, 2, 60_000, 1, 60_000, 1)), "claims 120000 frames"),
        (table(b"ctts", (0, 1, 2**32 - 1, 0)), "claims 4294967295 frames"),
        (table(b"trun", (0, 2**27)), "claims 134217728 frames"),
        (table(b"trun", (0, 60_000)) * 2, "claims 120000 frames"),
        (table(b"elst", (0, 65)), "claims 65 entries in its edit list"),
        (table(b"stsz", (0, 4, 100_000)) + table(b"trun", (0, 100_000)) + table(b"elst", (0, 64)), ""),
        (b"\0\0\0\7moov" + bytes(99), ""),
        (struct.pack(">I4s", 8, b"moov") * 100_000, ""),
        (b"\0\0\0\1moov" + b"\xff" * 8 + b"\0\0\0\0trak", ""),
    ],
)
def test_the_tables_of_an_mp4_are_looked_at_before_ffmpeg_reads_them(data: bytes, fault: str) -> None:
    if not fault:
        check_tables(data)
        return
    for read in (check_tables, probe.frame_count, lambda data: pyav.PyAVDecoder().decode(data, 0, 1)):
        with pytest.raises(ValueError, match=fault):
            read(data)


def test_text_that_names_other_files_is_no_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg would open the file that a script of its format "concat" names."""
    monkeypatch.chdir(tmp_path)
    Path("real.mp4").write_bytes(encode_mp4(np.zeros((3, 16, 16, 3), np.uint8), 12))
    pictures = b"YUV4MPEG2 W2 H2 F24:1 Ip A1:1 C420jpeg\nFRAME\n" + bytes(6)
    for data in (b"ffconcat version 1.0\nfile real.mp4\n", pictures):
        with pytest.raises(ValueError, match="cannot be decoded"):
            probe.frame_count(data)


def test_only_regular_files_are_opened(write_dataset: Write, tmp_path: Path) -> None:
    folder = write_dataset({})
    shard = folder / "shard-000000.tar"
    outside = tmp_path / "outside.tar"
    outside.write_bytes(shard.read_bytes())
    for make, fault in (
        (lambda: os.mkfifo(shard), "it is no regular file"),
        (lambda: shard.symlink_to("/dev/zero"), "it is no regular file"),
        (lambda: shard.mkdir(), "it is no regular file"),
    ):
        shard.rmdir() if shard.is_dir() and not shard.is_symlink() else shard.unlink()
        make()
        with pytest.raises(UserError, match=rf"clip-0: the shard cannot be opened \({fault}\)"):
            ClipDataset(folder)[0]
    shard.rmdir()
    shard.symlink_to(outside)  # as in the cache of a download
    assert ClipDataset(folder)[0].key == "clip-0"
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(len(outside.read_bytes())))
    shard.unlink()
    shard.symlink_to(secret)
    with pytest.raises(UserError, match="differs from its digest in the index"):
        ClipDataset(folder)[0]
    (folder / "index.parquet").unlink()
    os.mkfifo(folder / "index.parquet")
    with pytest.raises(UserError, match=r"no index\.parquet in it"):
        ClipDataset(folder)


def test_no_text_of_a_file_reaches_the_terminal_as_it_is(
    write_dataset: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    forged = f"\x1b[2K\x1b[1Aall clips are whole\u2028{chr(0x9b)}2J"
    array = {"name": forged, "shape": [1], "dtype": forged, "offset": 0, "bytes": 0, "crc32": 0}
    truth = with_header(TRUTH, lambda header: header.update(arrays=[array]))
    folder = write_dataset({0: {"truth": truth}, 1: {"json": json.dumps({"frames": forged, forged: 1}).encode()}})
    assert main(["data", "verify", str(folder)]) == 2
    captured = capsys.readouterr()
    printed = [line for line in (captured.out + captured.err).split("\n") if line]
    assert len(printed) > 2 and all(line.isprintable() for line in printed)


def test_links_are_not_followed_where_files_are_written(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("kept")
    (tmp_path / ".clips.partial").symlink_to(precious)
    with pytest.raises(UserError, match=r"\.clips\.partial: is a link"):
        ShardWriter(tmp_path / "clips").__enter__()
    (tmp_path / ".clips.partial").unlink()
    (tmp_path / ".clips.partial").mkdir()
    (tmp_path / ".clips.partial" / ".lock").symlink_to(precious / "file")
    with pytest.raises(UserError, match=r"\.lock: is a link"):
        ShardWriter(tmp_path / "clips").__enter__()
    assert (precious / "file").read_text() == "kept"


@pytest.mark.slow
def test_a_thousand_shards_are_read_with_256_open_files(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "clips", shard_bytes=1) as writer:
        for number in range(1019):
            writer.add(f"c{number}", {"mp4": b"%05d" % number, "json": b"{}"}, 1, 24, 2, 2)
    program = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
from pathlib import Path
from concurrent.futures import ThreadPoolExecutor
from phys4d.engine.data.dataset import ClipDataset
sets = [ClipDataset(Path({str(tmp_path / "clips")!r})) for _ in range(4)]
def read(number):
    return all(s.member(s.row(number), "mp4") == b"%05d" % number and s.meta(number) == {{}} for s in sets)
with ThreadPoolExecutor(8) as pool:
    assert all(pool.map(read, range(1019)))
print("read")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "read\n", done.stderr
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] != 256
