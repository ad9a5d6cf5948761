"""Rejection sampling of scenes: samples until the event of the caption is visible, and counts the rejected samples."""

import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from phys4d.engine.errors import UserError
from phys4d.simulation.assets import Library
from phys4d.simulation.categories import FAMILIES
from phys4d.simulation.mesh_sequence import MeshSequence
from phys4d.simulation.scene import Scene, Unstable, Unusable
from phys4d.simulation.scenery import sampling
from phys4d.simulation.scenery.asset_bodies import with_asset_body
from phys4d.simulation.scenery.clutter import check_clear, with_clutter
from phys4d.simulation.scenery.free_camera import check_camera_is_free, check_camera_keeps_off, with_free_path
from phys4d.simulation.scenery.looks import varied

ATTEMPTS = 100


class NoUsableScene(UserError):
    """All ATTEMPTS samples of a clip were rejected."""


CameraMotion = Literal["static", "moving"]
Looks = Literal["plain", "varied"]
Lens = Literal["fixed", "varied"]
Clutter = Literal["none", "half", "varied"]


@dataclass(frozen=True)
class SampledScene:
    """An accepted scene and its motion.

    scene: the accepted scene.
    meshes: its motion.
    attempt: number of the accepted sample, from 0.
    dropped: number of earlier samples for which the simulator failed, by reason.
    redrawn: number of earlier samples whose event was not visible, by reason.
    """

    scene: Scene
    meshes: MeshSequence
    attempt: int
    dropped: dict[str, int]
    redrawn: dict[str, int]


def sample_usable_scene(
    family: str, seed: int, index: int, *, frames: int, fps: float, detail: int, camera: CameraMotion, looks: Looks,
    lens: Lens, clutter: Clutter = "none", library: Library | None = None,
) -> SampledScene:  # fmt: skip
    """Samples scenes until one is accepted; the result depends on family, seed, index and settings only.

    family: name in `categories.FAMILIES`.
    seed, index: seed of the dataset and number of the clip.
    frames, fps: number of frames and frames per second of the clip.
    detail: subdivision level of round shapes, see `shapes.mesh`.
    camera: "static" or "moving".
    looks: "plain" or "varied".
    lens: "fixed" or "varied".
    clutter: "none", "varied", or "half" of the clips are varied.
    library: meshes of the user that take part, or None.

    Raises NoUsableScene if all ATTEMPTS samples are rejected.
    """
    dropped: Counter[str] = Counter()
    redrawn: Counter[str] = Counter()
    for attempt in range(ATTEMPTS):
        try:
            scene = _sample_scene(family, seed, index, attempt, camera, looks, lens, clutter, library, frames / fps)
            if scene.badly_framed():
                raise Unusable("badly framed")
            check_camera_is_free(scene, scene.view.camera(frames, 1, 1, fps))
            meshes = scene.simulate(frames, fps, detail)
            check_clear(scene, meshes)
            check_camera_keeps_off(meshes, scene.view.camera(frames, 1, 1, fps))
        except Unstable as reason:
            dropped[str(reason)] += 1
        except Unusable as reason:
            redrawn[str(reason)] += 1
        else:
            return SampledScene(scene, meshes, attempt, dict(dropped), dict(redrawn))
    counts = ", ".join(f"{reason} ({count})" for reason, count in (dropped + redrawn).items())
    raise NoUsableScene(
        f"simulate: {frames} frames at {fps} fps: none of {ATTEMPTS} scenes of family {family} was usable for clip "
        f"{index}: {counts}: leave it out with --on-refused skip, or choose other families with --family"
    )


def _sample_scene(
    family: str, seed: int, index: int, attempt: int, camera: CameraMotion, looks: Looks, lens: Lens,
    clutter: Clutter, library: Library | None, seconds: float,
) -> Scene:  # fmt: skip
    """Samples one scene. Later events, looks, clutter and camera use random generators of their own, so that they do
    not change the event.
    """
    scene = FAMILIES[family](keyed_rng(seed, index, attempt))
    if lens == "fixed":
        scene = replace(scene, view=sampling.with_usual_lens(scene.view))
    if library is not None:
        scene = with_asset_body(scene, library, keyed_rng(seed, index, attempt, "assets"))
    scene = scene.lasting(seconds, keyed_rng(seed, index, attempt, "later"))
    if looks == "varied":
        scene = varied(scene, keyed_rng(seed, index, attempt, "looks"))
    if clutter == "varied" or (clutter == "half" and keyed_rng(seed, index, "clutter").uniform() < 0.5):
        scene = with_clutter(
            scene, keyed_rng(seed, index, attempt, "clutter"), () if library is None else library.meshes
        )
    if camera == "moving":
        scene = with_free_path(scene, keyed_rng(seed, index, attempt, "camera"), seconds)
    return scene


def keyed_rng(*numbers: int | str) -> np.random.Generator:
    """A counter-based random generator (Philox) whose key is a hash of these numbers and names."""
    digest = hashlib.blake2b(repr(("simulate", *numbers)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
