"""Digests of published weights that the Hugging Face Hub's client leaves beside a download.

In its cache a file is a link to `blobs/<SHA-256>`; in a folder of `--local-dir` its digest is the second line of
`.cache/huggingface/download/<path>.metadata`. Small files that are not stored as LFS have a digest of another kind
there, which is not compared.
"""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from phys4d.engine.errors import UserError
from phys4d.engine.integrity import digest

_SHA256 = re.compile("[0-9a-f]{64}")


def check_downloaded(folder: Path) -> int:
    """Compares all weights below a folder with the digests that the Hub's client left, and returns how many have one.

    Raises UserError, one line that names the file, for weights that are not what was published.
    """
    known = dict(_published(folder))
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter's lock
        for path, found in zip(known, pool.map(digest, known), strict=True):
            if found.sha256 != known[path]:
                raise UserError(f"{path}: is damaged, its SHA-256 is not that of the download: download it again")
    return len(known)


def _published(folder: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted(folder.rglob("*.safetensors")):
        blob = path.resolve()
        record = folder / ".cache" / "huggingface" / "download" / f"{path.relative_to(folder)}.metadata"
        if blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name):
            yield path, blob.name
        elif record.is_file():
            lines = record.read_text(encoding="utf-8", errors="replace").splitlines()
            if len(lines) > 1 and _SHA256.fullmatch(lines[1].strip()):
                yield path, lines[1].strip()
