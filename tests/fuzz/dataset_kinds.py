"""Datasets, tars and captions that are mutated: how a sound case is made, changed and read."""

import hashlib
import io
import json
import struct
import tarfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from tests.fuzz.mutations import damaged, json_text, malicious

Case = dict[str, bytes]

def digest(*parts: Any) -> str:
    """One digest of arrays, texts and values."""
    total = hashlib.sha256()
    for part in parts:
        data = part.tobytes() if isinstance(part, np.ndarray) else repr(part).encode("utf-8", "surrogatepass")
        total.update(f"{len(data)}:".encode() + data)
    return total.hexdigest()


FRAMES, HEIGHT, WIDTH = 4, 16, 24


@cache
def members() -> dict[str, bytes]:
    """The members of one clip."""
    from phys4d.engine.data import blob
    from phys4d.engine.data.video import encode_mp4

    draw = np.random.default_rng(0)
    depth = draw.uniform(1, 9, (FRAMES, HEIGHT, WIDTH)).astype(np.float32)
    depth[:, :2] = 0
    later = (FRAMES - 1, HEIGHT, WIDTH)
    arrays = {"depth": depth, "depth_valid": depth > 0, "motion": draw.normal(size=(3, *later)).astype(np.float32)}
    arrays |= {name: draw.random(later) < 0.5 for name in ("flow_valid", "dz_valid", "visible", "moving")}
    meta = {
        "caption": "a ball falls", "category": "rigid", "fps": 24, "frames": FRAMES, "height": HEIGHT, "width": WIDTH,
        "intrinsics": [[[30, 0, 12], [0, 30, 8], [0, 0, 1]]] * FRAMES, "depth_kind": "metric",
        "camera_to_world": np.eye(4)[None].repeat(FRAMES, 0).tolist(), "provenance": {"seed": 1, "drawn": [1, 2]},
    }  # fmt: skip
    frames = draw.integers(0, 255, (FRAMES, HEIGHT, WIDTH, 3)).astype(np.uint8)
    return {
        "mp4": encode_mp4(frames, 24),
        "truth": blob.encode(arrays, blob.QUANTISATION),
        "json": json.dumps(meta).encode(),
    }


def dataset(**changed: bytes) -> Case:
    """A dataset of three clips in two shards; `changed`: other members of the second one, whose digests are right."""
    from phys4d.engine.data.shards import ShardWriter

    with TemporaryDirectory() as folder:
        room = sum(map(len, members().values())) * 2 + 8192
        with ShardWriter(Path(folder) / "clips", shard_bytes=room) as writer:
            for clip in range(3):
                writer.add(f"clip{clip}", members() | (changed if clip == 1 else {}), FRAMES, 24, HEIGHT, WIDTH)
        return {path.name: path.read_bytes() for path in (Path(folder) / "clips").iterdir() if path.is_file()}


def without_manifest() -> Case:
    """The same, as a writer leaves it that has no digest of the index."""
    return {name: data for name, data in dataset().items() if name != "manifest.json"}


def read_dataset(folder: Path) -> dict[str, str]:
    """Every clip that can be read, by key; each is also looked at without decoding."""
    from phys4d.engine.data.dataset import ClipDataset
    from phys4d.engine.errors import UserError

    clips, read = ClipDataset(folder), {}
    for index in range(len(clips)):
        try:
            clips.probe(index)
            sample = clips[index]
        except UserError as error:
            assert str(error).isprintable(), error
            continue
        assert all(np.isfinite(sample.arrays[name]).all() for name in ("depth", "motion") if name in sample.arrays)
        row = {name: value for name, value in clips.row(index).items() if name not in ("members", "shard")}
        read[sample.key] = digest(sample.video, sorted(sample.arrays), *sample.arrays.values(), sample.meta, row)
    return read


def in_file(ending: str, change: Callable[[bytes, Random], bytes]) -> Callable[[Case, Random], Case]:
    """Changes one of the files with this ending."""

    def mutate(case: Case, draw: Random) -> Case:
        name = draw.choice(sorted(name for name in case if name.endswith(ending)))
        return case | {name: change(case[name], draw)}

    return mutate


def in_member(name: str, change: Callable[[bytes, Random], bytes]) -> Callable[[Case, Random], Case]:
    """Changes a member of a clip and writes the dataset with its digest, as a hostile writer would."""
    return lambda case, draw: dataset(**{name: change(members()[name], draw)})


