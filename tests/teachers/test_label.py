"""Labelling: sees pixels only, keeps the videos as they are, names the teachers, refuses scenes of their training."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.data.tools.verify import verify
from phys4d.engine.errors import UserError
from phys4d.teachers.dis import DISFlow
from phys4d.teachers.label import label_dataset, pseudo_labels
from phys4d.teachers.small_depth import SmallDepth, SmallDepthConfig

Write = Callable[..., Path]


class Ramp:
    """A depth teacher in closed form: brighter is nearer; pixels of the first row are not valid."""

    scenes: frozenset[str] = frozenset()
    title, depth_kind = "ramp", "metric"

    def prepare(self) -> None:
        """Nothing to do."""

    def provenance(self) -> dict[str, Any]:
        return {"name": "ramp", "training": "none"}

    def label(self, video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        depth = (4 - video.mean(-1) / 128).astype(np.float32)
        valid = np.ones(depth.shape, bool)
        valid[:, 0] = False
        return depth, valid


class Shift:
    """A flow teacher that says that everything moves by (1, 0) pixels."""

    scenes: frozenset[str] = frozenset()
    title = "shift"

    def prepare(self) -> None:
        """Nothing to do."""

    def provenance(self) -> dict[str, Any]:
        return {"name": "shift", "training": "none"}

    def label(self, video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        flow = np.zeros((2, len(video) - 1, *video.shape[1:3]), np.float32)
        flow[0] = 1
        return flow, np.ones(flow.shape[1:], bool)


def digest(folder: Path) -> str:
    return hashlib.sha256(b"".join(p.read_bytes() for p in sorted(folder.iterdir()))).hexdigest()


def small_teacher(folder: Path) -> SmallDepth:
    return SmallDepth(SmallDepthConfig(steps=3, batch=4, width=4), folder)


def test_neither_truth_of_the_labelled_clips_nor_threads_change_anything(write_clips: Write, tmp_path: Path) -> None:
    teacher = small_teacher(write_clips("scenes", 1, 2))
    for name, truth in (("with", True), ("without", False), ("garbage", b"not a blob")):
        label_dataset(write_clips(name, 2, 2, truth=truth), tmp_path / f"{name}-labels", teacher, DISFlow())
    label_dataset(tmp_path / "with", tmp_path / "threads-labels", teacher, DISFlow(), workers=3)
    digests = {digest(tmp_path / f"{name}-labels") for name in ("with", "without", "garbage", "threads")}
    assert len(digests) == 1
    assert verify(tmp_path / "with-labels") == []


def test_videos_stay_and_the_record_names_teachers_but_no_truth(write_clips: Write, tmp_path: Path) -> None:
    source = ClipDataset(write_clips("videos", 2, 2))
    teacher = small_teacher(write_clips("scenes", 1, 2))
    label_dataset(source.folder, tmp_path / "labels", teacher, DISFlow())
    labelled = ClipDataset(tmp_path / "labels")
    for index in range(len(source)):
        before, after = (d.row(index)["members"]["mp4"]["sha256"] for d in (source, labelled))
        assert before == after
        meta = labelled.meta(index)
        assert meta["provenance"]["labels"]["depth"] == teacher.provenance()
        assert meta["provenance"]["labels"]["flow"]["name"] == "DIS"
        assert meta["provenance"]["seed"] == 2 and meta["depth_kind"] == "metric"
        assert meta["caption"] == "a ball flies" and "intrinsics" in meta
        assert not {"objects", "tracks"} & meta.keys()


class Tired(Ramp):
    """Fails at the clip after `clips` of them."""

    def __init__(self, clips: int, weights: str = "one") -> None:
        self.clips, self.weights = clips, weights

    def provenance(self) -> dict[str, Any]:
        return super().provenance() | {"weights_sha256": self.weights}

    def label(self, video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.clips == 0:
            raise ZeroDivisionError
        self.clips -= 1
        return super().label(video)


def test_labelling_goes_on_after_its_finished_clips_with_the_same_teachers_alone(
    write_clips: Write, tmp_path: Path
) -> None:
    videos, out = write_clips("videos", 2, 7, truth=False), tmp_path / "labels"
    label_dataset(videos, tmp_path / "at once", Tired(7), Shift())
    for clips in (5, 0):
        with pytest.raises(ZeroDivisionError):
            label_dataset(videos, out, Tired(clips), Shift())
    with pytest.raises(UserError, match="labels: begun with other settings"):
        label_dataset(videos, out, Tired(9, weights="other"), Shift())
    rest = Tired(9)
    label_dataset(videos, out, rest, Shift())
    assert rest.clips == 9 - 2
    assert digest(out) == digest(tmp_path / "at once")


def test_arrays_follow_their_definitions(write_clips: Write, tmp_path: Path) -> None:
    label_dataset(write_clips("videos", 2, 1, truth=False), tmp_path / "labels", Ramp(), Shift())
    sample = ClipDataset(tmp_path / "labels")[0]
    arrays = sample.arrays
    assert arrays.keys() == {"depth", "motion", "depth_valid", "flow_valid", "dz_valid"}
    depth, motion, dz_valid = arrays["depth"], arrays["motion"], arrays["dz_valid"]
    assert (depth[:, 0] == 0).all() and not arrays["depth_valid"][:, 0].any()
    np.testing.assert_allclose(depth[:, 1:], Ramp().label(sample.video)[0][:, 1:], atol=1e-3)
    np.testing.assert_allclose(motion[0], 1, atol=1e-4)
    assert not motion[1].any()
    assert not dz_valid[:, :, -1].any() and not dz_valid[:, 0].any() and dz_valid[:, 1:, :-1].all()
    expected = depth[1:, 1:, 1:] - depth[:-1, 1:, :-1]
    np.testing.assert_allclose(motion[2][:, 1:, :-1], expected, atol=2e-3)
    assert not motion[2][~dz_valid].any()


def test_clips_that_a_teacher_was_trained_on_are_refused(write_clips: Write, tmp_path: Path) -> None:
    teacher = small_teacher(write_clips("scenes", 1, 2))
    with pytest.raises(UserError, match=r"clip clip000000: teacher small depth network learns from it too"):
        label_dataset(write_clips("same", 1, 1, truth=False), tmp_path / "labels", teacher, DISFlow())
    scenes = write_clips("more", 2, 3)
    with pytest.raises(UserError, match="learns from it too"):
        videos = write_clips("videos", 2, 1, truth=False)
        label_dataset(videos, tmp_path / "labels", small_teacher(scenes), DISFlow())
    assert not (tmp_path / "labels").exists()


class Nearness(Ramp):
    """Disparity from 0, which is a value as any other, to thousands; with `wrong` also below 0."""

    depth_kind = "affine_disparity"

    def __init__(self, wrong: bool = False) -> None:
        self.wrong = wrong

    def label(self, video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        disparity = (20 * video.mean(-1) - 20 * video.mean(-1).min() - self.wrong).astype(np.float32)
        return disparity, np.ones(disparity.shape, bool)


def test_disparity_up_to_scale_and_shift_is_labelled_as_such(write_clips: Write, tmp_path: Path) -> None:
    label_dataset(write_clips("videos", 2, 2, truth=False), tmp_path / "labels", Nearness(), Shift())
    labelled = ClipDataset(tmp_path / "labels")
    assert verify(labelled.folder) == [] and labelled.column("depth_kind").to_pylist() == ["affine_disparity"] * 2
    sample = labelled[0]
    assert sample.meta["depth_kind"] == "affine_disparity"
    expected, arrays = Nearness().label(sample.video)[0], sample.arrays
    assert expected.min() == 0 and arrays["depth_valid"].all() and arrays["depth"][expected == 0].max() == 0
    assert np.abs(arrays["depth"] - expected).max() <= 1.01e-5 * expected.max()
    np.testing.assert_allclose(arrays["motion"][0], 1, atol=1e-4)
    assert arrays["flow_valid"].all() and not arrays["dz_valid"].any() and not arrays["motion"][2].any()
    with pytest.raises(UserError, match=r"its labels by ramp and shift are wrong: array 'depth': .* the lowest -1:"):
        label_dataset(tmp_path / "videos", tmp_path / "wrong", Nearness(wrong=True), Shift())


def test_a_teacher_does_not_learn_from_disparity(write_clips: Write, tmp_path: Path) -> None:
    label_dataset(write_clips("videos", 2, 1, truth=False), tmp_path / "labels", Nearness(), Shift())
    with pytest.raises(UserError, match="labels: clip clip000000: its depth is affine_disparity, .* metres are needed"):
        small_teacher(tmp_path / "labels")


def test_a_clip_of_one_frame_has_no_motion() -> None:
    arrays = pseudo_labels(np.zeros((1, 32, 32, 3), np.uint8), Ramp(), DISFlow())  # type: ignore[arg-type]
    assert arrays["motion"].shape == (3, 0, 32, 32) and arrays["dz_valid"].shape == (0, 32, 32)
