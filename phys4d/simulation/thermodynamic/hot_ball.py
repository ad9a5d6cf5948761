"""Hot ball: a glowing steel ball rolls over a cold graphite plate and leaves a hot trail, or falls onto it."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from phys4d.simulation import shapes
from phys4d.simulation.assembly import InstanceMesh, assemble
from phys4d.simulation.body import Prop
from phys4d.simulation.caption import article
from phys4d.simulation.caption import motion as in_words
from phys4d.simulation.mesh_sequence import MeshSequence, Texture, Track
from phys4d.simulation.rigid.body_meshes import later_meshes
from phys4d.simulation.scene import FIRST_BODY, Scene, Unusable
from phys4d.simulation.scenery import poses, sampling
from phys4d.simulation.screening import check_visible_motion
from phys4d.simulation.thermodynamic.glow import glowing
from phys4d.simulation.thermodynamic.gridded_box import gridded_box
from phys4d.simulation.thermodynamic.heat_grid import HeatGrid
from phys4d.simulation.thermodynamic.hot_body import (
    AMBIENT,
    DENSITY,
    HEAT_CAPACITY,
    HotBodyScene,
    heat_capacity,
    round_kelvin,
    steel,
)  # fmt: skip
from phys4d.simulation.thermodynamic.pace import in_words as in_pace

CELLS = (52, 28)
GRAPHITE = (0.17, 0.17, 0.18)
DIFFUSIVITY = {"simulated": 2e-3, "real": 8e-5}  # m2/s of graphite
EXCHANGE = 30.0  # 1/s, heat transfer rate between ball and slab
PATCH = 0.42  # radius of the contact patch, over the ball's radius
GAP = 0.004  # metres between ball and slab below which heat is transferred
HEATED = 750.0  # kelvin that some cell of the slab must reach


@dataclass(frozen=True, kw_only=True)
class HotBallScene(HotBodyScene):
    """A hot ball and a cold slab; the slab is the first prop, and its instance follows the bodies."""

    @property
    def slab_instance(self) -> int:
        """The instance of the slab."""
        return FIRST_BODY + len(self.all_bodies)

    def sentence(self) -> str:
        """The caption without the camera's motion."""
        ball = self.bodies[0]
        does = "rolls over" if ball.rolling else "falls onto"
        start = f"{article(ball.name)} at {self.temperature:.0f} K {in_words(ball, flying=not ball.rolling)}"
        pace = in_pace(DIFFUSIVITY["simulated"] / DIFFUSIVITY["real"])
        return f"{start} {does} a cold plate of graphite and heats it{pace}"

    def simulate(self, frames: int, fps: float, detail: int) -> MeshSequence:
        """See `Scene.simulate`."""
        tracks = self.tracks(frames, fps)
        track = tracks[FIRST_BODY]
        ball_heat, slab_heat = self.heat(track, fps)
        if slab_heat.max() < HEATED:
            raise Unusable("the slab stays cold")
        parts = [
            self._ball(track, ball_heat, detail), *later_meshes(self, tracks, detail), self._slab(slab_heat)
        ]  # fmt: skip
        meshes = assemble(replace(self, props=self.props[1:]), parts, frames, detail)
        check_visible_motion(self, meshes, [FIRST_BODY], fps)
        return meshes

    def objects(self) -> list[dict[str, Any]]:
        """The ball, then the slab."""
        slab = self.props[0]
        about = {
            "instance": self.slab_instance, "name": slab.name, "shape": "box", "colour": list(slab.rgb),
            "size": list(slab.size), "position": list(slab.position), "quaternion": list(slab.quaternion),
            "friction": slab.friction, "dynamic": False, "initial_temperature": AMBIENT,
        }  # fmt: skip
        return [*super().objects(), about]

    def parameters(self) -> dict[str, Any]:
        """Parameters of the whole scene; heat conduction is faster than in reality by the stated factor."""
        return super().parameters() | {
            "thermal_diffusivity_simulated": DIFFUSIVITY["simulated"],
            "thermal_diffusivity_real": DIFFUSIVITY["real"],
            "conduction_faster_than_real": DIFFUSIVITY["simulated"] / DIFFUSIVITY["real"],
            "contact_conductance_simulated": EXCHANGE * self._capacity_of_area(),
        }

    def heat(self, track: Track, fps: float) -> tuple[np.ndarray, np.ndarray]:
        """Temperatures in kelvin of the ball [T] and of the slab's cells [T, X, Y]; heat is conserved between them."""
        half, ball = np.array(self.props[0].size), self.bodies[0]
        edge = 2 * half[:2] / np.array(CELLS)
        grid = HeatGrid(np.full(CELLS, AMBIENT), (float(edge[0]), float(edge[1])), DIFFUSIVITY["simulated"])
        share = self._capacity_of_area() * edge.prod() / heat_capacity(ball)
        x, y = ((np.arange(n) + 0.5) * e - h for n, e, h in zip(CELLS, edge, half[:2], strict=True))
        local = self._local(track)
        ball_heat, slab_heat = [self.temperature], [grid.temperature]
        for t in range(1, len(local)):
            # The ball passes several cells in one frame.
            warm = ball_heat[-1]
            for step in np.linspace(0, 1, 5)[1:]:
                place = local[t - 1] + step * (local[t] - local[t - 1])
                touches = place[2] - half[2] - ball.size[0] < GAP
                near = (x[:, None] - place[0]) ** 2 + (y[None] - place[1]) ** 2 < (PATCH * ball.size[0]) ** 2
                gain = touches * near * EXCHANGE * (warm - grid.temperature)
                warm -= float(gain.sum()) * share / (4 * fps)
                grid.advance(1 / (4 * fps), gain)
            ball_heat.append(warm)
            slab_heat.append(grid.temperature)
        return np.array(ball_heat), np.array(slab_heat)

    def _capacity_of_area(self) -> float:
        """Heat capacity of the slab per area, J/(K m2)."""
        return DENSITY["graphite"] * HEAT_CAPACITY["graphite"] * 2 * self.props[0].size[2]

    def _local(self, track: Track) -> np.ndarray:
        """The ball's centre [T, 3] in the slab's frame, metres."""
        slab = Track(np.array([self.props[0].position]), np.array([self.props[0].quaternion]))
        return (track.position - slab.position) @ slab.rotation()[0]

    def _ball(self, track: Track, heat: np.ndarray, detail: int) -> InstanceMesh:
        ball = self.bodies[0]
        rest, faces = shapes.mesh(ball.shape, ball.size, detail)
        colour = np.repeat(glowing(heat, ball.rgb)[:, None], len(rest), axis=1)
        return InstanceMesh(track.apply(rest), faces, rest, FIRST_BODY, colour, Texture.GLOW, track)

    def _slab(self, heat: np.ndarray) -> InstanceMesh:
        slab = self.props[0]
        rest, faces = gridded_box(slab.size, (*CELLS, 1))
        pose = Track(np.array([slab.position]), np.array([slab.quaternion]))
        colour = glowing(at_vertices(heat, rest, slab.size), slab.rgb)
        return InstanceMesh(pose.apply(rest)[0], faces, rest, self.slab_instance, colour, Texture.GLOW)


