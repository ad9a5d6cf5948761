"""Datasets of clips: the same bytes always, complete meta data, and pictures in which something moves."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from phys4d.engine.data.dataset import ClipDataset, verify
from phys4d.simulation.caption import stated_velocities
from phys4d.simulation.generate import SimulateConfig, make_clip, simulate

SMALL = SimulateConfig(clips=4, size=(32, 40), frames=9, seed=6)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Written by one process and by two, which find other leftovers in the memory they allocate (glibc)."""
    root = tmp_path_factory.mktemp("simulated")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MALLOC_PERTURB_", "1")
        simulate(SMALL, root / "one", workers=1)
        environment.setenv("MALLOC_PERTURB_", "255")
        simulate(SMALL, root / "two", workers=2)
    return root / "one", root / "two"


def test_any_number_of_processes_writes_the_same_bytes(folders: tuple[Path, Path]) -> None:
    assert digests(folders[0]) == digests(folders[1])


def test_a_clip_depends_on_its_seed_and_index_alone() -> None:
    again = make_clip(SMALL, 3)
    assert again == make_clip(SMALL, 3)
    assert again["mp4"] != make_clip(SMALL, 1)["mp4"]
    assert again["mp4"] != make_clip(SMALL.model_copy(update={"seed": 7}), 3)["mp4"]


def test_a_dataset_is_whole_and_says_what_it_holds(folders: tuple[Path, Path]) -> None:
    assert verify(folders[0]) == []
    clips = ClipDataset(folders[0])
    assert len(clips) == 4
    for index in range(4):
        sample = clips[index]
        meta, arrays = sample.meta, sample.arrays
        assert sample.video.shape == (9, 32, 40, 3)
        assert meta["family"] == ("fall", "collision")[index % 2] and meta["category"] == "rigid"
        assert meta["depth_kind"] == "metric" and (meta["frames"], meta["fps"]) == (9, 24)
        assert np.shape(meta["intrinsics"]) == (9, 3, 3) and np.shape(meta["camera_to_world"]) == (9, 4, 4)
        assert arrays["depth"].shape == (9, 32, 40) and arrays["motion"].shape == (3, 8, 32, 40)
        assert arrays["depth_valid"].all() and arrays["moving"].mean() > 0.02
        ids = {thing["instance"] for thing in meta["objects"]}
        assert set(np.unique(arrays["instance"])) <= ids
        moving = [thing for thing in meta["objects"] if thing["dynamic"]]
        assert {str(thing["instance"]) for thing in moving} == set(meta["tracks"])
        stated = stated_velocities(meta["caption"], [thing["name"] for thing in moving])
        for thing, velocity in zip(moving, stated, strict=True):
            assert np.linalg.norm(velocity) == pytest.approx(np.linalg.norm(thing["linear_velocity"]))
            assert np.shape(meta["tracks"][str(thing["instance"])]["quaternion"]) == (9, 4)


def test_without_truth_a_clip_is_its_video_alone() -> None:
    whole, bare = make_clip(SMALL, 0), make_clip(SMALL.model_copy(update={"truth": False}), 0)
    assert set(bare) == {"mp4", "json"}
    assert bare["mp4"] == whole["mp4"]


def test_in_nearly_all_clips_much_of_the_picture_moves() -> None:
    from phys4d.engine.data import blob

    config = SimulateConfig(clips=12, seed=1)
    share = [
        blob.decode(make_clip(config, index)["truth"], ["moving"])["moving"].mean() for index in range(config.clips)
    ]
    assert np.quantile(share, 0.2) > 0.05 and min(share) > 0.035
