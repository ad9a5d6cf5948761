"""Smoke: a ball falls or flies through hot smoke that rises from a burner, and stirs it."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from phys4d.simulation.body import Body, Prop
from phys4d.simulation.caption import article, motion
from phys4d.simulation.mesh_sequence import MeshSequence, Texture, Track
from phys4d.simulation.rigid.scene import RigidScene
from phys4d.simulation.scene import FIRST_BODY
from phys4d.simulation.scenery import poses, sampling
from phys4d.simulation.scenery.materials import COMMON, muted
from phys4d.simulation.smoke.air_grid import AirGrid, GridBox
from phys4d.simulation.smoke.smoke_volume import SmokeVolume

CELLS = 40
BEFORE = 1.1  # seconds that the smoke rises before the clip begins
STEPS = 2  # of the air, for each frame
GREYS = (0.62, 0.95)
ACROSS = (1.2, 1.7)  # m/s, of a ball that flies across the burner


@dataclass(frozen=True, kw_only=True)
class SmokeScene(RigidScene):
    """A rigid scene with smoke.

    box, source, lift: see `AirGrid`.
    extinction, rgb: see `SmokeVolume`.
    seed: of the velocity noise in the air.
    """

    box: GridBox
    source: tuple[tuple[float, float, float], float]
    lift: float
    extinction: float
    rgb: tuple[float, float, float]
    seed: int

    @property
    def category(self) -> str:
        return "thermodynamic"

    def sentence(self) -> str:
        """The caption without the camera's motion."""
        body = self.bodies[0]
        does = "falls" if abs(body.velocity[0]) < ACROSS[0] else "passes"
        state = motion(body, flying=True)
        return f"{article(body.name)} {state} {does} through smoke that rises from a hot burner"

    def lasting(self, seconds: float, rng: np.random.Generator) -> "SmokeScene":
        """The scene itself: the smoke rises to the end."""
        return self

    def simulate(self, frames: int, fps: float, detail: int) -> MeshSequence:
        """See `Scene.simulate`."""
        meshes = super().simulate(frames, fps, detail)
        density = self._density(meshes.tracks[FIRST_BODY], frames, fps)
        return replace(meshes, smoke=SmokeVolume(self.box, density, self.extinction, self.rgb))

    def parameters(self) -> dict[str, Any]:
        """Parameters of the whole scene; SI units."""
        return super().parameters() | {
            "smoke_lift": self.lift, "smoke_extinction": self.extinction, "burner_radius": self.source[1],
            "rising_before": BEFORE,
        }  # fmt: skip

    def _density(self, ball: Track, frames: int, fps: float) -> np.ndarray:
        centre, radius = self.source
        unrest = np.random.Generator(np.random.Philox(self.seed))
        air = AirGrid(self.box, (np.array(centre), radius), unrest, lift=self.lift)
        seconds, size = 1 / (STEPS * fps), self.bodies[0].size[0]
        for _ in range(round(BEFORE / seconds)):
            air.step(seconds, (ball.position[0], size, np.zeros(3)))
        density = [air.smoke.copy()]
        for frame in range(1, frames):
            before, after = ball.position[frame - 1 : frame + 1]
            velocity = (after - before) * fps
            for step in range(1, STEPS + 1):
                air.step(seconds, (before + (after - before) * step / STEPS, size, velocity))
            density.append(air.smoke.copy())
        return np.stack(density)


def smoke(rng: np.random.Generator) -> SmokeScene:
    """Samples a scene: 40 % fall from rest onto the burner, 60 % fly across it."""
    view = sampling.view(rng, distance=(1.45, 1.7), target_height=0.45)
    room, light = sampling.room(rng), sampling.light(rng)
    axes = view.level_axes()
    radius = rng.uniform(0.055, 0.075)
    foot = axes[0] * rng.uniform(-0.12, 0.12) + axes[1] * rng.uniform(0.0, 0.25)
    body = _falling(rng, foot, axes) if rng.uniform() < 0.4 else _flying(rng, foot, axes)
    height = rng.uniform(0.04, 0.07)
    burner = Prop(
        "burner", "cylinder", muted(rng, 0.15, 0.3), Texture.PLAIN, (radius * 1.4, height / 2), 0.5,
        (float(foot[0]), float(foot[1]), height / 2),
    )  # fmt: skip
    side, tone = rng.uniform(1.25, 1.35), rng.uniform(*GREYS)
    corner = (float(foot[0]) - side / 2, float(foot[1]) - side / 2, 0.0)
    return SmokeScene(
        family="smoke", event="falls", bodies=(body,), room=room, view=view, light=light, props=(burner,),
        box=GridBox(corner, side, CELLS),
        source=((float(foot[0]), float(foot[1]), height + 0.6 * radius), radius),
        lift=rng.uniform(4.5, 8.0),
        extinction=rng.uniform(12.0, 20.0),
        rgb=(tone, tone * rng.uniform(0.96, 1.0), tone * rng.uniform(0.9, 1.02)),
        seed=int(rng.integers(2**31)),
    )  # fmt: skip


def _falling(rng: np.random.Generator, foot: np.ndarray, axes: np.ndarray) -> Body:
    """A ball that falls through the smoke to the burner's rim, half of them from rest."""
    radius, side = rng.uniform(0.13, 0.17), rng.choice([-1, 1])
    place = foot + axes[0] * side * rng.uniform(0.05, 0.12) - axes[1] * rng.uniform(0.0, 0.05)
    position = place + np.array([0, 0, rng.uniform(0.75, 0.9)])
    velocity = poses.throw(rng, share=0.5, level=(0.0, 0.2), up=(-1.5, 0.5))
    return _ball(rng, radius, position - 0.25 * np.array([velocity[0], velocity[1], 0.0]) @ axes, velocity)


def _flying(rng: np.random.Generator, foot: np.ndarray, axes: np.ndarray) -> Body:
    """A ball that flies across the burner, through the middle of the smoke."""
    radius, side = rng.uniform(0.13, 0.17), rng.choice([-1, 1])
    velocity = poses.to_tenths(side * rng.uniform(*ACROSS), 0.0, rng.uniform(0.3, 0.9))
    start = foot - axes[0] * side * rng.uniform(0.4, 0.5)
    return _ball(rng, radius, start + np.array([0, 0, rng.uniform(0.45, 0.65)]), velocity)


def _ball(rng: np.random.Generator, radius: float, position: np.ndarray, velocity: np.ndarray) -> Body:
    name = sampling.colours(rng, 1)[0]
    tilt = poses.yaw_tilt(rng.uniform(0, np.pi), rng.uniform(0, np.pi), rng.uniform(0, np.pi))
    return sampling.body(
        rng, "ball", name, (radius,), position, quaternion=tilt, velocity=velocity, materials=COMMON
    )
