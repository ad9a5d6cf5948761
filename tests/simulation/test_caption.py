"""Captions state every non-zero velocity, spin and camera motion exactly, and no other."""

import re
from dataclasses import replace

import numpy as np
import pytest

from phys4d.simulation.caption import caption, stated_spins, stated_velocities
from phys4d.simulation.rejection_sampling import keyed_rng
from phys4d.simulation.rigid import FAMILIES
from phys4d.simulation.scenery.camera_path import WORDS, sample
from phys4d.simulation.scenery.materials import HUES, MATERIALS


@pytest.mark.parametrize("family", FAMILIES)
def test_captions_read_back_to_the_velocities_and_name_the_materials(family: str) -> None:
    resting = moving = 0
    for index in range(200):
        scene = FAMILIES[family](keyed_rng(3, index))
        text = caption(scene)
        names = [body.name for body in scene.bodies]
        stated = zip(stated_velocities(text, names), stated_spins(text, names), strict=True)
        for body, (velocity, spins) in zip(scene.bodies, stated, strict=True):
            assert velocity == pytest.approx(body.velocity, abs=1e-9)
            assert spins == pytest.approx((body.turning, body.topspin), abs=1e-9)
            colour, material, shape = body.name.split()
            assert colour in HUES and material in MATERIALS and shape == body.shape
            resting, moving = resting + body.resting, moving + (not body.resting)
        assert ("m/s" in text or "turns/s" in text) == (not all(body.resting for body in scene.bodies))
        assert len({body.colour for body in scene.bodies}) == len(scene.bodies)
    assert resting > 20 and moving > (20 if family != "ramp" else -1)


@pytest.mark.parametrize("family", FAMILIES)
def test_physics_is_within_the_range_of_the_named_material(family: str) -> None:
    for index in range(50):
        for body in FAMILIES[family](keyed_rng(4, index)).bodies:
            kind = MATERIALS[body.material]
            assert kind.density[0] <= body.density <= kind.density[1]
            assert kind.restitution[0] <= body.restitution <= kind.restitution[1]
            assert kind.friction[0] <= body.friction <= kind.friction[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_stated_and_seen_is_all_that_moves_a_body_at_first(family: str) -> None:
    """Read back from the caption, velocities and spins give every body's first motion in the world."""
    for index in range(50):
        scene = FAMILIES[family](keyed_rng(3, index))
        names = [body.name for body in scene.bodies]
        text = caption(scene)
        stated = zip(stated_velocities(text, names), stated_spins(text, names), strict=True)
        for body, (velocity, (turning, topspin)) in zip(scene.bodies, stated, strict=True):
            linear, angular = scene.world_velocity(body)
            assert scene.view.level_axes() @ linear == pytest.approx(velocity, abs=1e-9)
            rolls = f"{body.name} rolling" in text
            if f"{body.name} swinging" not in text:
                level = np.linalg.norm(velocity) / body.size[0] if rolls else 2 * np.pi * abs(topspin)
                assert np.linalg.norm(angular[:2]) == pytest.approx(level, abs=1e-9)
                assert angular[2] == pytest.approx(2 * np.pi * turning, abs=1e-9)


def test_what_the_camera_does_is_stated_and_nothing_else_changes() -> None:
    for index in range(60):
        check_camera_words(index)


def check_camera_words(index: int) -> None:
    """One drawn path, read back from a caption."""
    scene = FAMILIES["collision"](keyed_rng(3, index))
    path = sample(keyed_rng(3, index, "camera"))
    text = caption(replace(scene, view=replace(scene.view, path=path)))
    before, does = text.split("; the camera ")
    assert before == caption(scene)
    assert ("handheld" in does) == path.handheld
    if path.kind == "still":
        assert does == "is handheld" and path.rate == 0
        return
    verb, word, number, unit = re.fullmatch(r"(\w+) (\w+) at ([\d.]+) (\S+?)(?:, handheld)?", does).groups()
    expected = WORDS[path.kind]
    assert (verb, unit) == (expected[0], expected[3]) and word == expected[1 if path.rate > 0 else 2]
    assert float(number) == abs(path.rate) > 0
    assert stated_velocities(text, [body.name for body in scene.bodies]) == [
        pytest.approx(body.velocity, abs=1e-9) for body in scene.bodies
    ]


def test_a_caption_that_does_not_name_a_body_is_refused() -> None:
    with pytest.raises(ValueError, match="green steel ball"):
        stated_velocities("a red wood ball from rest falls", ["red wood ball", "green steel ball"])
