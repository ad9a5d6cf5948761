"""Glowing pendulum: a hot steel body on a rod swings into another body and cools."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from phys4d.simulation.mesh_sequence import MeshSequence, Texture
from phys4d.simulation.rigid.pendulum import pendulum
from phys4d.simulation.rigid.scene import RigidScene
from phys4d.simulation.scene import FIRST_BODY, Scene
from phys4d.simulation.thermodynamic.glow import glowing
from phys4d.simulation.thermodynamic.hot_body import AMBIENT, HotBodyScene, radiation_rate, round_kelvin, steel
from phys4d.simulation.thermodynamic.pace import in_words as in_pace


@dataclass(frozen=True, kw_only=True)
class GlowingPendulumScene(HotBodyScene):
    """The first body cools by Newton's law of cooling towards AMBIENT.

    rate: 1/s, cooling rate.
    """

    rate: float

    def sentence(self) -> str:
        """The caption without the camera's motion."""
        drop = self.temperature_at(0.0) - self.temperature_at(1.0)
        cooling = f"at {self.temperature:.0f} K and losing {drop:.0f} K in the first second"
        return f"{super().sentence()}; the swinging {self.bodies[0].shape} is {cooling}{in_pace(self.faster)}"

    @property
    def faster(self) -> float:
        """How many times faster the body cools than by radiation at first."""
        return self.rate / radiation_rate(self.bodies[0], self.temperature)

    def temperature_at(self, time: np.ndarray | float) -> np.ndarray | float:
        """Temperature of the first body in kelvin at times in seconds."""
        return AMBIENT + (self.temperature - AMBIENT) * np.exp(-self.rate * np.asarray(time))

    def simulate(self, frames: int, fps: float, detail: int) -> MeshSequence:
        """See `Scene.simulate`."""
        meshes = super().simulate(frames, fps, detail)
        mine = np.unique(meshes.faces[meshes.instance == FIRST_BODY])
        colour = np.repeat(meshes.colour[None], frames, axis=0)
        heat = np.asarray(self.temperature_at(np.arange(frames) / fps))
        colour[:, mine] = glowing(heat, self.bodies[0].rgb)[:, None]
        texture = meshes.texture.copy()
        texture[mine] = Texture.GLOW
        return replace(meshes, colour=colour, texture=texture)

    def parameters(self) -> dict[str, Any]:
        """Parameters of the whole scene; SI units."""
        return super().parameters() | {"cooling_rate": self.rate, "cooling_faster_than_real": self.faster}


def glowing_pendulum(rng: np.random.Generator) -> Scene:
    """Samples a pendulum scene with a hot body, which loses 40 to 60 % of its excess temperature in a second."""
    scene = pendulum(rng)
    assert isinstance(scene, RigidScene)
    bob, *others = scene.bodies
    temperature = round_kelvin(rng.uniform(1450, 1800))
    bob = replace(bob, **steel(bob, temperature), density=rng.uniform(7700, 7900))
    return GlowingPendulumScene(
        family="glowing_pendulum", event=scene.event, bodies=(bob, *others), room=scene.room, view=scene.view,
        light=scene.light, props=scene.props, temperature=temperature, rate=rng.uniform(0.5, 0.9),
    )  # fmt: skip
