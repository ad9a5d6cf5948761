"""Published weights are compared with the digests that a download leaves, wherever it leaves them."""

import hashlib
from pathlib import Path

import pytest

from phys4d.engine.errors import UserError
from phys4d.models.hub_digests import check_downloaded

WEIGHTS = bytes(range(256)) * 40
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()


def in_cache(root: Path) -> Path:
    """As `hf download` leaves a model in its cache: links to files named by their digests."""
    folder = root / "snapshots" / "main"
    for part, name, content in (("vae", SHA256, WEIGHTS), ("scheduler", "a" * 40, b"{}")):
        (folder / part).mkdir(parents=True)
        (root / "blobs").mkdir(exist_ok=True)
        (root / "blobs" / name).write_bytes(content)
        (folder / part / "weights.safetensors").symlink_to(f"../../../blobs/{name}")
    return folder


def in_a_folder(root: Path) -> Path:
    """As `hf download --local-dir` does: files with a record beside them, of which small ones have a git digest."""
    for part, etag, content in (("vae", SHA256, WEIGHTS), ("scheduler", "a" * 40, b"{}")):
        record = root / ".cache" / "huggingface" / "download" / part / "weights.safetensors.metadata"
        record.parent.mkdir(parents=True)
        record.write_text(f"{'b' * 40}\n{etag}\n1700000000.0\n")
        (root / part).mkdir()
        (root / part / "weights.safetensors").write_bytes(content)
    return root


@pytest.mark.parametrize("download", [in_cache, in_a_folder])
def test_one_flipped_bit_of_a_download_is_named(tmp_path: Path, download: object) -> None:
    folder = download(tmp_path)  # type: ignore[operator]
    assert check_downloaded(folder) == 1
    path = folder / "vae" / "weights.safetensors"
    path.resolve().write_bytes(WEIGHTS[:5000] + b"!" + WEIGHTS[5001:])
    with pytest.raises(UserError, match=f"{path}: is damaged, its SHA-256 is not that of the download: download it"):
        check_downloaded(folder)


def test_weights_without_a_digest_are_taken(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(WEIGHTS)
    assert check_downloaded(tmp_path) == 0
