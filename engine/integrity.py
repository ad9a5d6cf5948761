"""Folders that appear whole: written beside their place with a digest of every file, synced, renamed, and checked when
they are read.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from phys4d.engine.errors import UserError
from phys4d.engine.faults import reading
from phys4d.engine.storage import finish, replace_text, sync

MANIFEST = "manifest.json"
_THREADS = 8
LARGEST_MANIFEST = 64 << 20  # bytes of a manifest: half a million files
_SHA256 = re.compile("[0-9a-f]{64}")


class Digest(NamedTuple):
    """Size in bytes and SHA-256, in hexadecimal, of a file."""

    bytes: int
    sha256: str


class Damaged(UserError):
    """A file that is not what was written; `brief` is the message without the advice."""

    def __init__(self, brief: str, advice: str) -> None:
        super().__init__(f"{brief}: {advice}")
        self.brief = brief


def digest(path: Path) -> Digest:
    """The digest of a file. Raises MachineFault if the file system fails, and the OSError of an absent file."""
    with reading(path), open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return Digest(file.tell(), sha256)


def digests(folder: Path, names: Iterable[str] | None = None) -> dict[str, Digest]:
    """The digests of files of a folder by their path in it, with "/" between its parts; None: all but the manifest."""
    if names is None:
        paths = (path for path in folder.rglob("*") if path.is_file())
        names = (path.relative_to(folder).as_posix() for path in paths)
    wanted = sorted(set(names) - {MANIFEST})
    with ThreadPoolExecutor(_THREADS) as pool:  # hashing releases the interpreter's lock
        return dict(zip(wanted, pool.map(lambda name: digest(folder / name), wanted), strict=True))


def publish(partial: Path, folder: Path, files: Mapping[str, Digest] | None = None) -> None:
    """Makes the finished folder `partial` appear as `folder`, which must not exist: manifest, syncs, rename.

    After a crash of the machine `folder` holds all its files, or does not exist.

    files: digests of its files, where they are known; None: they are computed.

    Raises OSError of the system.
    """
    write_manifest(partial, digests(partial) if files is None else files)
    for name in _entries(partial):
        finish(name, like=partial / MANIFEST)
    os.rename(partial, folder)
    sync(folder.parent)


def remove(folder: Path) -> None:
    """Removes a published folder; after a crash in between it is whole or absent, never a part of it."""
    gone = folder.with_name(f".{folder.name}.removed")
    shutil.rmtree(gone, ignore_errors=True)
    os.rename(folder, gone)
    shutil.rmtree(gone)


def write_manifest(folder: Path, files: Mapping[str, Digest]) -> None:
    """Writes the manifest of a folder: the digests of its files by path."""
    entries = {name: files[name]._asdict() for name in sorted(files)}
    replace_text(folder / MANIFEST, json.dumps({"format": 1, "files": entries}, indent=0) + "\n")


def read_manifest(folder: Path, advice: str) -> dict[str, Digest]:
    """The digests in the manifest of a folder. Raises Damaged, which ends in `advice`, for one that is absent or not a
    manifest.
    """
    path = folder / MANIFEST
    try:
        with reading(path), open(path, "rb") as file:
            text = file.read(LARGEST_MANIFEST + 1)
    except OSError as error:
        raise Damaged(f"{path}: cannot be read ({error.strerror})", advice) from None
    return parse_manifest(text, path, advice)


def parse_manifest(text: bytes, path: object, advice: str) -> dict[str, Digest]:
    """The digests in a manifest, whose content is `text` or its beginning of `LARGEST_MANIFEST` + 1 bytes. Raises
    Damaged, which names `path` and ends in `advice`, for one that is no manifest.
    """
    try:
        if len(text) > LARGEST_MANIFEST:
            raise ValueError(f"more than {LARGEST_MANIFEST >> 20} MiB")
        return _parsed(json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        why = " ".join(str(error).split())
        raise Damaged(f"{path}: is no manifest of files ({why})", advice) from None


def check(folder: Path, advice: str, *, share: slice = slice(None), hashed: bool = True) -> None:
    """Raises Damaged, which ends in `advice`, unless every file in the manifest of a folder is as it was written.

    share: which of the files, in the order of their names, are looked at; ranks divide them.
    hashed: False: only that each file is there in its size, in microseconds.

    Files that the manifest does not name are not looked at. Raises MachineFault if the file system fails.
    """
    files = read_manifest(folder, advice)
    names = sorted(files)[share]
    for name in names:
        try:
            with reading(folder / name):
                size = os.stat(folder / name).st_size
        except OSError as error:
            raise Damaged(f"{folder / name}: is in {MANIFEST}, and cannot be read ({error.strerror})", advice) from None
        if size != files[name].bytes:
            raise Damaged(f"{folder / name}: is {size} bytes long, {files[name].bytes} were written", advice)
    if hashed:
        for name, found in digests(folder, names).items():
            if found != files[name]:
                raise Damaged(f"{folder / name}: is damaged, its SHA-256 is not that in {MANIFEST}", advice)


def _parsed(table: Any) -> dict[str, Digest]:
    if table["format"] != 1:
        raise ValueError(f"format {table['format']!r}, this version reads 1")
    files = {name: Digest(entry["bytes"], entry["sha256"]) for name, entry in table["files"].items()}
    for name, entry in files.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\0" in name or name != str(path):
            raise ValueError(f"{name!r} is no path in this folder")
        if type(entry.bytes) is not int or not isinstance(entry.sha256, str) or not _SHA256.fullmatch(entry.sha256):
            raise ValueError(f"{name!r} has no size and SHA-256")
    return files


def _entries(folder: Path) -> list[Path]:
    """Every file and folder of a folder, itself last."""
    found: list[Path] = []
    for root, _, names in os.walk(folder, topdown=False):
        found += [Path(root, name) for name in names]
        found.append(Path(root))
    return found
