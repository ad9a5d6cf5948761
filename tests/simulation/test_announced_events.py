"""Events stated by captions of machines and ropes happen in accepted clips; clips without motion are rejected."""

from dataclasses import replace

import pytest

from phys4d.simulation.categories import CATEGORIES
from phys4d.simulation.generate import SimulateConfig, sample_scene
from phys4d.simulation.mesh_sequence import Track
from phys4d.simulation.mujoco_scenes.rollout import Rollout, run_model
from phys4d.simulation.mujoco_scenes.scene import MujocoScene

FRAMES, FPS = 13, 20
FAMILIES = [family for category in ("articulated", "rope") for family in CATEGORIES[category]]


def rollout(scene: MujocoScene) -> Rollout:
    return run_model(
        scene.model,
        FRAMES,
        FPS,
        steps_per_second=scene.steps_per_second,
        start=scene.start,
        before_step=scene.before_step,
    )


def still(seen: Rollout) -> Rollout:
    """The same rollout without motion."""
    geoms = {
        name: Track(track.position[:1].repeat(FRAMES, 0), track.quaternion[:1].repeat(FRAMES, 0))
        for name, track in seen.geoms.items()
    }
    return replace(seen, geoms=geoms)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_caption_announces_happens_and_a_still_is_found_out(family: str) -> None:
    for index in range(2 if family in CATEGORIES["articulated"] else 1):
        found = sample_scene(SimulateConfig(families=(family,), frames=FRAMES, fps=FPS, seed=31), index)
        scene = found.scene
        assert isinstance(scene, MujocoScene)
        seen = rollout(scene)
        assert scene.rejection_reason(seen) is None
        assert scene.rejection_reason(still(seen)) is not None
        assert seen.deepest.max() <= scene.penetration
        assert not found.dropped
        moving = [scene_object for scene_object in scene.scene_objects if scene_object.dynamic]
        assert all(scene_object.name.split()[-1] in scene.sentence() for scene_object in moving)
