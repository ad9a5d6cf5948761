"""What latents and tokens of a released model depend on: its autoencoder, its encoders of text and of images."""

import hashlib
import json
from pathlib import Path

from phys4d.engine.errors import UserError
from phys4d.models.diffusers_folder import weights_name
from phys4d.models.headers import holds_weights, read_json
from phys4d.models.weights_digest import weights_digest

_DESCRIPTIVE = ("_diffusers_version", "_name_or_path", "transformers_version")  # keys of config.json without effect


def origin(layout: str, folder: Path | None) -> dict[str, str]:
    """A digest of each part of a folder in the diffusers layout, as of `models.spec.Encoders`; the text encoder's
    weights may be absent. layout: what is expected, for messages."""
    assert folder is not None, "a released model has weights"
    parts = {"codec": part_origin(folder / "vae", layout), "tokenizer": _files(folder / "tokenizer")}
    for name in ("text_encoder", "image_encoder"):
        if holds_weights(folder / name):
            parts[name.replace("_", " ")] = part_origin(folder / name, layout)
    if (folder / "image_processor").is_dir():
        parts["image processor"] = _files(folder / "image_processor")
    return parts


def part_origin(folder: Path, layout: str) -> str:
    """Of configuration and weights, 16 hex digits each."""
    config = {key: value for key, value in read_json(folder / "config.json").items() if key not in _DESCRIPTIVE}
    text = json.dumps(config, sort_keys=True)
    weights = weights_digest(folder, weights_name(folder), layout)
    return f"{hashlib.sha256(text.encode()).hexdigest()[:16]} {weights[:16]}"


def _files(folder: Path) -> str:
    total = hashlib.sha256()
    try:
        for path in sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")):
            total.update(json.dumps([path.name, path.stat().st_size]).encode() + path.read_bytes())
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror}): copy or download it again") from None
    return total.hexdigest()[:32]
