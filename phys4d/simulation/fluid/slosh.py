"""Slosh: a tray with a pool of a thin liquid is pushed sideways and stops; the liquid piles up at its end."""

from dataclasses import replace

import numpy as np

from phys4d.simulation import later
from phys4d.simulation.fluid import layout, liquids
from phys4d.simulation.fluid.layout import pushed
from phys4d.simulation.fluid.scene import FluidScene, ParticleMotion
from phys4d.simulation.mesh_sequence import Texture
from phys4d.simulation.particles.initial_particles import InitialVolume
from phys4d.simulation.particles.kinematic_bodies import KinematicBody
from phys4d.simulation.particles.obstacles import Solid
from phys4d.simulation.scene import Scene
from phys4d.simulation.scenery import poses, sampling
from phys4d.simulation.scenery.materials import muted

BOTTOM = 0.05  # metres, thickness of the tray's bottom
HIGHER = 0.05  # metres that the liquid must rise


def slosh(rng: np.random.Generator) -> Scene:
    """Samples a scene: the tray moves right or left by 0.25 to 0.38 m in 0.5 to 0.7 s, accelerating and decelerating.
    """
    view = layout.view(rng, distance=(1.35, 1.55))
    room, light = sampling.room(rng), sampling.light(rng)
    liquid = liquids.sample(liquids.LOW_VISCOSITY, rng)
    half_width, half_depth = rng.uniform(0.28, 0.34), rng.uniform(0.17, 0.22)
    rim, depth = rng.uniform(0.2, 0.26), rng.uniform(0.11, 0.15)
    side = int(rng.choice([-1, 1]))
    way, seconds = round(rng.uniform(0.25, 0.38), 2), round(rng.uniform(0.5, 0.7), 1)
    right = view.level_axes()[0]
    yaw = float(np.arctan2(right[1], right[0]))
    quaternion = poses.yaw_tilt(yaw)
    start = -0.5 * side * way * right
    w, i, j, k = (float(value) for value in quaternion)
    middle = (float(start[0]), float(start[1]), BOTTOM + depth / 2)
    tray = KinematicBody(
        "tray", muted(rng, 0.5, 0.85), Texture.PLANKS, vessel(half_width, half_depth, rim),
        pushed(start, side * way * right, seconds, quaternion), {"way": way, "seconds": seconds},
    )  # fmt: skip
    pool = InitialVolume("box", (half_width, half_depth, depth / 2), middle, (w, i, j, k))
    where = "right" if side > 0 else "left"
    return FluidScene(
        family="slosh",
        room=room,
        view=view,
        light=light,
        liquid=liquid,
        volumes=(pool,),
        seed=int(rng.integers(2**31)),
        caption=(
            f"a tray of {liquids.litres(pool.cubic_metres)} of {liquid.name} at rest is pushed {where} by {way:.2f} m "
            f"within {seconds:.1f} s and stops"
        ),
        rejection_reason=piles_up,
        later_event=pushed_again,
        kinematic_bodies=(tray,),
    )


def vessel(half_width: float, half_depth: float, rim: float) -> tuple[Solid, ...]:
    """A bottom and four walls around the origin, the nearest wall lower; inner sizes in metres."""
    wall, full = layout.RIM / 2, half_width + layout.RIM
    low = 0.8 * rim
    return (
        Solid("box", (full, half_depth + layout.RIM, BOTTOM / 2), (0.0, 0.0, BOTTOM / 2)),
        Solid("box", (full, wall, rim / 2), (0.0, half_depth + wall, rim / 2)),
        Solid("box", (full, wall, low / 2), (0.0, -half_depth - wall, low / 2)),
        Solid("box", (wall, half_depth, rim / 2), (half_width + wall, 0.0, rim / 2)),
        Solid("box", (wall, half_depth, rim / 2), (-half_width - wall, 0.0, rim / 2)),
    )


def pushed_again(scene: FluidScene, seconds: float, rng: np.random.Generator) -> FluidScene:
    """The scene with later pushes, each in the opposite direction to the one before; see `Scene.lasting`."""
    times = later.release_times(seconds, rng)
    if not times:
        return scene
    (tray,) = scene.kinematic_bodies
    start, quaternion = tray.path(0.0)
    way, duration = tray.path(np.inf)[0] - start, tray.physics["seconds"]
    pushes = [pushed(start, way, duration, quaternion)]
    pushes += [
        pushed(np.zeros(3), way * (1 if number % 2 else -1), duration, quaternion, after=time)
        for number, time in enumerate(times)
    ]

    def path(time: float) -> tuple[np.ndarray, np.ndarray]:
        return np.sum([push(time)[0] for push in pushes], axis=0), quaternion

    listed = " and ".join(f"after {time:.1f} s" for time in times)
    tray = replace(tray, path=path, physics={**tray.physics, "pushed_again_after": list(times)})
    text = f"; it is pushed back and forth again in the same way {listed}"
    return replace(scene, kinematic_bodies=(tray,), caption=scene.caption + text)


def piles_up(particle_motion: ParticleMotion) -> str | None:
    """Checks that some of the liquid rises well above the pool."""
    height = np.quantile(particle_motion.positions[:, :, 2], 0.98, axis=1)
    return None if height.max() > height[0] + HIGHER else "the liquid stays level"
