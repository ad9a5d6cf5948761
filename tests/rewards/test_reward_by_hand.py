"""The reward in numbers: clips of 5 frames of one row of two pixels, of which the left one changes."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from phys4d.rewards.moving_chamfer import moving_chamfer
from phys4d.rewards.registry import REWARDS

LENGTH = math.sqrt(0.25 + 0.25 + 1)  # of the ray through the left pixel, centre (0.5, 0.5), at 1 m with focal length 1


def clip(depth: float, change: float = -0.35) -> tuple[Tensor, Tensor, Tensor]:
    """video [1, 3, 5, 1, 2], depth [1, 5, 1, 2] and motion 0; one colour of the left pixel changes, from frame 1 on."""
    video = torch.zeros(1, 3, 5, 1, 2, dtype=torch.float64)
    video[:, 1, 1:, 0, 0] = change
    depths = torch.full((1, 5, 1, 2), 3.0, dtype=torch.float64)
    depths[:, 1:, 0, 0] = depth
    return video, depths, torch.zeros(1, 3, 4, 1, 2, dtype=torch.float64)


def score(ours: tuple[Tensor, ...], truth: tuple[Tensor, ...], **options: Any) -> tuple[float, dict[str, float]]:
    intrinsics = torch.eye(3, dtype=torch.float64).expand(1, 5, 3, 3)
    names = ("truth_video", "truth_depth", "truth_motion")
    reward, parts = moving_chamfer(*ours, **dict(zip(names, truth, strict=True)), intrinsics=intrinsics, **options)
    return reward.item(), {name: part.item() for name, part in parts.items()}


def test_depth_off_by_a_tenth_of_a_metre_costs_that_along_the_ray_both_ways() -> None:
    """Of the points at t and of those at t + 1 alike; less than a metre away is a surface too."""
    reward, parts = score(clip(0.6), clip(0.5))
    assert reward == pytest.approx(-2 * 0.1 * LENGTH)
    assert parts == {"points": 1, "truth_points": 1, "one_sided": 0}


def test_frames_two_and_four_are_scored_and_four_has_no_motion() -> None:
    for frame, share in ((0, 0.0), (1, 0.0), (2, 0.5), (3, 0.0), (4, 0.25)):
        ours, truth = clip(0.5), clip(0.5)
        ours[1][:, frame, 0, 0] += 0.1
        # frame 2 is one of two frames of points and the only one of moved points; frame 4 is half of the points alone
        expected = 0.1 * LENGTH * 2 * ((0.5 + 1) / 2 if frame == 2 else share)
        assert score(ours, truth)[0] == pytest.approx(-expected), frame
    with_stride = clip(0.5)
    with_stride[1][:, 3, 0, 0] += 0.1
    assert score(with_stride, clip(0.5), frame_stride=3)[0] == pytest.approx(-2 * 0.1 * LENGTH)


def test_of_three_frames_the_last_is_scored_by_its_points_alone() -> None:
    ours, truth = clip(0.6), clip(0.5)
    cut = [(video[:, :, :3], depth[:, :3], motion[:, :, :2]) for video, depth, motion in (ours, truth)]
    intrinsics = torch.eye(3, dtype=torch.float64).expand(1, 3, 3, 3)
    names = ("truth_video", "truth_depth", "truth_motion")
    reward, _ = moving_chamfer(*cut[0], **dict(zip(names, cut[1], strict=True)), intrinsics=intrinsics)
    assert reward.item() == pytest.approx(-2 * 0.1 * LENGTH)


@pytest.mark.parametrize(
    ("channel", "off", "apart"),
    [(0, 0.4, 0.4 * 0.5), (1, -0.4, 0.4 * 0.5), (2, 0.1, 0.1 * LENGTH)],
)
def test_motion_off_costs_half_of_where_it_leads(channel: int, off: float, apart: float) -> None:
    """du and dv in pixels: at 0.5 m and focal length 1 half as many metres; dz in metres, along the ray."""
    ours = clip(0.5)
    ours[2][:, channel, 2, 0, 0] = off
    assert score(ours, clip(0.5))[0] == pytest.approx(-2 * apart / 2)
    elsewhere = clip(0.5)
    elsewhere[2][:, channel, [0, 1, 3]] = off  # motion from other frames, and of the right pixel
    elsewhere[2][:, channel, 2, 0, 1] = off
    assert score(elsewhere, clip(0.5))[0] == 0


@pytest.mark.parametrize(("change", "counts"), [(0.29, 0), (0.31, 1), (-0.31, 1)])
def test_a_pixel_counts_where_a_colour_changed_by_more_than_the_threshold(change: float, counts: int) -> None:
    reward, parts = score(clip(0.6, change), clip(0.5))
    assert parts["points"] == counts and parts["truth_points"] == 1 and parts["one_sided"] == 1 - counts
    assert reward == pytest.approx(-2 * 0.1 * LENGTH if counts else -2.0)
    assert score(clip(0.6, change), clip(0.5), threshold=0.2)[1]["points"] == 1


def test_a_frame_costs_no_more_than_the_cap_and_that_where_one_side_changes_alone() -> None:
    assert score(clip(3.0), clip(0.5))[0] == -2.0
    assert score(clip(3.0), clip(0.5), cap=3.0)[0] == -3.0
    assert score(clip(3.0), clip(0.5), cap=9.0)[0] == pytest.approx(-2 * 2.5 * LENGTH)
    still = clip(0.5)
    still[0][:, :, 4] = 0
    reward, parts = score(still, clip(0.5))
    assert reward == pytest.approx(-2.0 / 4) and parts["one_sided"] == 0.5 and parts["points"] == 0.5
    assert score(clip(0.5), still)[0] == pytest.approx(-2.0 / 4)
    still[0][:, :, 2] = 0
    assert score(still, still) == (0.0, {"points": 0, "truth_points": 0, "one_sided": 0})


def test_without_a_surface_a_pixel_is_not_there() -> None:
    for side in (0, 1):
        pair = [clip(0.5), clip(0.5)]
        pair[side][1][:, 1:, 0, 0] = 0
        reward, parts = score(*pair)
        assert reward == -2.0 and parts["one_sided"] == 1
        assert parts["points" if side == 0 else "truth_points"] == 0


def test_all_points_count_when_asked() -> None:
    """The right pixel, 3 m away, is the nearest one of neither; it halves the mean."""
    reward, parts = score(clip(0.6, 0.0), clip(0.5, 0.0), points="all")
    assert parts == {"points": 2, "truth_points": 2, "one_sided": 0}
    assert reward == pytest.approx(-0.1 * LENGTH)


def test_of_two_objects_each_counts_as_much() -> None:
    """Of the left object all is as far off as its depth; of the right one nothing: half of the distance both ways."""
    ours, truth = clip(0.6), clip(0.5)
    for video, _, _ in (ours, truth):
        video[:, 0, 1:, 0, 1] = 0.5
    instance = torch.zeros(1, 5, 1, 2, dtype=torch.uint8)
    instance[..., 1] = 4
    assert score(ours, truth, truth_instance=instance)[0] == pytest.approx(-0.1 * LENGTH)
    one = score(ours, truth, truth_instance=torch.zeros_like(instance))[0]
    assert one == pytest.approx(score(ours, truth)[0])
    shown_at_four = instance.clone()
    shown_at_four[:, [0, 1, 3]] = 7  # of frames that are not scored nothing counts
    assert score(ours, truth, truth_instance=shown_at_four)[0] == pytest.approx(-0.1 * LENGTH)


def test_depths_that_fit_each_other_but_not_the_video_are_refused() -> None:
    video, depth, motion = clip(0.5)
    with pytest.raises(ValueError, match="depth and truth_depth: expected shape"):
        score((video, depth[:, 1:], motion), (video, depth[:, 1:], motion))
    with pytest.raises(ValueError, match="depth and truth_depth: expected shape"):
        score((video, depth, motion), (video, depth[:, 1:], motion))


def test_of_the_rewards_whole_clouds_alone_have_a_meaning_under_a_moving_camera() -> None:
    assert {name: spec.static_camera for name, spec in REWARDS.items()} == {
        "changed": True, "objects": True, "all": False
    }  # fmt: skip
