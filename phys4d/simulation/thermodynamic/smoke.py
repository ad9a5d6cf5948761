"""Smoke: a ball falls or flies through hot smoke, which rises from a burner and which it stirs."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from phys4d.simulation.body import Body, Prop
from phys4d.simulation.caption import article, motion
from phys4d.simulation.gas.air import Air, Box
from phys4d.simulation.gas.volume import Volume
from phys4d.simulation.mesh_sequence import MeshSequence, Texture, Track
from phys4d.simulation.rigid.scene import RigidScene
from phys4d.simulation.scene import FIRST_BODY
from phys4d.simulation.stage import staging
from phys4d.simulation.stage.materials import COMMON, muted

CELLS = 40
BEFORE = 1.1  # seconds that the smoke has been rising when the clip begins
STEPS = 2  # of the air a frame
GREYS = (0.62, 0.95)


@dataclass(frozen=True, kw_only=True)
class SmokeScene(RigidScene):
    """A rigid scene in whose air smoke hangs. seed: of the air's unrest. box, source: see `Air`."""

    box: Box
    source: tuple[tuple[float, float, float], float]
    lift: float
    extinction: float
    rgb: tuple[float, float, float]
    seed: int

    @property
    def category(self) -> str:
        return "thermodynamic"

    def sentence(self) -> str:
        """The ball's motion and the smoke."""
        body = self.bodies[0]
        does = "falls" if body.resting else "passes"
        state = motion(body, flying=True)
        return f"{article(body.name)} {state} {does} through smoke that rises from a hot burner"

    def perform(self, frames: int, fps: float, detail: int) -> MeshSequence:
        """See `Scene.perform`."""
        meshes = super().perform(frames, fps, detail)
        density = self._density(meshes.tracks[FIRST_BODY], frames, fps)
        return replace(meshes, smoke=Volume(self.box, density, self.extinction, self.rgb))

    def parameters(self) -> dict[str, Any]:
        """Of the scene as a whole; SI units."""
        return super().parameters() | {
            "smoke_lift": self.lift, "smoke_extinction": self.extinction, "burner_radius": self.source[1],
            "rising_before": BEFORE,
        }  # fmt: skip

    def _density(self, ball: Track, frames: int, fps: float) -> np.ndarray:
        centre, radius = self.source
        unrest = np.random.Generator(np.random.Philox(self.seed))
        air = Air(self.box, (np.array(centre), radius), unrest, lift=self.lift)
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


def smoke(random: np.random.Generator) -> SmokeScene:
    """Draws a scene: 40 % fall from rest onto the burner, 60 % fly across it."""
    view = staging.view(random, distance=(1.45, 1.7), target_height=0.45)
    room, light = staging.room(random), staging.light(random)
    axes = view.level_axes()
    radius = random.uniform(0.055, 0.075)
    foot = axes[0] * random.uniform(-0.12, 0.12) + axes[1] * random.uniform(0.0, 0.25)
    body = _falling(random, foot, axes) if random.uniform() < 0.4 else _flying(random, foot, axes)
    height = random.uniform(0.04, 0.07)
    burner = Prop(
        "burner", "cylinder", muted(random, 0.15, 0.3), Texture.PLAIN, (radius * 1.4, height / 2), 0.5,
        (float(foot[0]), float(foot[1]), height / 2),
    )  # fmt: skip
    side, tone = random.uniform(1.25, 1.35), random.uniform(*GREYS)
    corner = (float(foot[0]) - side / 2, float(foot[1]) - side / 2, 0.0)
    return SmokeScene(
        family="smoke", event="falls", bodies=(body,), room=room, view=view, light=light, props=(burner,),
        box=Box(corner, side, CELLS),
        source=((float(foot[0]), float(foot[1]), height + 0.6 * radius), radius),
        lift=random.uniform(4.5, 8.0),
        extinction=random.uniform(12.0, 20.0),
        rgb=(tone, tone * random.uniform(0.96, 1.0), tone * random.uniform(0.9, 1.02)),
        seed=int(random.integers(2**31)),
    )  # fmt: skip


def _falling(random: np.random.Generator, foot: np.ndarray, axes: np.ndarray) -> Body:
    """From rest, down the smoke to the burner's rim."""
    radius, side = random.uniform(0.13, 0.17), random.choice([-1, 1])
    place = foot + axes[0] * side * random.uniform(0.05, 0.12) - axes[1] * random.uniform(0.0, 0.05)
    position = place + np.array([0, 0, random.uniform(0.75, 0.9)])
    return _ball(random, radius, position, np.zeros(3))


def _flying(random: np.random.Generator, foot: np.ndarray, axes: np.ndarray) -> Body:
    """Across the burner, through the middle of the smoke."""
    radius, side = random.uniform(0.13, 0.17), random.choice([-1, 1])
    velocity = staging.to_tenths(side * random.uniform(1.2, 1.7), 0.0, random.uniform(0.3, 0.9))
    start = foot - axes[0] * side * random.uniform(0.4, 0.5)
    return _ball(random, radius, start + np.array([0, 0, random.uniform(0.45, 0.65)]), velocity)


def _ball(random: np.random.Generator, radius: float, position: np.ndarray, velocity: np.ndarray) -> Body:
    name = staging.colours(random, 1)[0]
    tilt = staging.turned(random.uniform(0, np.pi), random.uniform(0, np.pi), random.uniform(0, np.pi))
    return staging.body(
        random, "ball", name, (radius,), position, quaternion=tilt, velocity=velocity, materials=COMMON
    )
