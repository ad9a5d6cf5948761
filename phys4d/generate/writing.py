"""The folder of a generated clip: complete, with clip.json as its last file, or absent."""

import io
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from phys4d.engine import json_text
from phys4d.engine.data.clip import blob
from phys4d.engine.data.clip.schema import check_clip
from phys4d.engine.data.clip.video import encode_mp4
from phys4d.engine.errors import UserError
from phys4d.engine.output import OutputFolder
from phys4d.engine.run_folder.provenance import provenance
from phys4d.engine.storage import disk_fault
from phys4d.generate.panels import side_by_side
from phys4d.generate.points import lifted, ply
from phys4d.generate.sampling import Clip

CARD = "clip.json"


@dataclass(frozen=True)
class Written:
    """What a clip's folder holds beside its video.

    fps: of the videos. frames: also every frame as a png. points: most points of a frame's PLY; 0 writes none.
    """

    fps: float
    frames: bool
    points: int


def is_written(folder: Path, made_of: Mapping[str, Any]) -> bool:
    """Whether a folder holds the clip that is made of these settings.

    Raises UserError where it holds another one.
    """
    if not (folder / CARD).is_file():
        return False
    try:
        found = json_text.loads(json_text.read(folder / CARD)).get("generation")
    except (ValueError, AttributeError, OSError) as error:
        raise UserError(f"{folder / CARD}: is damaged ({error}): remove {folder}") from None
    wanted = json.loads(json.dumps(made_of))
    if found != wanted:
        keys = sorted(set(found or {}) | set(wanted))
        other = next(key for key in keys if (found or {}).get(key) != wanted.get(key))
        raise UserError(
            f"{folder}: holds a clip of another {other}: remove it, or choose another folder as --out"
        )
    return True


def write_clip(
    folder: Path, clip: Clip, intrinsics: list[list[float]], made_of: Mapping[str, Any], written: Written
) -> None:
    """Writes a clip to a folder that is not there, or is empty.

    folder: see above. clip: what was generated. intrinsics: [3, 3] in pixels. made_of: settings, for `is_written`; its
    "prompt" is the caption. written: see there.

    Raises UserError where the folder is not empty or cannot be written.
    """
    frames, height, width = clip.video.shape[:3]
    arrays = _arrays(clip)
    meta = {
        "caption": made_of["prompt"], "fps": written.fps, "frames": frames, "height": height, "width": width,
        "intrinsics": [intrinsics] * frames, "provenance": provenance(), "generation": dict(made_of),
    }  # fmt: skip
    check_clip(arrays, meta, (frames, height, width))
    output = OutputFolder.of(folder)
    shutil.rmtree(output.partial, ignore_errors=True)  # of a writer that was stopped
    output.prepare()
    try:
        _write(output.partial, clip, arrays, np.array(intrinsics), written)
        (output.partial / CARD).write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        shutil.rmtree(output.partial, ignore_errors=True)
        raise UserError(f"{folder}: cannot be written: {disk_fault(error) or error.strerror}") from None
    output.publish(CARD, ())


def _arrays(clip: Clip) -> dict[str, np.ndarray]:
    """The arrays of the clip's blob, as a dataset's clips have them; {} without heads."""
    if clip.depth is None or clip.motion is None:
        return {}
    known = np.ones(clip.motion.shape[1:], bool)
    masks = {"depth_valid": clip.depth > 0, "flow_valid": known, "dz_valid": known}
    return {"depth": clip.depth, "motion": clip.motion, **masks}


def _write(
    folder: Path, clip: Clip, arrays: Mapping[str, np.ndarray], intrinsics: np.ndarray, written: Written
) -> None:
    even = clip.video.shape[1] % 2 == clip.video.shape[2] % 2 == 0
    (folder / "video.mp4").write_bytes(
        encode_mp4(clip.video, written.fps, pixel_format="yuv420p" if even else "yuv444p")
    )
    if written.frames:
        for t, frame in enumerate(clip.video):
            picture = io.BytesIO()
            Image.fromarray(frame).save(picture, "PNG")
            _numbered(folder / "frames", t, "png", picture.getvalue())
    if clip.depth is None or clip.motion is None:
        return
    panels = side_by_side(clip.video, clip.depth, clip.motion)
    (folder / "side-by-side.mp4").write_bytes(encode_mp4(panels, written.fps, pixel_format="yuv420p"))
    (folder / "clip.truth").write_bytes(blob.encode(arrays, blob.QUANTISATION))
    if written.points:
        for t, (points, colours) in enumerate(lifted(clip.video, clip.depth, intrinsics, written.points)):
            _numbered(folder / "points", t, "ply", ply(points, colours))


def _numbered(folder: Path, t: int, ending: str, data: bytes) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{t:04d}.{ending}").write_bytes(data)
