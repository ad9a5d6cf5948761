"""A MuJoCo scene whose ropes are drawn as tubes."""

from dataclasses import dataclass

from phys4d.simulation.mujoco_scenes.rollout import Rollout
from phys4d.simulation.mujoco_scenes.scene import MujocoScene
from phys4d.simulation.mujoco_scenes.scene_object import SceneObject, Surface
from phys4d.simulation.rope.tube import tube


@dataclass(frozen=True, kw_only=True)
class RopeScene(MujocoScene):
    """A scene with ropes.

    ropes: names of the scene objects that are ropes; their geoms are the links in order.
    """

    ropes: tuple[str, ...]

    def surface(self, scene_object: SceneObject, rollout: Rollout, detail: int) -> Surface:
        """See `MujocoScene.surface`."""
        if scene_object.name not in self.ropes:
            return super().surface(scene_object, rollout, detail)
        radius, half = (float(length) for length in rollout.model.geom(scene_object.geoms[0]).size[:2])
        return tube([rollout.geoms[name] for name in scene_object.geoms], radius, half, detail)