def blob_with_checksums(data: bytes, draw: Random) -> bytes:
    """An array blob with a malicious header or damaged buffers, and all checksums right."""
    if draw.random() < 0.2:
        return damaged(data, draw)
    start = 16 + struct.unpack_from("<I", data, 8)[0]
    header, buffers = json.loads(data[16:start]), data[start:]
    if draw.random() < 0.5:
        buffers = damaged(buffers, draw)
        for entry in header["arrays"]:
            entry["crc32"] = zlib.crc32(buffers[entry["offset"] : entry["offset"] + entry["bytes"]])
    else:
        header = malicious(header, draw)
    raw = json.dumps(header).encode("utf-8", "surrogatepass")
    return struct.pack("<8sII", data[:8], len(raw), zlib.crc32(raw)) + raw + buffers


def rows(data: bytes, draw: Random) -> bytes:
    """An index with malicious rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(pa.BufferReader(data))
    while True:
        changed = malicious(table.to_pylist(), draw)
        try:
            schema = table.schema if draw.random() < 0.8 else None
            written = pa.Table.from_pylist(changed, schema)
            sink = pa.BufferOutputStream()
            pq.write_table(written, sink, compression="zstd")
        except (pa.ArrowException, TypeError, ValueError, OverflowError, AttributeError):
            continue
        return sink.getvalue().to_pybytes()


def build_tars() -> Case:
    """Two tars of another program: the members of three clips, with extended headers."""
    case = {}
    for shard, clips in enumerate(((0, 1), (2,))):
        target = io.BytesIO()
        with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for clip in clips:
                for name, data in (members() | {"txt": b"a ball"}).items():
                    info = tarfile.TarInfo(f"./clip{clip}.{name}")
                    info.size, info.mtime = len(data), 1.5
                    tar.addfile(info, io.BytesIO(data))
        case[f"{shard:06d}.tar"] = target.getvalue()
    return case


def header_of_tar(data: bytes, draw: Random) -> bytes:
    """A tar with one field of a header overwritten and its checksum right, or damage anywhere."""
    if draw.random() < 0.3:
        return damaged(data, draw)
    blocks = [at for at in range(0, len(data), 512) if data[at + 257 : at + 262] == b"ustar"]
    at, header = draw.choice(blocks), bytearray(512)
    header[:] = data[at : at + 512]
    start, size = draw.choice(((0, 100), (100, 8), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8), (345, 155)))
    values = (b"../../x.mp4", b"/etc/x.mp4", b"77777777777\0", b"\x80" + b"\xff" * 11, b"L", b"x", b"2", b"g", b"")
    header[start : start + size] = draw.choice((*values, draw.randbytes(size)))[:size].ljust(size, b"\0")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return data[:at] + bytes(header) + data[at + 512 :]


def read_tars(folder: Path) -> dict[str, str]:
    """Every clip of the index that is made of them."""
    from phys4d.engine.data.tar_index import index_tars

    index_tars(folder)
    return read_dataset(folder)


def build_captions() -> Case:
    """Tables of captions in three folders, and the videos that they name."""
    rows = [{"file_name": f"{n}.mp4", "text": f"clip {n}", "category": "rigid", "fps": 24} for n in range(4)]
    case = {f"{kind}/{n}.mp4": b"video" for kind in ("csv", "json", "jsonl") for n in range(4)}
    case["csv/metadata.csv"] = "\r\n".join(["file_name,text", *(f'{n}.mp4,"clip, {n}"' for n in range(4))]).encode()
    case["json/metadata.json"] = json.dumps(rows).encode()
    return case | {"jsonl/metadata.jsonl": "\n".join(map(json.dumps, rows)).encode()}


def in_table(case: Case, draw: Random) -> Case:
    """Changes one of the tables; a json as a whole too."""
    name = draw.choice([name for name in sorted(case) if "metadata" in name])
    change = json_text if name.endswith(".json") and draw.random() < 0.7 else damaged
    return case | {name: change(case[name], draw)}


def read_captions(folder: Path) -> dict[str, str]:
    """The texts of each video."""
    from phys4d.importers.videos.captions import read_lists
    from phys4d.importers.videos.files import find_videos

    found = find_videos(folder)
    listed = read_lists(folder, found.videos, found.others)
    return {str(path.relative_to(folder)): digest(listed.of(path)) for path in found.videos}
