"""A scene in MuJoCo: a model, its visible objects, and a check that the event of the caption happens."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from phys4d.simulation.assembly import InstanceMesh, assemble
from phys4d.simulation.mesh_sequence import MeshSequence
from phys4d.simulation.mujoco_scenes.rollout import Rollout, StepCallback, check_energy, run_model
from phys4d.simulation.mujoco_scenes.scene_object import SceneObject, Surface, surface_of_flex, surface_of_geoms
from phys4d.simulation.scene import FIRST_BODY, Scene, Unstable, Unusable
from phys4d.simulation.screening import check_visible_motion, is_cut_off

COARSE = 1  # mesh detail for the check of the first frame


@dataclass(frozen=True, kw_only=True)
class MujocoScene(Scene):
    """A scene of objects moved by MuJoCo.

    category_name: the category of physics.
    scene_objects: visible objects; their instances are FIRST_BODY, FIRST_BODY + 1, ... in this order.
    model: MJCF text, see `mjcf.Mjcf`.
    caption: the event with every initial velocity.
    steps_per_second, start, before_step: see `rollout.run_model`.
    rejection_reason: returns why the event is not visible in a rollout, or None if it is.
    physics: parameters for the clip's json.
    penetration: metres, largest allowed penetration of a contact.
    closed: the energy that MuJoCo accounts for cannot grow, which is then checked.
    """

    category_name: str
    scene_objects: tuple[SceneObject, ...]
    model: str
    caption: str
    steps_per_second: int
    rejection_reason: Callable[[Rollout], str | None]
    start: StepCallback | None = None
    before_step: StepCallback | None = None
    physics: Mapping[str, Any] = field(default_factory=dict)
    penetration: float = 0.02
    closed: bool = True

    @property
    def category(self) -> str:
        return self.category_name

    def sentence(self) -> str:
        """The caption without the camera's motion."""
        return self.caption

    def badly_framed(self) -> bool:
        """Whether the first frame cuts off an object that can move."""
        first = self._run(1, 24.0)
        return any(
            is_cut_off(self, surface.vertices[0])
            for scene_object, surface in zip(self.scene_objects, self._surfaces(first, COARSE), strict=True)
            if scene_object.dynamic
        )

    def simulate(self, frames: int, fps: float, detail: int) -> MeshSequence:
        """See `Scene.simulate`."""
        rollout = self._run(frames, fps)
        if rollout.deepest.max() > self.penetration:
            raise Unstable("things pass into each other")
        if self.closed:
            check_energy(rollout.energy)
        reason = self.rejection_reason(rollout)
        if reason is not None:
            raise Unusable(reason)
        parts = [
            InstanceMesh(
                surface.vertices, surface.faces, surface.rest, instance,
                surface.shade[:, None] * np.array(scene_object.rgb), scene_object.texture, surface.track,
            )
            for instance, (scene_object, surface) in enumerate(
                zip(self.scene_objects, self._surfaces(rollout, detail), strict=True), start=FIRST_BODY
            )
        ]  # fmt: skip
        meshes = assemble(self, parts, frames, detail)
        dynamic = [
            FIRST_BODY + number for number, scene_object in enumerate(self.scene_objects) if scene_object.dynamic
        ]
        check_visible_motion(self, meshes, dynamic, fps)
        return meshes

    def surface(self, scene_object: SceneObject, rollout: Rollout, detail: int) -> Surface:
        """The triangles of an object over time; subclasses override it for objects with their own mesh."""
        if scene_object.flex:
            return surface_of_flex(rollout.model, scene_object, rollout.flexes[scene_object.flex], detail)
        return surface_of_geoms(rollout.model, scene_object, rollout.geoms, detail)

    def objects(self) -> list[dict[str, Any]]:
        """The json entries of the objects in their order."""
        return [
            {
                "instance": instance,
                "name": scene_object.name,
                "colour": list(scene_object.rgb),
                "dynamic": scene_object.dynamic,
                **scene_object.about,
            }
            for instance, scene_object in enumerate(self.scene_objects, start=FIRST_BODY)
        ]

    def parameters(self) -> dict[str, Any]:
        """Parameters of the whole scene; SI units."""
        return super().parameters() | dict(self.physics)

    def _run(self, frames: int, fps: float) -> Rollout:
        return run_model(
            self.model,
            frames,
            fps,
            steps_per_second=self.steps_per_second,
            start=self.start,
            before_step=self.before_step,
        )

    def _surfaces(self, rollout: Rollout, detail: int) -> list[Surface]:
        return [self.surface(scene_object, rollout, detail) for scene_object in self.scene_objects]
