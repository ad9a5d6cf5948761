"""Assigns the files of a folder to recordings, by camera, sequence and frame.

Replicator names its files in four ways, and users sort them in a fifth. Source: BasicWriter.write in
    omni.replicator.core/scripts/writers_default/basicwriter.py, versions 0.0.1 and 0.0.2:

    rgb_0000.png                      one camera
    Camera_A/rgb/rgb_0000.png         several cameras, a folder for each
    rgb/Camera_A_rgb_0000.png         several cameras, use_common_output_dir=True
    rgb_3_0000.png                    the third call of an on_time trigger, with its own frame numbers
    rgb/0000.png                      a folder for each annotator
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from phys4d.engine.errors import UserError

# File name endings of an annotator's data. A distance as png is a colour picture, not metric (colorize_depth).
ENDINGS = {
    "rgb": ("png", "jpg", "jpeg"),
    "camera_params": ("json",),
    "distance_to_image_plane": ("npy",),
    "distance_to_camera": ("npy",),
    "motion_vectors": ("npy",),
    "instance_segmentation": ("png", "npy"),
    "instance_segmentation_mapping": ("json",),
    "instance_id_segmentation": ("png", "npy"),
    "instance_id_segmentation_mapping": ("json",),
}
_NUMBERS = r"(?P<sequence>(?:\d+_)*)(?P<frame>\d{1,9})\.(?P<ending>[a-z]+)"
_NAMED = re.compile(rf"(?:(?P<camera>.+)_)?(?P<annotator>{'|'.join(ENDINGS)})_{_NUMBERS}")
_BARE = re.compile(_NUMBERS)
_FRAME = re.compile(r"\d+(?=\.[a-z]+$)")


@dataclass(frozen=True)
class Recording:
    """The files of one camera in one sequence.

    place: folder that contains it.
    name: its path below the searched folder, with camera and sequence if file names contain them.
    files: annotator -> frame number -> file; the frames of rgb are consecutive.
    """

    place: Path
    name: str
    files: Mapping[str, Mapping[int, Path]]

    def has(self, annotator: str) -> bool:
        """Whether the recording has any file of an annotator."""
        return annotator in self.files

    def frames(self) -> list[int]:
        """Its frame numbers in order."""
        return sorted(self.files["rgb"])

    def file(self, annotator: str, frame: int) -> Path:
        """The file of one frame. Raises UserError that names it if it is missing."""
        there = self.files[annotator]
        if frame not in there:
            missing = _same_name(next(iter(there.values())), frame)
            raise UserError(f"{missing}: is missing, {annotator} must have every frame that rgb has: record it again")
        return there[frame]


def find_recordings(folder: Path) -> list[Recording]:
    """All recordings in a folder and below it, in the order of their names.

    Raises UserError if there is none, two files are the same frame of the same camera, or frames are missing.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder: give one that a Replicator writer wrote")
    found: dict[tuple[str, str, tuple[int, ...]], dict[str, dict[int, Path]]] = {}
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            _sort_in(found, folder, Path(place), name)
    recordings = [
        Recording(folder / key[0], _name(*key), files) for key, files in sorted(found.items()) if "rgb" in files
    ]
    if not recordings:
        raise UserError(
            f"{folder}: holds no rgb_0000.png or rgb/0000.png, nor does a folder in it: give a folder that a "
            "Replicator writer wrote with rgb=True"
        )
    for recording in recordings:
        _refuse_gaps(recording)
    return recordings


def _sort_in(found: dict, folder: Path, place: Path, name: str) -> None:
    """Assigns one file to its recording, if its name is known."""
    named, annotator, camera = _NAMED.fullmatch(name), place.name, ""
    if named:
        annotator, camera = named["annotator"], named["camera"] or ""
    match = named or (_BARE.fullmatch(name) if annotator in ENDINGS else None)
    if match is None or match["ending"] not in ENDINGS[annotator]:
        return
    # A mapping file is in the folder of its segmentation.
    sorted_by_annotator = place != folder and place.name in (annotator, annotator.removesuffix("_mapping"))
    home = place.parent if sorted_by_annotator else place
    sequence = tuple(int(number) for number in match["sequence"].split("_")[:-1])
    key = (home.relative_to(folder).as_posix(), camera, sequence)
    frames = found.setdefault(key, {}).setdefault(annotator, {})
    other = frames.setdefault(int(match["frame"]), place / name)
    if other != place / name:
        raise UserError(f"{place / name}: is the same frame as {other}: remove one of them")


def _name(place: str, camera: str, sequence: tuple[int, ...]) -> str:
    parts = [place] if place != "." else []
    return "/".join([*parts, *([camera] if camera else []), *(str(number) for number in sequence)]) or "."


def _refuse_gaps(recording: Recording) -> None:
    numbers = recording.frames()
    if len(numbers) < 2:
        raise UserError(f"{recording.files['rgb'][numbers[0]]}: is the only frame: a clip needs two or more")
    for before, after in pairwise(numbers):
        if after != before + 1:
            missing = _same_name(recording.files["rgb"][before], before + 1)
            raise UserError(f"{missing}: is missing, the next frame is {after}: record all frames of the clip")


def _same_name(path: Path, frame: int) -> Path:
    """The path of another frame's file, in the same folder and with the same name pattern."""
    return path.with_name(_FRAME.sub(lambda digits: str(frame).zfill(len(digits[0])), path.name))
