"""Every family is diverse, and captions state what is drawn: velocities, lengths, litres, numbers of grains."""

import re

import numpy as np
import pytest

from phys4d.models.tiny.words import WordEncoder
from phys4d.simulation.caption import caption, stated_velocities
from phys4d.simulation.categories import FAMILIES
from phys4d.simulation.fluid.scene import FluidScene
from phys4d.simulation.mujoco_scenes.scene import MujocoScene
from phys4d.simulation.rejection_sampling import _sample_scene, keyed_rng
from phys4d.simulation.scene import Scene, Unusable

DRAWS, DISTINCT, FEW = 200, 150, 40
TOKENS, LEFT = 64, 16  # of the small models' encoder, and those for later events and the camera
THROWN = ("overhang", "coil", "crumple", "wobble", "squash", "air_ball")  # not rigid, and may have a velocity
HEIGHTS = ("wobble", "air_ball")


def drawn(family: str, seed: int) -> Scene:
    return FAMILIES[family](keyed_rng(seed, 0, 0))


def mujoco(family: str, seed: int) -> MujocoScene:
    scene = drawn(family, seed)
    assert isinstance(scene, MujocoScene)
    return scene


def distinct(family: str, draws: int) -> int:
    words = WordEncoder(tokens=TOKENS)
    captions = {drawn(family, seed).sentence() for seed in range(draws)}
    assert max(len(words.split(text)) for text in captions) <= TOKENS - LEFT
    return len(captions)


@pytest.mark.parametrize("family", FAMILIES)
def test_captions_differ(family: str) -> None:
    assert distinct(family, FEW) >= FEW * DISTINCT / DRAWS


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_at_least_150_of_200_captions_of_a_family_differ(family: str) -> None:
    assert distinct(family, DRAWS) >= DISTINCT


def check_captions(family: str, draws: int, seconds: float) -> None:
    """With later events, clutter and a moving camera."""
    words, fits = WordEncoder(tokens=TOKENS), 0
    for seed in range(draws):
        try:
            scene = _sample_scene(family, seed, 0, 0, "moving", "plain", "fixed", "varied", None, seconds)
        except Unusable:
            continue
        fits += 0 < len(words.split(caption(scene))) <= TOKENS
    assert fits


# Of all families, a scene of dominoes names the most things. The others without slow simulations are cheap.
@pytest.mark.parametrize(("family", "draws"), [("dominoes", 3), ("topple", 4), ("slosh", 4), ("dam_break", 4)])
def test_captions_of_121_frames_are_within_the_limit(family: str, draws: int) -> None:
    check_captions(family, draws, 121 / 24)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [121 / 24, 20.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_captions_of_every_family_are_within_the_limit_at_all_lengths(family: str, seconds: float) -> None:
    check_captions(family, 4, seconds)


@pytest.mark.parametrize("family", THROWN)
def test_what_is_thrown_starts_with_the_velocity_of_the_caption(family: str) -> None:
    """Every point of it, read from two frames; gravity adds its part of one."""
    thrown, fps = 0, 240
    for seed in range(4):
        scene = mujoco(family, seed)
        name = scene.scene_objects[0].name
        (stated,) = stated_velocities(scene.sentence(), [name])
        assert any(stated) == ("from rest" not in scene.sentence())
        thrown += any(stated)
        rollout = scene._run(2, fps)
        places = rollout.flexes.get(scene.scene_objects[0].flex)
        if places is None:
            places = np.stack([rollout.geoms[link].position for link in scene.scene_objects[0].geoms], axis=1)
        velocity = scene.view.level_axes() @ (places[1] - places[0]).mean(axis=0) * fps
        assert velocity[:2] == pytest.approx(stated[:2], abs=0.02)
        assert velocity[2] == pytest.approx(stated[2] - 9.81 / fps, abs=0.02)
    assert thrown


@pytest.mark.parametrize("family", HEIGHTS)
def test_what_falls_from_rest_falls_as_far_as_the_caption_says(family: str) -> None:
    for seed in range(12):
        scene = mujoco(family, seed)
        if found := re.search(r"falls (\d\.\d\d) m", scene.sentence()):
            places = scene._run(1, 24.0).flexes[scene.scene_objects[0].flex]
            assert places[0, :, 2].min() == pytest.approx(float(found[1]), abs=3e-3)
            return
    raise AssertionError("none starts from rest")


@pytest.mark.parametrize("family", ["overhang", "coil", "release", "sag"])
def test_a_rope_or_bar_is_as_long_as_the_caption_says(family: str) -> None:
    for seed in range(4):
        scene = mujoco(family, seed)
        found = re.search(r"(\d\.\d\d) m long", scene.sentence())
        length = scene.physics.get("rope_length") or 2 * scene.scene_objects[0].about["size"][0]
        assert found is not None and float(found[1]) == pytest.approx(length, abs=0.0051)


@pytest.mark.parametrize("family", ["column", "chute"])
def test_there_are_as_many_grains_as_the_caption_says(family: str) -> None:
    scene = mujoco(family, 0)
    found = re.search(r"(\d+) \w+ (?:beads|beans|pebbles)", scene.sentence())
    assert found is not None and int(found[1]) == scene.scene_objects[0].about["grains"]


@pytest.mark.parametrize("family", ["dam_break", "liquid_fall", "thick_fall", "channel", "slosh"])
def test_there_are_as_many_litres_as_the_caption_says(family: str) -> None:
    scene = drawn(family, 1)
    assert isinstance(scene, FluidScene)
    found = re.search(r"(\d+) litres", scene.sentence())
    assert found is not None and int(found[1]) == round(1000 * scene.volumes[0].cubic_metres)


@pytest.mark.parametrize(("family", "words"), [("liquid_fall", "round blob"), ("thick_fall", "lump")])
def test_a_thrown_liquid_has_the_velocity_of_the_caption(family: str, words: str) -> None:
    stated = 0
    for seed in range(30):
        scene = drawn(family, seed)
        assert isinstance(scene, FluidScene)
        if words in scene.sentence():
            assert stated_velocities(scene.sentence(), [words]) == [pytest.approx(scene.volumes[0].velocity)]
            stated += any(scene.volumes[0].velocity)
    assert stated > 2
