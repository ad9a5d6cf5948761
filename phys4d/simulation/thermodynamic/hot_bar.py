"""Hot bar: a steel bar, glowing at one end, tips over, falls or is thrown to the floor while heat spreads along it."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from phys4d.simulation.assembly import InstanceMesh, assemble
from phys4d.simulation.body import Body
from phys4d.simulation.caption import motion
from phys4d.simulation.mesh_sequence import MeshSequence, Texture, rotation
from phys4d.simulation.rigid.body_meshes import later_meshes
from phys4d.simulation.scene import FIRST_BODY, Scene
from phys4d.simulation.scenery import poses, sampling
from phys4d.simulation.screening import check_visible_motion, is_cut_off
from phys4d.simulation.shapes import unit_box
from phys4d.simulation.thermodynamic.glow import glowing, in_words
from phys4d.simulation.thermodynamic.gridded_box import gridded_box
from phys4d.simulation.thermodynamic.heat_grid import HeatGrid
from phys4d.simulation.thermodynamic.hot_ball import at_vertices
from phys4d.simulation.thermodynamic.hot_body import AMBIENT, HotBodyScene, round_kelvin, steel
from phys4d.simulation.thermodynamic.pace import in_words as in_pace

CELLS = 60
DIFFUSIVITY = {"simulated": 2.5e-2, "real": 1.2e-5}  # m2/s of steel


@dataclass(frozen=True, kw_only=True)
class HotBarScene(HotBodyScene):
    """A bar along its own x axis whose positive end is hot.

    hot: share of the length that is hot at t = 0.
    falls_over: the bar leans and tips over; else it falls from a height.
    """

    hot: float
    falls_over: bool

    def sentence(self) -> str:
        """The caption without the camera's motion."""
        pace = in_pace(DIFFUSIVITY["simulated"] / DIFFUSIVITY["real"])
        heat, (bar,) = f"{in_words(self.temperature)} at {self.temperature:.0f} K", self.bodies
        name = f"steel bar {2 * bar.size[0]:.2f} m long"
        if self.falls_over:
            return f"a leaning {name}, at rest, {heat} at its top, falls over while the heat spreads along it{pace}"
        falls = f"{motion(bar, flying=True)} falls onto the floor while the heat spreads along it"
        return f"a {name}, {heat} at one end, {falls}{pace}"

    def badly_framed(self) -> bool:
        """Whether the first frame cuts off the bar."""
        return is_cut_off(self, _corners(self.bodies[0]))

    def simulate(self, frames: int, fps: float, detail: int) -> MeshSequence:
        """See `Scene.simulate`."""
        tracks, bar = self.tracks(frames, fps), self.bodies[0]
        track = tracks[FIRST_BODY]
        rest, faces = gridded_box(bar.size, (CELLS, 1, 1))
        colour = glowing(at_vertices(self.heat(frames, fps)[..., None], rest, bar.size), bar.rgb)
        part = InstanceMesh(track.apply(rest), faces, rest, FIRST_BODY, colour, Texture.GLOW, track)
        meshes = assemble(self, [part, *later_meshes(self, tracks, detail)], frames, detail)
        check_visible_motion(self, meshes, [FIRST_BODY], fps)
        return meshes

    def heat(self, frames: int, fps: float) -> np.ndarray:
        """Temperatures of the bar's slices [T, CELLS], kelvin."""
        place = (np.arange(CELLS) + 0.5) / CELLS
        first = AMBIENT + (self.temperature - AMBIENT) / (1 + np.exp((1 - self.hot - place) / 0.02))
        grid = HeatGrid(first[:, None], (2 * self.bodies[0].size[0] / CELLS, 1.0), DIFFUSIVITY["simulated"])
        heat = [grid.temperature[:, 0]]
        for _ in range(frames - 1):
            grid.advance(1 / fps)
            heat.append(grid.temperature[:, 0])
        return np.array(heat)

    def parameters(self) -> dict[str, Any]:
        """Parameters of the whole scene; conduction is faster than in reality by the stated factor, without loss to the
        air.
        """
        return super().parameters() | {
            "hot_share_of_length": self.hot,
            "thermal_diffusivity_simulated": DIFFUSIVITY["simulated"],
            "thermal_diffusivity_real": DIFFUSIVITY["real"],
            "conduction_faster_than_real": DIFFUSIVITY["simulated"] / DIFFUSIVITY["real"],
        }


def hot_bar(rng: np.random.Generator) -> Scene:
    """Samples a scene: half of the bars lean and tip over, a quarter fall from a height, a quarter are thrown."""
    view = sampling.view(rng, distance=(1.15, 1.35), height=(0.6, 0.95), target_height=0.24)
    room, light = sampling.room(rng), sampling.light(rng)
    axes = view.level_axes()
    falls_over = bool(rng.uniform() < 0.5)
    size = (rng.integers(54, 69) / 200, rng.uniform(0.05, 0.065), rng.uniform(0.045, 0.06))
    temperature = round_kelvin(rng.uniform(1150, 1700))
    side = rng.choice([-1, 1])
    heading = poses.heading(axes, rng.uniform(-0.4, 0.4)) * side
    # The hot end points up if the bar leans, else sideways, tilted up or down.
    pitch = -rng.uniform(1.0, 1.2) if falls_over else rng.uniform(-0.5, 0.5)
    quaternion = poses.heading_pitch(heading, pitch)
    place = -side * axes[0] * (0.15 if falls_over else 0.0) + axes[1] * rng.uniform(-0.05, 0.1)
    velocity = poses.throw(rng, share=0.0 if falls_over else 0.5, level=(0.2, 0.8), up=(-0.5, 0.6))
    place = place - 0.2 * np.array([velocity[0], velocity[1], 0.0]) @ axes
    bar = sampling.body(
        rng, "box", "red", size, place, quaternion=quaternion, velocity=velocity, materials=("steel",)
    )
    lowest = _corners(bar)[:, 2].min()
    height = 0.0 if falls_over else rng.uniform(0.18, 0.35)
    x, y, _ = (float(value) for value in place)
    bar = replace(bar, **steel(bar, temperature), position=(x, y, float(height - lowest)))
    return HotBarScene(
        family="hot_bar", event="falls", bodies=(bar,), room=room, view=view, light=light, temperature=temperature,
        hot=rng.uniform(0.25, 0.4), falls_over=falls_over,
    )  # fmt: skip


def _corners(bar: Body) -> np.ndarray:
    """World points [24, 3] of its corners, metres."""
    vertices, _ = unit_box()
    return (vertices * np.array(bar.size)) @ rotation(np.array(bar.quaternion)).T + np.array(bar.position)
