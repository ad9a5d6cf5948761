"""Converts a folder of recordings to a dataset of clips, with masks over everything that is not known."""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from phys4d.engine.data.clip import blob, schema, video
from phys4d.engine.data.files.shards import ShardWriter
from phys4d.engine.errors import UserError
from phys4d.engine.progress import progress
from phys4d.importers.replicator.agreement import NO_EVIDENCE, WINDOW, WINDOW_STRIDE, count_at_rest, evidence
from phys4d.importers.replicator.annotations import read_array, read_picture, read_segmentation
from phys4d.importers.replicator.camera import View, read_view
from phys4d.importers.replicator.frames import Frame
from phys4d.importers.replicator.layout import Recording, find_recordings
from phys4d.importers.replicator.motion import forward_motion
from phys4d.importers.replicator.units import UNITS, unit_mismatch

DISTANCES = ("distance_to_image_plane", "distance_to_camera")
SEGMENTATIONS = ("instance_segmentation", "instance_id_segmentation")
FPS = (0.1, 1000)
MOST_INSTANCES = 255
# With a moving camera: pixels by which a vector may differ from a world at rest; least share of pixels that must fit.
REST_TOLERANCE, MIN_SHARE_AT_REST = 0.25, 0.01


@dataclass
class Imported:
    """Summary of an import.

    clips: number of clips.
    without_vectors, without_segmentation: number of clips without these annotators.
    nearest, farthest: range of depth in metres; inf and 0 if no clip has depth.
    """

    clips: int = 0
    without_vectors: int = 0
    without_segmentation: int = 0
    nearest: float = math.inf
    farthest: float = 0.0


def import_replicator(
    folder: Path, out: Path, *, fps: float, captions: Sequence[str] = (), depth_unit: str | None = None
) -> Imported:
    """Writes the dataset `out` with one clip for each recording in `folder`, in the order of their names.

    folder: output of a Replicator writer, or a folder of such folders; not changed.
    out: new dataset folder; it appears completely or not at all.
    fps: frames per second of the recordings, which do not contain it.
    captions: none, one for all clips, or one for each clip.
    depth_unit: unit of the recorded distances, one of UNITS; they are converted to metres without checking the scale.
        None: metres, as Replicator writes them; refused if the data contradicts it.

    Raises UserError, one line that names the file, and the key in it, that cannot be used.
    """
    if not (math.isfinite(fps) and FPS[0] <= fps <= FPS[1]):
        raise UserError(f"--fps {fps:g}: expected frames per second from {FPS[0]:g} to {FPS[1]:g}")
    recordings = find_recordings(folder)
    if len(captions) > 1 and len(captions) != len(recordings):
        raise UserError(f"--caption: {len(captions)} for {len(recordings)} clips: give none, one, or one for each")
    clip_captions = list(captions) * (len(recordings) if len(captions) == 1 else 1) or [""] * len(recordings)
    for recording in recordings:
        _refuse_without_geometry(recording)
    imported = Imported()
    expected: tuple[int, int, int] | None = None
    with ShardWriter(out) as writer, progress("import", total=len(recordings), unit="clips") as bar:
        for index, (recording, caption) in enumerate(zip(recordings, clip_captions, strict=True)):
            pictures = _pictures(recording)
            size = pictures.shape[:3]
            expected = expected or size
            if size != expected:
                raise UserError(
                    f"{recording.files['rgb'][recording.frames()[0]].parent}: a clip of {size} frames, height, width "
                    f"beside clips of {expected}: a dataset holds clips of one size: import it into its own"
                )
            frames, names = _frames(recording, pictures.shape[1:3], depth_unit)
            members = _members(recording, pictures, frames, names, fps, caption)
            # The hash distinguishes the keys of datasets imported from different folders.
            key = f"clip{index:06d}-{hashlib.sha256(members['mp4']).hexdigest()[:12]}"
            writer.add(key, members, size[0], fps, size[1], size[2])
            imported.clips += 1
            imported.without_vectors += not recording.has("motion_vectors")
            imported.without_segmentation += names is None
            for frame in frames:
                surface = frame.depth[frame.depth > 0]
                imported.nearest = min(imported.nearest, float(surface.min(initial=math.inf)))
                imported.farthest = max(imported.farthest, float(surface.max(initial=0)))
            bar.advance(1)
    return imported


