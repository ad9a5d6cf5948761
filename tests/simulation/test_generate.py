"""Datasets: identical bytes in every run, complete metadata, and motion in the video."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from phys4d.engine.config import build
from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.data.tools.verify import verify
from phys4d.engine.errors import UserError
from phys4d.simulation.caption import stated_velocities
from phys4d.simulation.categories import CATEGORIES, FAMILIES
from phys4d.simulation.generate import SimulateConfig, make_clip, simulate

# The settings of the demo, and all families with varied looks and moving cameras.
SMALL = SimulateConfig(families=("fall", "collision"), clips=4, size=(32, 40), frames=9, seed=6, looks="plain")
LARGE = SimulateConfig(clips=len(CATEGORIES["rigid"]), size=(32, 40), frames=13, fps=20, seed=6, camera="moving")


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module", params=[SMALL, pytest.param(LARGE, marks=pytest.mark.slow)], ids=["small", "large"])
def written(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[SimulateConfig, Path, Path]:
    """Written by one process and by two, which find other leftovers in the memory they allocate (glibc)."""
    config, root = request.param, tmp_path_factory.mktemp("simulated")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MALLOC_PERTURB_", "1")
        simulate(config, root / "one", workers=1)
        environment.setenv("MALLOC_PERTURB_", "255")
        simulate(config, root / "two", workers=2)
    return config, root / "one", root / "two"


def test_any_number_of_processes_writes_the_same_bytes(written: tuple[SimulateConfig, Path, Path]) -> None:
    _, one, two = written
    assert digests(one) == digests(two)


def test_a_clip_depends_on_its_seed_and_index_alone() -> None:
    again = make_clip(SMALL, 3)
    assert again == make_clip(SMALL, 3)
    assert again["mp4"] != make_clip(SMALL, 1)["mp4"]
    assert again["mp4"] != make_clip(SMALL.model_copy(update={"seed": 7}), 3)["mp4"]


def test_a_dataset_is_whole_and_says_what_it_holds(written: tuple[SimulateConfig, Path, Path]) -> None:
    config, folder, _ = written
    assert verify(folder) == []
    clips = ClipDataset(folder)
    assert len(clips) == config.clips
    frames = config.frames
    for index in range(config.clips):
        sample = clips[index]
        meta, arrays = sample.meta, sample.arrays
        assert sample.video.shape == (frames, 32, 40, 3)
        assert meta["family"] == config.family(index) and meta["category"] == "rigid"
        assert meta["depth_kind"] == "metric" and (meta["frames"], meta["fps"]) == (frames, config.fps)
        assert np.shape(meta["intrinsics"]) == (frames, 3, 3)
        assert np.shape(meta["camera_to_world"]) == (frames, 4, 4)
        assert ("; the camera " in meta["caption"]) == (config.camera == "moving")
        assert (np.ptp(meta["camera_to_world"], axis=0).max() > 0.01) == (config.camera == "moving")
        assert arrays["depth"].shape == (frames, 32, 40) and arrays["motion"].shape == (3, frames - 1, 32, 40)
        assert arrays["depth_valid"].all() and arrays["moving"].mean() > 0.015
        ids = {scene_object["instance"] for scene_object in meta["objects"]}
        assert set(np.unique(arrays["instance"])) <= ids
        assert len(ids) == len(meta["objects"])
        moving = [scene_object for scene_object in meta["objects"] if scene_object["dynamic"]]
        assert {str(scene_object["instance"]) for scene_object in moving} == set(meta["tracks"])
        bodies = [scene_object for scene_object in moving if "part_of" not in scene_object]
        stated = stated_velocities(meta["caption"], [scene_object["name"] for scene_object in bodies])
        for scene_object, velocity in zip(bodies, stated, strict=True):
            assert np.linalg.norm(velocity) == pytest.approx(np.linalg.norm(scene_object["linear_velocity"]))
            assert np.shape(meta["tracks"][str(scene_object["instance"])]["quaternion"]) == (frames, 4)


def test_every_family_can_be_asked_for() -> None:
    for category, families in CATEGORIES.items():
        config = SimulateConfig(categories=(category,))
        assert [config.family(index) for index in range(len(families))] == list(families)
        assert config.family(len(families)) == next(iter(families))
    assert list(FAMILIES) == [name for families in CATEGORIES.values() for name in families]  # no name twice


def test_categories_take_turns_and_in_each_its_families() -> None:
    config = SimulateConfig(categories=tuple(CATEGORIES))
    shown = [config.family(index) for index in range(12 * len(CATEGORIES))]
    for which, families in enumerate(CATEGORIES.values()):
        mine = shown[which :: len(CATEGORIES)]
        assert set(mine) == set(families) and mine[: len(families)] == list(families)


@pytest.mark.parametrize("field", ["categories", "families"])
def test_an_unknown_name_is_refused_with_those_there_are(field: str) -> None:
    with pytest.raises(UserError, match="'plasma': expected some of .*"):
        build(SimulateConfig, {field: ("plasma",)}, "simulate")


def test_looks_change_the_picture_alone() -> None:
    plain, varied = (make_clip(SMALL.model_copy(update={"looks": looks}), 1) for looks in ("plain", "varied"))
    meta = [json.loads(clip["json"]) for clip in (plain, varied)]
    assert plain["mp4"] != varied["mp4"] and plain["truth"] == varied["truth"]
    assert meta[0]["caption"] == meta[1]["caption"] and meta[0]["tracks"] == meta[1]["tracks"]


def test_without_truth_a_clip_is_its_video_alone() -> None:
    whole, bare = make_clip(SMALL, 0), make_clip(SMALL.model_copy(update={"truth": False}), 0)
    assert set(bare) == {"mp4", "json"}
    assert bare["mp4"] == whole["mp4"]


def test_in_nearly_all_clips_much_of_the_picture_moves() -> None:
    from phys4d.engine.data.clip import blob

    config = SimulateConfig(clips=12, seed=1, families=("fall", "collision"))
    share = [
        blob.decode(make_clip(config, index)["truth"], ["moving"])["moving"].mean() for index in range(config.clips)
    ]
    assert np.quantile(share, 0.2) > 0.05 and min(share) > 0.035
