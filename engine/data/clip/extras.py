"""Optional arrays of a clip: further truth that a simulator knows.

One table of dtypes, shapes and meanings; `schema` checks it wherever it checks the other arrays.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ExtraRule:
    """An optional array.

    dtype: after decoding.
    axes: length of each axis: a number, "T", "T-1", "H" or "W" of the clip, or the name of a count that all arrays of
        the clip with that axis share.
    meaning: one line for a dataset's card.
    error: largest error of each slice of the first axis in storage; () for arrays that are stored exactly.
    """

    dtype: str
    axes: tuple[int | str, ...]
    meaning: str
    error: tuple[float, ...] = ()


EXTRAS: Mapping[str, ExtraRule] = {
    "track_point": ExtraRule("float32", ("T", "points", 3), "world position of tracked surface points, metres"),
    "track_pixel": ExtraRule("float32", ("T", "points", 2), "their place (x, y) in the image, px; 0 behind the camera"),
    "track_visible": ExtraRule("bool", ("T", "points"), "the camera sees the tracked point"),
    "track_start": ExtraRule("int32", ("points",), "the frame in which the tracked point is chosen: its first visible"),
    "track_instance": ExtraRule("uint8", ("points",), "the thing that the tracked point is part of"),
    "backward_motion": ExtraRule(
        "float32", (3, "T-1", "H", "W"), "slice t: motion (du px, dv px, dz m) from frame t + 1 back to frame t",
        (1 / 256, 1 / 256, 1e-4),
    ),
    "backward_valid": ExtraRule("bool", ("T-1", "H", "W"), "where backward_motion is known"),
    "backward_visible": ExtraRule("bool", ("T-1", "H", "W"), "the point of frame t + 1 is seen in frame t, too"),
    "normal": ExtraRule(
        "float32", (3, "T", "H", "W"), "unit normal of the face that the pixel sees, towards the camera, in its "
        "axes; 0 where depth is not known", (5e-5, 5e-5, 5e-5),
    ),
    "box_instance": ExtraRule("uint8", ("boxes",), "the thing in each 3D box"),
    "box_rigid": ExtraRule("bool", ("boxes",), "the box turns with its rigid thing; else it is along the world's axes"),
    "box_centre": ExtraRule("float32", ("T", "boxes", 3), "world position of the box's centre, metres"),
    "box_size": ExtraRule("float32", ("T", "boxes", 3), "lengths of the box's edges, metres"),
    "box_quaternion": ExtraRule("float32", ("T", "boxes", 4), "(w, x, y, z), from the box's axes to the world's"),
    "velocity_instance": ExtraRule("uint8", ("velocities",), "the rigid thing that has each velocity"),
    "linear_velocity": ExtraRule(
        "float32", ("T", "velocities", 3), "of the position in the json's `tracks`, world axes, m/s"
    ),
    "angular_velocity": ExtraRule("float32", ("T", "velocities", 3), "world axes, rad/s"),
    "contact_time": ExtraRule("float64", ("contacts",), "mean time of the impulse, seconds from the first frame"),
    "contact_instance": ExtraRule("uint8", ("contacts", 2), "the two things that touch"),
    "contact_point": ExtraRule("float32", ("contacts", 3), "mean place of the impulse, world, metres"),
    "contact_normal": ExtraRule("float32", ("contacts", 3), "unit, from the first thing to the second, world axes"),
    "contact_impulse": ExtraRule(
        "float32", ("contacts", 3), "on the second thing within one frame interval, with friction, world axes, N s"
    ),
}  # fmt: skip


def check_shapes(entries: Mapping[str, Mapping[str, Any]], size: tuple[int, int, int]) -> None:
    """Checks dtypes and shapes of those arrays that are there. Raises ValueError that names the array.

    entries: name -> dtype and shape of each array of a clip, as decoded.
    size: (frames, height, width).
    """
    counts: dict[int | str, int] = {"T": size[0], "T-1": size[0] - 1, "H": size[1], "W": size[2]}
    for name, rule in EXTRAS.items():
        if (entry := entries.get(name)) is None:
            continue
        shape = tuple(entry["shape"])
        if len(shape) == len(rule.axes):
            for axis, length in zip(rule.axes, shape, strict=True):
                if isinstance(axis, str):
                    counts.setdefault(axis, length)
        expected = [axis if isinstance(axis, int) else counts.get(axis, axis) for axis in rule.axes]
        if list(shape) != expected:
            wanted = ", ".join(map(str, expected))
            raise ValueError(f"array {name!r}: shape {list(shape)}, expected [{wanted}]")
        dtype = "float32" if entry.get("quantisation") else entry["dtype"]
        if dtype != rule.dtype:
            raise ValueError(f"array {name!r}: dtype {dtype}, expected {rule.dtype}")


def check_contents(arrays: Mapping[str, np.ndarray], finite: Collection[str]) -> None:
    """Checks the values of those arrays that are there. Raises ValueError that names the array.

    arrays: some or all arrays of a clip, with checked dtypes and shapes.
    finite: names of those that are known to be finite.
    """
    for name in EXTRAS.keys() & arrays.keys():
        array = arrays[name]
        if array.dtype.kind == "f" and name not in finite:
            low, high = array.min(initial=0), array.max(initial=0)
            if not (math.isfinite(low) and math.isfinite(high)):
                count = np.count_nonzero(~np.isfinite(array))
                raise ValueError(f"array {name!r}: {count} values are not finite")
        if name.endswith("_instance") and (count := np.count_nonzero(array == 0)):
            raise ValueError(f"array {name!r}: {count} values are 0, which is no thing")
    if "track_start" in arrays and "track_visible" in arrays:
        start, visible = arrays["track_start"], arrays["track_visible"]
        inside = (start >= 0) & (start < len(visible))
        if not inside.all():
            raise ValueError(f"array 'track_start': {np.count_nonzero(~inside)} values are no frame of the clip")
        if count := np.count_nonzero(visible.argmax(axis=0) != start):
            raise ValueError(f"array 'track_start': {count} values are not the first frame in 'track_visible'")