def at_vertices(heat: np.ndarray, rest: np.ndarray, half: tuple[float, ...]) -> np.ndarray:
    """Temperatures [T, V] at the vertices of a gridded box: means of the cells around each vertex.

    heat: [T, X, Y], kelvin, of the cells.
    rest: [V, 3], metres, vertices of the box.
    half: half extents of the box, metres.
    """
    padded = np.pad(heat, ((0, 0), (1, 1), (1, 1)), mode="edge")
    corners = (padded[:, 1:, 1:] + padded[:, :-1, 1:] + padded[:, 1:, :-1] + padded[:, :-1, :-1]) / 4
    i, j = (np.round((rest[:, k] / half[k] + 1) / 2 * heat.shape[1 + k]).astype(int) for k in (0, 1))
    return corners[:, i, j]


def hot_ball(rng: np.random.Generator) -> Scene:
    """Samples a scene: 65 % roll over the slab, 35 % fall onto it."""
    view = sampling.view(rng, distance=(1.15, 1.35), height=(0.75, 1.05), target_height=0.12)
    room, light = sampling.room(rng), sampling.light(rng)
    axes = view.level_axes()
    rolls = bool(rng.uniform() < 0.65)
    side = rng.choice([-1, 1])
    half = (rng.uniform(0.46, 0.54), rng.uniform(0.22, 0.3), rng.uniform(0.012, 0.02))
    yaw = float(np.arctan2(axes[0][1], axes[0][0]))
    w, i, j, k = (float(value) for value in poses.yaw_tilt(yaw))
    slab = Prop("graphite plate", "box", GRAPHITE, Texture.PLAIN, half, 0.5, (0.0, 0.0, half[2]), (w, i, j, k))
    radius, temperature = rng.uniform(0.12, 0.15), round_kelvin(rng.uniform(1050, 1600))
    height = 2 * half[2] + radius + (0.0 if rolls else rng.uniform(0.25, 0.4))
    away = rng.uniform(-0.06, 0.06)
    start = -side * (half[0] - 0.7 * radius) if rolls else rng.uniform(-0.2, 0.2)
    velocity = poses.to_tenths(side * rng.uniform(0.7, 1.1), 0, 0) if rolls else None
    place = start * axes[0] + away * axes[1] + np.array([0, 0, height])
    ball = sampling.body(rng, "ball", "red", (radius,), place, velocity=velocity, rolling=rolls, materials=("steel",))
    ball = replace(ball, **steel(ball, temperature), restitution=rng.uniform(0.18, 0.25))
    return HotBallScene(
        family="hot_ball", event="falls", bodies=(ball,), room=room, view=view, light=light, props=(slab,),
        temperature=temperature,
    )  # fmt: skip