def _refuse_without_geometry(recording: Recording) -> None:
    missing = "camera_params" if not recording.has("camera_params") else None
    if not any(recording.has(name) for name in DISTANCES):
        missing = missing or "distance_to_image_plane and no distance_to_camera"
    if missing:
        first = recording.files["rgb"][recording.frames()[0]]
        asked = missing.split()[0]
        raise UserError(f"{first}: there is no {missing} for this clip: write it with {asked}=True")


def _segmentation(recording: Recording) -> str | None:
    return next((name for name in SEGMENTATIONS if recording.has(name)), None)


def _pictures(recording: Recording) -> np.ndarray:
    """The video, uint8 [T, H, W, 3]."""
    pictures: list[np.ndarray] = []
    for frame in recording.frames():
        path = recording.file("rgb", frame)
        picture = read_picture(path)
        if pictures and picture.shape != pictures[0].shape:
            found, first = (f"{p.shape[0]}x{p.shape[1]}" for p in (picture, pictures[0]))
            raise UserError(f"{path}: {found} (height x width) after pictures of {first}: a clip has one size")
        pictures.append(picture)
    if min(pictures[0].shape[:2]) < 3:
        raise UserError(f"{path}: pictures of {pictures[0].shape[0]}x{pictures[0].shape[1]}: expected 3x3 or more")
    return np.stack(pictures)


def _frames(recording: Recording, size: tuple[int, int], unit: str | None) -> tuple[list[Frame], list[str] | None]:
    """The frames (depth in metres, instances, cameras) and the instances' names; refuses depth that seems not to be
    metres.
    """
    views = [read_view(recording.file("camera_params", frame), *size) for frame in recording.frames()]
    name, depth = _depth(recording, views, size, UNITS[unit or "metres"])
    instance, names = _instances(recording, size)
    frames = [Frame(*fields) for fields in zip(depth, instance, views, strict=True)]
    if unit is None and (why := unit_mismatch(frames, _vectors(recording, size))):
        surface = depth[depth > 0]
        raise UserError(
            f"{recording.file(name, recording.frames()[0])}: distances of this clip from {surface.min():.4g} to "
            f"{surface.max():.4g}, {why}: Replicator writes metres: say what these are with --depth-unit, one of "
            f"{', '.join(UNITS)}"
        )
    return frames, names


def _members(
    recording: Recording, pictures: np.ndarray, frames: list[Frame], names: list[str] | None, fps: float, caption: str
) -> dict[str, bytes]:
    size, views = pictures.shape[1:3], [frame.view for frame in frames]
    depth = np.stack([frame.depth for frame in frames])
    arrays = {"depth": depth.astype(np.float32), "depth_valid": depth > 0}
    arrays |= _motion(recording, frames, names or [])
    if names is not None:
        instance = np.stack([frame.instance for frame in frames])
        arrays["instance"] = np.where(depth > 0, instance, 0).astype(np.uint8)
    meta: dict[str, Any] = {
        "caption": caption,
        "depth_kind": "metric",
        "fps": fps,
        "frames": len(pictures),
        "height": size[0],
        "width": size[1],
        "intrinsics": [view.intrinsics.tolist() for view in views],
        "camera_to_world": [view.camera_to_world.tolist() for view in views],
        "objects": [{"instance": number, "name": name} for number, name in enumerate(names or (), 1)],
        "provenance": {
            "source": "replicator",
            "recording": recording.name,
            "first_frame": recording.frames()[0],
            "annotators": sorted(recording.files),
        },
    }
    try:
        schema.check_clip(arrays, meta, pictures.shape[:3])
    except ValueError as error:
        first = recording.files["rgb"][recording.frames()[0]]
        raise UserError(f"{first}: what was recorded of this clip makes no sound one: {error}") from None
    return {
        "mp4": video.encode_mp4(pictures, fps),
        "truth": blob.encode(arrays, blob.QUANTISATION),
        "json": json.dumps(meta, separators=(",", ":")).encode(),
    }


def _depth(recording: Recording, views: list[View], size: tuple[int, int], scale: float) -> tuple[str, np.ndarray]:
    """The annotator's name, and depth along the optical axis times `scale`, float64 [T, H, W].

    0 where there is no surface: inf, 0 or NaN in the file, or values that float32 cannot represent. Replicator writes
        distances in metres for any scene unit; distance_to_camera is along the ray.
    """
    name = next(name for name in DISTANCES if recording.has(name))
    frames = [read_array(recording.file(name, frame), size, 1)[..., 0] for frame in recording.frames()]
    if name == "distance_to_camera":
        frames = [d / np.linalg.norm(view.rays(*size), axis=2) for d, view in zip(frames, views, strict=True)]
    depth = np.stack(frames) * scale
    with np.errstate(over="ignore"):
        stored = depth.astype(np.float32)
    return name, np.where(np.isfinite(stored) & (stored > 0), depth, 0.0)


