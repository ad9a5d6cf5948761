"""A later event of liquids: a box above the scene, whose bottom slides open, lets out more of the liquid."""

from dataclasses import replace

import numpy as np

from phys4d.simulation import later
from phys4d.simulation.body import Prop
from phys4d.simulation.fluid.layout import pushed
from phys4d.simulation.fluid.scene import FluidScene
from phys4d.simulation.mesh_sequence import Texture
from phys4d.simulation.particles.initial_particles import InitialVolume
from phys4d.simulation.particles.kinematic_bodies import KinematicBody
from phys4d.simulation.particles.obstacles import Solid
from phys4d.simulation.scene import Unusable
from phys4d.simulation.scenery import poses
from phys4d.simulation.scenery.materials import muted
from phys4d.simulation.screening import NEAREST

HALF = (0.085, 0.07)  # metres, inside: half of its width and depth, and half of the liquid's height
WALL = 0.05  # metres, thickness: more than a particle moves in one step
OPENING = 0.2  # seconds
ABOVE = 0.08  # metres, least distance of its bottom from everything below
HEIGHT = (0.3, 0.85)  # range in metres, of its bottom
PLACES = 200  # tried
ASIDE = (0.4, 0.3)  # metres, largest distance from the middle of the liquid: right or left, and away
HOLDER = 0.01  # metres, radius of the rod that holds it


def with_hopper(scene: FluidScene, seconds: float, rng: np.random.Generator) -> FluidScene:
    """The scene with a box whose bottom opens in the clip's last quarter; unchanged if the clip is short.

    seconds: length of the clip.
    rng: random generator.

    Raises Unusable if there is no place for the box that the camera sees.
    """
    times = later.release_times(seconds, rng)
    if not times:
        return scene
    right = scene.view.level_axes()[0]
    yaw = float(np.arctan2(right[1], right[0]))
    bottom, turn = _place(scene, rng), poses.yaw_tilt(yaw)
    w, i, j, k = (float(value) for value in turn)
    rgb, half, high = muted(rng, 0.45, 0.8), HALF[0], 2 * HALF[1] + WALL
    full, middle = half + WALL, bottom + np.array([0, 0, high / 2])
    sides = [
        ((full, WALL / 2, high / 2), (0.0, half + WALL / 2)), ((full, WALL / 2, high / 2), (0.0, -half - WALL / 2)),
        ((WALL / 2, half, high / 2), (half + WALL / 2, 0.0)), ((WALL / 2, half, high / 2), (-half - WALL / 2, 0.0)),
    ]  # fmt: skip
    away = scene.view.level_axes()[1]
    walls = []
    for size, (x, y) in sides:
        px, py, pz = (float(value) for value in middle + x * right + y * away)
        walls.append(Prop("side of the box", "box", rgb, Texture.PLANKS, size, 0.3, (px, py, pz), (w, i, j, k)))
    px, py, pz = (float(value) for value in bottom + (half + WALL / 2) * away)
    top = (pz + high + later.HOLDER_TOP) / 2
    rod = Prop(
        "holder", "cylinder", rgb, Texture.PLAIN, (HOLDER, later.HOLDER_TOP - top), 0.5, (px, py, top)
    )
    side = rng.choice([-1, 1])
    slide = pushed(bottom - np.array([0, 0, WALL / 2]), side * 2.2 * full * right, OPENING, turn, after=times[-1])
    plate = KinematicBody(
        "bottom of the box", rgb, Texture.PLANKS, (Solid("box", (full, full, WALL / 2), (0.0, 0.0, 0.0)),), slide,
        {"opens_after": times[-1], "seconds": OPENING},
    )  # fmt: skip
    x, y, z = (float(value) for value in bottom + np.array([0, 0, HALF[1]]))
    more = InitialVolume("box", (half, half, HALF[1]), (x, y, z), (w, i, j, k))
    text = f"; after {times[-1]:.1f} s the bottom of a box above slides open and more {scene.liquid.name} falls out"
    return replace(
        scene, props=(*scene.props, *walls, rod), volumes=(*scene.volumes, more), caption=scene.caption + text,
        kinematic_bodies=(*scene.kinematic_bodies, plate),
    )  # fmt: skip


def _place(scene: FluidScene, rng: np.random.Generator) -> np.ndarray:
    """Where the middle of the box's inner bottom is, world metres [3]."""
    axes, camera = scene.view.level_axes(), scene.view.camera(1, 1, 1, 1.0)
    solids = later.solids_of(scene.props)
    outlines = [volume.outline() for volume in scene.volumes]
    middle = np.array([*np.concatenate(outlines)[:, :2].mean(axis=0), 0.0])
    full = HALF[0] + WALL
    for reach in np.linspace(0.2, 1.0, PLACES):
        aside = rng.uniform(-reach, reach, size=2) * ASIDE
        place = middle + aside[0] * axes[0] + aside[1] * axes[1]
        place[2] = rng.uniform(*HEIGHT)
        corners = np.stack(np.meshgrid([-full, full], [-full, full], [-WALL - ABOVE, 2 * HALF[1] + WALL]), -1)
        corners = corners.reshape(-1, 3) @ axes + place
        pixel, depth = camera.project(0, corners)
        seen = ((pixel > 0) & (pixel < 1)).all() and depth.min() > NEAREST
        if not seen or any(solid.depth(corners).max() > -ABOVE for solid in solids):
            continue
        low, high = corners.min(axis=0), corners.max(axis=0)
        if all((points.min(axis=0) > high).any() or (points.max(axis=0) < low).any() for points in outlines):
            return place
    raise Unusable("no place for a later event")
