"""Glowing pendulum: a hot steel body on a rod swings into another body and cools in a draught."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from phys4d.simulation.mesh_sequence import MeshSequence, Texture
from phys4d.simulation.rigid.pendulum import pendulum
from phys4d.simulation.rigid.scene import RigidScene
from phys4d.simulation.scene import FIRST_BODY, Scene
from phys4d.simulation.thermodynamic.glow import glowing
from phys4d.simulation.thermodynamic.hot_body import AMBIENT, HotBodyScene, round_kelvin, steel


@dataclass(frozen=True, kw_only=True)
class GlowingPendulumScene(HotBodyScene):
    """The first body cools at `rate` (1/s) times how much warmer than AMBIENT it is: Newton's law of cooling."""

    rate: float

    def sentence(self) -> str:
        """The swing, and the heat."""
        drop = self.temperature_at(0.0) - self.temperature_at(1.0)
        cooling = f"at {self.temperature:.0f} K and losing {drop:.0f} K in the first second"
        return f"{super().sentence()}; the swinging {self.bodies[0].shape} is {cooling}"

    def temperature_at(self, time: np.ndarray | float) -> np.ndarray | float:
        """Kelvin of the first body at times in seconds."""
        return AMBIENT + (self.temperature - AMBIENT) * np.exp(-self.rate * np.asarray(time))

    def perform(self, frames: int, fps: float, detail: int) -> MeshSequence:
        """See `Scene.perform`."""
        meshes = super().perform(frames, fps, detail)
        mine = np.unique(meshes.faces[meshes.instance == FIRST_BODY])
        colour = np.repeat(meshes.colour[None], frames, axis=0)
        heat = np.asarray(self.temperature_at(np.arange(frames) / fps))
        colour[:, mine] = glowing(heat, self.bodies[0].rgb)[:, None]
        texture = meshes.texture.copy()
        texture[mine] = Texture.GLOW
        return replace(meshes, colour=colour, texture=texture)

    def parameters(self) -> dict[str, Any]:
        """Of the scene as a whole; SI units."""
        return super().parameters() | {"cooling_rate": self.rate}


def glowing_pendulum(random: np.random.Generator) -> Scene:
    """Draws a scene of rigid bodies whose swinging one is hot; it loses 40 to 60 % of its excess in a second."""
    scene = pendulum(random)
    assert isinstance(scene, RigidScene)
    bob, *others = scene.bodies
    temperature = round_kelvin(random.uniform(1450, 1800))
    bob = replace(bob, **steel(bob, temperature), density=random.uniform(7700, 7900))
    return GlowingPendulumScene(
        family="glowing_pendulum", event=scene.event, bodies=(bob, *others), room=scene.room, view=scene.view,
        light=scene.light, props=scene.props, temperature=temperature, rate=random.uniform(0.5, 0.9),
    )  # fmt: skip
