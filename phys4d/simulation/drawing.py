"""Draws scenes until one shows what its caption says, and counts why the others did not."""

import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from phys4d.engine.errors import UserError
from phys4d.simulation.categories import FAMILIES
from phys4d.simulation.mesh_sequence import MeshSequence
from phys4d.simulation.scene import Scene, Unstable, Unusable
from phys4d.simulation.stage import camera_path
from phys4d.simulation.stage.looks import varied

ATTEMPTS = 100

CameraMotion = Literal["static", "moving"]
Looks = Literal["plain", "varied"]


@dataclass(frozen=True)
class Drawing:
    """A scene that can be used, and how it moves.

    attempt: number of the draw. dropped: how many draws before it the simulator failed on, by reason; redrawn: how
    many did not show what they say.
    """

    scene: Scene
    meshes: MeshSequence
    attempt: int
    dropped: dict[str, int]
    redrawn: dict[str, int]


def first_usable(
    family: str, seed: int, index: int, *, frames: int, fps: float, detail: int, camera: CameraMotion, looks: Looks
) -> Drawing:
    """The first scene of this index that can be used. Raises UserError when there is none."""
    dropped: Counter[str] = Counter()
    redrawn: Counter[str] = Counter()
    for attempt in range(ATTEMPTS):
        scene = _scene(family, seed, index, attempt, camera, looks)
        if scene.badly_framed():
            redrawn["badly framed"] += 1
            continue
        try:
            meshes = scene.perform(frames, fps, detail)
        except Unstable as reason:
            dropped[str(reason)] += 1
        except Unusable as reason:
            redrawn[str(reason)] += 1
        else:
            return Drawing(scene, meshes, attempt, dict(dropped), dict(redrawn))
    counts = ", ".join(f"{reason} ({count})" for reason, count in (dropped + redrawn).items())
    raise UserError(
        f"simulate: {frames} frames at {fps} fps: none of {ATTEMPTS} scenes of family {family} was "
        f"usable: {counts}: choose more frames or fewer frames per second"
    )


def _scene(family: str, seed: int, index: int, attempt: int, camera: CameraMotion, looks: Looks) -> Scene:
    """One drawn scene. Looks and camera have generators of their own, so that what happens is the same without."""
    scene = FAMILIES[family](generator(seed, index, attempt))
    if looks == "varied":
        scene = varied(scene, generator(seed, index, attempt, "looks"))
    if camera == "moving":
        path = camera_path.draw(generator(seed, index, attempt, "camera"))
        scene = replace(scene, view=replace(scene.view, path=path))
    return scene


def generator(*numbers: int | str) -> np.random.Generator:
    """A counter-based generator that depends on these numbers and names alone."""
    digest = hashlib.blake2b(repr(("simulate", *numbers)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
