"""What captions of machines and ropes announce happens in the clips that a user gets; stills are found out."""

from dataclasses import replace

import pytest

from phys4d.simulation.categories import CATEGORIES
from phys4d.simulation.generate import SimulateConfig, draw
from phys4d.simulation.mesh_sequence import Track
from phys4d.simulation.world.play import Play, play
from phys4d.simulation.world.scene import WorldScene

FRAMES, FPS = 13, 20
FAMILIES = [family for category in ("articulated", "rope") for family in CATEGORIES[category]]


def played(scene: WorldScene) -> Play:
    return play(scene.model, FRAMES, FPS, steps_per_second=scene.steps_per_second, start=scene.start, drive=scene.drive)


def still(seen: Play) -> Play:
    """The same play with nothing moving."""
    geoms = {
        name: Track(track.position[:1].repeat(FRAMES, 0), track.quaternion[:1].repeat(FRAMES, 0))
        for name, track in seen.geoms.items()
    }
    return replace(seen, geoms=geoms)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_caption_announces_happens_and_a_still_is_found_out(family: str) -> None:
    for index in range(2 if family in CATEGORIES["articulated"] else 1):
        found = draw(SimulateConfig(families=(family,), frames=FRAMES, fps=FPS, seed=31), index)
        scene = found.scene
        assert isinstance(scene, WorldScene)
        seen = played(scene)
        assert scene.happened(seen) is None
        assert scene.happened(still(seen)) is not None
        assert seen.deepest.max() <= scene.penetration
        assert not found.dropped
        moving = [thing for thing in scene.things if thing.dynamic]
        assert all(thing.name.split()[-1] in scene.sentence() for thing in moving)
