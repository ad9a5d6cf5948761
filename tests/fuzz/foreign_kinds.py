"""Kinds of files that other programs leave: tars in WebDataset's layout, tables of captions."""

import io
import json
import tarfile
from pathlib import Path
from random import Random

from tests.fuzz.mutations import damaged, json_text

Case = dict[str, bytes]


def build_tars() -> Case:
    """Two tars of another program: the members of three clips, with extended headers."""
    from tests.fuzz.kinds import members

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
    from phys4d.engine.data.tools.tar_index import index_tars
    from tests.fuzz.kinds import read_dataset

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
    from tests.fuzz.kinds import digest

    found = find_videos(folder)
    listed = read_lists(folder, found.videos, found.others)
    return {str(path.relative_to(folder)): digest(listed.of(path)) for path in found.videos}