def _instances(recording: Recording, size: tuple[int, int]) -> tuple[np.ndarray, list[str] | None]:
    """Instances int64 [T, H, W], numbered from 1 in the order of their names, 0 for none; and the names."""
    name = _segmentation(recording)
    frames = recording.frames()
    if name is None:
        return np.zeros((len(frames), *size), dtype=np.int64), None
    if not recording.has(f"{name}_mapping"):
        raise UserError(
            f"{recording.file(name, frames[0])}: there is no {name}_mapping_*.json for this clip, which says what its "
            "colours mean: add them, or move the segmentation away to import the clip without"
        )
    read = [
        read_segmentation(recording.file(name, frame), recording.file(f"{name}_mapping", frame), size)
        for frame in frames
    ]
    seen = {labels[code] for codes, labels in read for code in np.unique(codes).tolist() if code in labels}
    if len(seen) > MOST_INSTANCES:
        raise UserError(
            f"{recording.file(name, frames[0]).parent}: {len(seen)} instances: a clip holds at most {MOST_INSTANCES}: "
            "move the segmentation away to import the clip without"
        )
    names = sorted(seen)
    number = {label: place for place, label in enumerate(names, 1)}
    instance = np.zeros((len(frames), *size), dtype=np.int64)
    for out, (codes, labels) in zip(instance, read, strict=True):
        for code, label in labels.items():
            if label in number:
                out[codes == code] = number[label]
    return instance, names


def _vectors(recording: Recording, size: tuple[int, int]) -> Callable[[int], np.ndarray] | None:
    """Function that reads the motion vectors of frame t, float64 [H, W, 2]; None if the clip has none."""
    numbers = recording.frames()
    if not recording.has("motion_vectors"):
        return None
    return lambda t: read_array(recording.file("motion_vectors", numbers[t]), size, 2)


def _motion(recording: Recording, frames: list[Frame], names: list[str]) -> dict[str, np.ndarray]:
    """The arrays of motion; all zero and unknown if there are no motion vectors."""
    size, read = frames[0].depth.shape, _vectors(recording, frames[0].depth.shape)
    motion = np.zeros((3, len(frames) - 1, *size), dtype=np.float32)
    known, moving = (np.zeros((len(frames) - 1, *size), dtype=bool) for _ in range(2))
    fits = tested = finite = 0
    found, window = NO_EVIDENCE, list[np.ndarray]()
    for t, vectors in enumerate(map(read, range(1, len(frames))) if read else ()):
        current, following = frames[t : t + 2]
        result = forward_motion(current, following, vectors)
        motion[:, t], known[t], moving[t] = result.motion, result.known, result.moving
        fitting, of = count_at_rest(current, following, vectors, REST_TOLERANCE)
        fits, tested, finite = fits + fitting, tested + of, finite + np.isfinite(vectors).all(axis=-1).sum()
        window = [*window[1 - WINDOW :], vectors]
        if (t + 1) % WINDOW_STRIDE == 0 or following is frames[-1]:
            found += evidence(frames[t + 1 - len(window) : t + 2], window)
    if read and not finite:
        _refuse_vectors(recording, "not one of them is finite")
    if fits < MIN_SHARE_AT_REST * tested:
        _refuse_vectors(recording, f"only {fits} of {tested} pixels move as the camera's own motion says")
    if wrong := found.contradicted_instances():
        instance, explained, moved = wrong[0]
        name = names[instance - 1] if instance else "what has no label"
        _refuse_vectors(
            recording, f"of {moved} points of {name} that moved they lead {explained} to where these can have been seen"
        )
    return {"motion": motion, "flow_valid": known, "dz_valid": known.copy(), "visible": known.copy(), "moving": moving}


def _refuse_vectors(recording: Recording, why: str) -> NoReturn:
    raise UserError(
        f"{recording.file('motion_vectors', recording.frames()[1]).parent}: motion_vectors: {why}: write every frame "
        "that is rendered (rt_subframes=1), in pixels, or move them away to import the clip without motion"
    )
