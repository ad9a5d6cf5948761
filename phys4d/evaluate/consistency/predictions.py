"""Depth and motion to be scored: the folders of clips that `phys4d generate` writes."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from phys4d.engine import json_text
from phys4d.engine.data.clip import blob, schema
from phys4d.engine.errors import UserError
from phys4d.evaluate.consistency.lifted import poses_of
from phys4d.evaluate.consistency.rigid import bodies_of

CARD, TRUTH = "clip.json", "clip.truth"
NEEDED, OPTIONAL = ("depth", "motion"), ("instance",)


def clip_folders(folder: Path) -> dict[str, Path]:
    """Name -> folder of every clip in a folder, or of the folder itself, if it is one. Raises UserError without any."""
    if (folder / CARD).is_file():
        return {folder.resolve().name: folder}
    found = {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{CARD}"))}
    if not found:
        raise UserError(f"{folder}: no clips: expected folders with {CARD}, as `phys4d generate --batch` writes them")
    return found


def read_prediction(folder: Path, size: schema.Size) -> dict[str, np.ndarray]:
    """The arrays of a clip by name: depth, motion, and `instance` where it has it.

    folder: of the clip. size: (frames, height, width) of its truth.

    Raises UserError, in one line that names the file, for a clip of another size or without depth and motion, and for
    arrays that are damaged, negative or not finite.
    """
    path = folder / TRUTH
    try:
        meta = json_text.loads(json_text.read(folder / CARD))
        own = tuple(meta[name] for name in ("frames", "height", "width"))
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(f"{folder / CARD}: is damaged ({error}): generate {folder} again") from None
    if own != size:
        raise UserError(
            f"{folder}: is a clip of {own} (frames, height, width), its truth has {size}: generate at the truth's size"
        )
    if not path.is_file():
        raise UserError(f"{path}: is missing: the model of this clip reads no depth and motion, which are scored")
    try:
        data = path.read_bytes()
        entries = blob.header(data)
        names = [*NEEDED, *(name for name in OPTIONAL if name in entries)]
        arrays = blob.decode(data, names, lambda header: schema.check_header(header, size))
        schema.check_values(arrays, ())
        schema.check_depth(arrays, meta)
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: {error}: generate {folder} again") from None
    return arrays


def still(truth: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The prediction that nothing moves: the true first frame's depth and instances, held, and no motion."""
    held = {name: np.repeat(truth[name][:1], len(truth[name]), axis=0) for name in ("depth", "instance")}
    return {**held, "motion": np.zeros_like(truth["motion"])}


def check_truth(size: schema.Size, meta: Mapping[str, Any], where: str) -> None:
    """Raises UserError for a true clip that nothing can be scored against.

    size: (frames, height, width). meta: its json. where: its dataset and key.
    """
    if size[0] < 2:
        raise UserError(f"{where}: has {size[0]} frames: motion needs at least 2")
    if schema.depth_kind(meta) != schema.METRIC:
        raise UserError(f"{where}: depth is of the kind {schema.depth_kind(meta)}: the suite needs metres")
    try:
        poses, gravity = poses_of(meta), meta.get("physics", {}).get("gravity", 0.0)
        bodies_of(meta)
        shapes = {array.shape for track in poses.values() for array in (track.position, track.quaternion)}
        fits = shapes <= {(size[0], 3), (size[0], 4)} and math.isfinite(gravity)
    except (ValueError, TypeError, KeyError, AttributeError):
        fits = False
    if not fits:
        raise UserError(f"{where}: objects, tracks or physics are not as `phys4d simulate` writes them: leave them out")
