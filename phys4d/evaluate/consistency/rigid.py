"""The figures of physics of one clip: its rigid bodies by the simulator, and what a prediction does with them."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from phys4d.evaluate.consistency.lifted import Lifted, poses_of
from phys4d.evaluate.consistency.physics import (
    Centres,
    RigidBody,
    centres,
    collision,
    fall_acceleration,
    penetration,
)
from phys4d.simulation.shapes import inscribed_radius

_SHAPES = ("ball", "box", "cylinder", "capsule")


def bodies_of(meta: Mapping[str, Any]) -> dict[int, RigidBody]:
    """The rigid bodies of a simulated clip by instance, from its json; {} where it states none."""
    poses = poses_of(meta)
    return {
        entry["instance"]: RigidBody(
            poses[entry["instance"]].position, entry["mass"], inscribed_radius(entry["shape"], entry["size"])
        )
        for entry in meta.get("objects", [])
        if entry.get("mass") and entry["instance"] in poses and entry["shape"] in _SHAPES
    }


def body_figures(read: Lifted, start: Tensor, meta: Mapping[str, Any]) -> tuple[dict[str, float], list[float]]:
    """The figures of physics, NaN where the clip has no such event, and the mean error of centres by frame.

    read: the prediction. start: integer [N], the true instance of each pixel of frame 0. meta: json of the true clip.
    """
    found = {} if read.poses is None else bodies_of(meta)
    visible = {name: body for name, body in found.items() if (start == name).any()}
    bodies = list(visible.values())
    seen = [
        centres(read.world[:, start == name].double(), read.valid[:, start == name], body.position[0])
        for name, body in visible.items()
    ]
    fps, gravity = meta.get("fps"), meta.get("physics", {}).get("gravity")
    curve = _errors_by_frame(bodies, seen, len(read.world))
    values = {
        "centre_error": _mean(curve),
        "bodies_followed": float(np.mean([centre.known for centre in seen])) if seen else math.nan,
        "penetration": _or_nan(penetration(bodies, seen)),
    }
    hit, falls = None, []
    if fps is not None and gravity is not None:
        hit = collision(bodies, seen, fps, gravity)
        falls = [_fall_error(body, centre, fps, gravity) for body, centre in zip(bodies, seen, strict=True)]
    values["fall_error"] = _mean(falls)
    values["momentum_error"] = math.nan if hit is None else hit.momentum
    values["impulse_error"] = math.nan if hit is None else hit.impulse
    return values, curve


def _fall_error(body: RigidBody, read: Centres, fps: float, gravity: float) -> float:
    acceleration = fall_acceleration(body, read, fps, gravity)
    return math.nan if acceleration is None else float(np.linalg.norm(acceleration - np.array([0, 0, -gravity])))


def _errors_by_frame(bodies: list[RigidBody], read: list[Centres], frames: int) -> list[float]:
    errors = [
        np.where(centre.known, np.linalg.norm(centre.position - body.position, axis=1), math.nan)
        for body, centre in zip(bodies, read, strict=True)
    ]
    return [_mean([error[t] for error in errors]) for t in range(frames)]


def _mean(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
