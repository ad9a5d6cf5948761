"""Captions: every velocity that is not zero is stated, exactly, and no other."""

import pytest

from phys4d.simulation.caption import caption, stated_velocities
from phys4d.simulation.families import FAMILIES
from phys4d.simulation.generate import generator
from phys4d.simulation.materials import HUES, MATERIALS


@pytest.mark.parametrize("family", FAMILIES)
def test_captions_read_back_to_the_velocities_and_name_the_materials(family: str) -> None:
    resting = moving = 0
    for index in range(200):
        scene = FAMILIES[family](generator(3, index))
        text = caption(scene)
        stated = stated_velocities(text, [body.name for body in scene.bodies])
        for body, velocity in zip(scene.bodies, stated, strict=True):
            assert velocity == pytest.approx(body.velocity, abs=1e-9)
            colour, material, shape = body.name.split()
            assert colour in HUES and material in MATERIALS and shape == body.shape
            resting, moving = resting + body.resting, moving + (not body.resting)
        assert ("m/s" in text) == (not all(body.resting for body in scene.bodies))
        assert len({body.colour for body in scene.bodies}) == len(scene.bodies)
    assert resting > 20 and moving > 20


@pytest.mark.parametrize("family", FAMILIES)
def test_physics_is_within_the_range_of_the_named_material(family: str) -> None:
    for index in range(50):
        for body in FAMILIES[family](generator(4, index)).bodies:
            kind = MATERIALS[body.material]
            assert kind.density[0] <= body.density <= kind.density[1]
            assert kind.restitution[0] <= body.restitution <= kind.restitution[1]
            assert kind.friction[0] <= body.friction <= kind.friction[1]


def test_a_caption_that_does_not_name_a_body_is_refused() -> None:
    with pytest.raises(ValueError, match="green steel ball"):
        stated_velocities("a red wood ball from rest falls", ["red wood ball", "green steel ball"])
