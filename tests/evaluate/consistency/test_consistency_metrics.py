"""Metrics of depth, motion, warps, clouds, tracks and masks by hand, and what they must and must not see."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from phys4d.evaluate.consistency.averages import masked_mean, mean_where_known
from phys4d.evaluate.consistency.clouds import cloud_chamfer_4d, track_chamfer
from phys4d.evaluate.consistency.depth import absrel, delta1, rmse, scaled, scaled_and_shifted
from phys4d.evaluate.consistency.masks import area_error, followed, mask_chamfer, mask_iou, trajectory_error
from phys4d.evaluate.consistency.motion import epe, motion_outliers, scene_flow, scene_flow_error
from phys4d.evaluate.consistency.tracks import agreement, track_error
from phys4d.evaluate.consistency.warps import temporal_alignment_error, warp_l1_backward

FRAMES, SIZE = 4, 12
SEEDS = st.integers(0, 10_000)


def scene(seed: int, clips: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """True depth [B, T, H, W], which of it is valid, and noise of the same shape in -1 ... 1; float64."""
    random = torch.Generator().manual_seed(seed)
    shape = (clips, FRAMES, SIZE, SIZE)
    truth, share, noise = (torch.rand(shape, generator=random, dtype=torch.float64) for _ in range(3))
    return 1 + 3 * truth, share > 0.2, 2 * noise - 1


def camera(clips: int = 1) -> Tensor:
    return torch.tensor([[20.0, 0, SIZE / 2], [0, 20.0, SIZE / 2], [0, 0, 1]]).double().expand(clips, FRAMES, 3, 3)


@given(SEEDS, st.floats(0.01, 0.2))
def test_depth_errors_are_0_for_the_truth_and_grow_with_the_error(seed: int, size: float) -> None:
    truth, valid, noise = scene(seed)
    for metric, best in ((absrel, 0), (rmse, 0)):
        errors = [metric(truth * (1 + k * size * noise), truth, valid).item() for k in (0, 1, 2)]
        assert errors[0] == best and errors[0] < errors[1] < errors[2]
    within = [delta1(truth * (1 + k * noise), truth, valid).item() for k in (0, 0.4, 0.8)]
    assert within[0] == 1 and within[0] > within[1] > within[2]


@given(SEEDS, st.floats(0.1, 10))
def test_aligned_depth_does_not_see_scale(seed: int, factor: float) -> None:
    truth, valid, noise = scene(seed)
    depth = truth * (1 + 0.1 * noise)
    for align in (scaled, scaled_and_shifted):
        here, there = (absrel(align(d, truth, valid), truth, valid).item() for d in (depth, factor * depth))
        assert here == pytest.approx(there, rel=1e-9)
        assert absrel(align(factor * truth, truth, valid), truth, valid).item() < 1e-9
    shifted = 1 / (factor / truth + 0.3)
    assert absrel(scaled_and_shifted(shifted, truth, valid), truth, valid).item() < 1e-9
    assert absrel(scaled(shifted, truth, valid), truth, valid).item() > 1e-3


def test_depth_by_hand() -> None:
    truth = torch.tensor([1.0, 2.0, 6.0, 0.0]).view(1, 1, 1, 4)
    depth = torch.tensor([2.0, 4.0, 1.0, 9.0]).view(1, 1, 1, 4)
    valid = truth > 0
    assert rmse(depth, truth, valid).item() == pytest.approx(math.sqrt((1 + 4 + 25) / 3))
    assert scaled(depth, truth, valid)[valid].tolist() == [2.0, 4.0, 1.0]  # both medians are 2
    assert scaled(2 * depth, truth, valid)[valid].tolist() == [2.0, 4.0, 1.0]
    nothing = torch.zeros_like(valid)
    assert all(metric(depth, truth, nothing).isnan().all() for metric in (absrel, delta1, rmse))
    assert scaled(depth, truth, nothing).equal(depth)
    assert scaled_and_shifted(depth, truth, valid)[~valid].tolist() == [1.0]


def test_a_clip_is_scored_by_itself() -> None:
    truth, valid, noise = scene(3, clips=3)
    depth = truth * (1 + 0.2 * noise)
    for form in (lambda d, *_: d, scaled, scaled_and_shifted):
        for metric in (absrel, delta1, rmse):
            every = metric(form(depth, truth, valid), truth, valid)
            each = [metric(form(depth[i : i + 1], truth[i : i + 1], valid[i : i + 1]), truth[i : i + 1],
                           valid[i : i + 1]).item() for i in range(3)]  # fmt: skip
            assert every.tolist() == pytest.approx(each, rel=1e-12)


def test_outliers_are_off_by_3_pixels_and_5_per_cent() -> None:
    truth = torch.tensor([0.0, 100.0, 100.0, 0.0, 0.0]).view(1, 1, 1, 1, 5).repeat(1, 2, 1, 1, 1)
    truth[:, 1] = 0
    motion = truth.clone()
    motion[:, 1] += torch.tensor([3.01, 3.01, 5.01, 2.99, 9.0])
    mask = torch.tensor([True, True, True, True, False]).view(1, 1, 1, 5)
    share = masked_mean(motion_outliers(motion, truth), mask).item()
    assert share == 2 / 4  # 3.01 px are 3 % of 100 px; the last is not looked at
    assert epe(motion, truth, mask).item() == pytest.approx((3.01 + 3.01 + 5.01 + 2.99) / 4)


def test_three_pixels_are_no_outlier() -> None:
    truth = torch.zeros(1, 2, 1, 1, 2)
    motion = truth.clone()
    motion[:, 0] = torch.tensor([3.0, 3.5])
    assert motion_outliers(motion, truth).flatten().tolist() == [0, 1]


def test_scene_flow_begins_at_the_depth_of_its_own_frame() -> None:
    """A wall that goes away by 1 m a frame, seen at the principal point's row: every frame's motion is 1 m along z."""
    depth = (2 + torch.arange(FRAMES)).double().view(1, -1, 1, 1).expand(1, FRAMES, SIZE, SIZE)
    motion = torch.zeros(1, 3, FRAMES - 1, SIZE, SIZE, dtype=torch.float64)
    motion[:, 2] = 1
    assert (scene_flow(depth, motion, camera())[..., 2] - 1).abs().max() < 1e-12


def test_scene_flow_of_a_camera_that_moves_is_0_where_the_world_stands() -> None:
    depth = torch.full((1, FRAMES, SIZE, SIZE), 2.0, dtype=torch.float64)
    poses = torch.eye(4, dtype=torch.float64).repeat(1, FRAMES, 1, 1)
    poses[0, :, 0, 3] = 0.1 * torch.arange(FRAMES, dtype=torch.float64)
    motion = torch.zeros(1, 3, FRAMES - 1, SIZE, SIZE, dtype=torch.float64)
    motion[:, 0] = -20 * 0.1 / 2
    assert scene_flow(depth, motion, camera(), poses).abs().max() < 1e-12
    seen = scene_flow(depth, motion, camera())
    assert (seen - torch.tensor([-0.1, 0, 0], dtype=torch.float64)).abs().max() < 1e-12
    every = torch.ones(1, FRAMES - 1, SIZE, SIZE, dtype=torch.bool)
    assert masked_mean(scene_flow_error(seen, torch.zeros_like(seen)), every).item() == pytest.approx(0.1)


def test_backward_warp_samples_frame_t_at_minus_the_flow_with_the_border_outside() -> None:
    """One row; flow +1 everywhere: frame 1 should be frame 0 shifted right, and its first pixel reads the border."""
    depth = torch.tensor([[[[1.0, 2, 3, 4]], [[7.0, 7, 7, 7]]]])
    truth = torch.tensor([[[[0.0, 0, 0, 0]], [[1.5, 1, 2, 9]]]])
    motion = torch.zeros(1, 3, 1, 1, 4)
    motion[:, 0] = 1
    valid = torch.tensor([True, True, True, False]).expand(1, 2, 1, 4)
    assert warp_l1_backward(depth, motion, truth, valid).item() == pytest.approx(0.5 / 3)
    motion[:, 2] = 100
    assert warp_l1_backward(depth, motion, truth, valid).item() == pytest.approx(0.5 / 3)  # dz is not read


def test_temporal_alignment_error_follows_what_moves() -> None:
    """A wall that comes from 2 m to 1.9 m, without parallax: consistent, though depth of each pixel changes."""
    depth = torch.tensor([2.0, 1.9], dtype=torch.float64).view(1, 2, 1, 1).repeat(1, 1, 4, 4)
    motion = torch.zeros(1, 3, 1, 4, 4, dtype=torch.float64)
    motion[:, 2] = -0.1
    every = torch.ones(1, 2, 4, 4, dtype=torch.bool)
    assert temporal_alignment_error(depth, motion, every[:, 1:], every).item() < 1e-12
    flicker = depth + torch.tensor([0, 0.1], dtype=torch.float64).view(1, 2, 1, 1)
    expected = 50 * (0.1 / 2 + 0.1 / 2)
    assert temporal_alignment_error(flicker, motion, every[:, 1:], every).item() == pytest.approx(expected)
    errors = [temporal_alignment_error(depth + k * (flicker - depth), motion, every[:, 1:], every).item()
              for k in (0.0, 0.5, 1.0, 2.0)]  # fmt: skip
    assert errors == sorted(errors)
    assert temporal_alignment_error(depth, motion, ~every[:, 1:], every).isnan().all()


def test_clouds_are_aligned_by_frame_0_or_by_every_frame() -> None:
    truth, _, _ = scene(5)
    valid = torch.ones_like(truth, dtype=torch.bool)
    steps = torch.tensor([1.0, 1.0, 2.0, 1.0]).view(1, -1, 1, 1)

    def distance(depth: Tensor, align: str) -> float:
        return cloud_chamfer_4d(depth, truth, valid, camera(), align=align, pixel_stride=1, frame_stride=1).item()

    assert distance(truth, "none") == 0
    assert distance(3 * truth, "none") > 1
    assert distance(3 * truth, "first") < 1e-9 and distance(3 * truth, "each") < 1e-9
    assert distance(steps * truth, "first") > 0.1 and distance(steps * truth, "each") < 1e-9
    errors = [distance(truth * (1 + k), "none") for k in (0.0, 0.1, 0.2, 0.4)]
    assert errors == sorted(errors)
    one_frame = cloud_chamfer_4d(truth[:, :1], truth[:, :1], valid[:, :1], camera()[:, :1])
    assert one_frame.isnan().all()


def test_motion_chamfer_by_hand() -> None:
    """Two tracks 10 m apart; one is off by 0.3 m in the last of three frames."""
    truth = torch.zeros(1, 3, 3, 3, dtype=torch.float64)
    truth[:, :, 1, 0], truth[:, :, 2] = 10, 50
    points = truth.clone()
    points[:, 2, 0, 1] = 0.3
    valid = torch.ones(1, 3, 3, dtype=torch.bool)
    valid[:, 1, 2] = False  # a track that ends does not count
    assert track_chamfer(points, valid, truth, valid).item() == pytest.approx(2 * 0.3 / (2 * 3))
    assert track_chamfer(points, ~valid, truth, valid).isnan().all()
    turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]).double()
    many = torch.randn(1, 3, 20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    moved, every = 2.5 * many @ turn + 4, torch.ones(1, 3, 20, dtype=torch.bool)
    assert track_chamfer(moved, every, many, every, aligned=True).item() < 1e-9
    assert track_chamfer(moved, every, many, every).item() > 1


def test_agreement_by_hand() -> None:
    """Focal length 10 and depth 1: a pixel is 0.1 m. One point right, one 0.3 m off, one wrongly seen, one missed."""
    truth = torch.tensor([0.0, 0, 1]).double().repeat(1, 1, 4, 1)
    points = truth.clone()
    points[0, 0, 1, 0] = 0.3
    visible = torch.tensor([[[True, True, True, False]]])
    true_visible = torch.tensor([[[True, True, False, True]]])
    found = agreement(points, visible, truth, true_visible, torch.full((1, 1), 10.0).double())
    # the median distance of both seen points is (1 + 1.044) / 2 = 1.022 in the prediction, hence a scale of 0.978
    near = [1, 1, 2, 2, 2]  # of the two that both see, within 1, 2, 4, 8, 16 px
    jaccard = [n / (3 + 1 + 2 - n) for n in near]
    assert found.average_jaccard.item() == pytest.approx(sum(jaccard) / 5)
    assert found.points_within.item() == pytest.approx(sum(n + 1 for n in near) / 5 / 3)
    assert found.occlusion_accuracy.item() == 0.5
    chosen = torch.tensor([[True, False, False, False]])
    alone = agreement(points, visible, truth, true_visible, torch.full((1, 1), 10.0).double(), chosen)
    assert [part.item() for part in alone] == [1, 1, 1]
    nothing = agreement(points, visible, truth, ~true_visible & False, torch.full((1, 1), 10.0).double())
    assert all(part.isnan().all() for part in nothing)


@given(SEEDS, st.floats(0.2, 5))
def test_agreement_of_tracks_does_not_see_scale_or_order(seed: int, factor: float) -> None:
    random = torch.Generator().manual_seed(seed)
    truth = torch.randn(1, FRAMES, 30, 3, generator=random, dtype=torch.float64) + torch.tensor([0, 0, 6])
    noise = torch.randn(truth.shape, generator=random, dtype=torch.float64)
    seen, truly = (torch.rand(1, FRAMES, 30, generator=random) > 0.3 for _ in range(2))
    focal = torch.full((1, FRAMES), 60.0).double()
    perfect = agreement(factor * truth, truly, truth, truly, focal)
    assert [part.item() for part in perfect] == [1, 1, 1]
    errors = [agreement(truth + k * noise, truly, truth, truly, focal).average_jaccard.item() for k in (0.02, 0.2, 2)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1
    order = torch.randperm(30, generator=random)
    sides = (truth + 0.1 * noise, seen, truth, truly)
    here, there = agreement(*sides, focal), agreement(*(side[:, :, order] for side in sides), focal)
    assert [part.item() for part in here] == pytest.approx([part.item() for part in there])


def test_track_error_is_by_frame_over_tracks_that_last() -> None:
    truth = torch.zeros(1, 2, 2, 3)
    points = truth.clone()
    points[0, 0, 0, 0], points[0, 0, 1, 1] = 3, 4
    valid = torch.tensor([[[True, True], [False, False]]])
    found = track_error(points, valid, truth, torch.ones_like(valid))
    assert found[0, 0].item() == 3.5 and found[0, 1].isnan()
    assert track_error(points, torch.ones_like(valid), truth, valid)[0, 1].isnan()


def boxes(*corners: tuple[int, int]) -> Tensor:
    """Masks of one object of 2 x 2 pixels in frames of 8 x 8: [1, 1, T, 8, 8]; a negative corner: none."""
    masks = torch.zeros(1, 1, len(corners), 8, 8, dtype=torch.bool)
    for t, (row, column) in enumerate(corners):
        if row >= 0:
            masks[0, 0, t, row : row + 2, column : column + 2] = True
    return masks


def test_masks_by_hand() -> None:
    truth, found = boxes((0, 0), (2, 2), (-1, 0), (4, 4)), boxes((0, 0), (2, 3), (-1, 0), (-1, 0))
    assert trajectory_error(found, truth).item() == pytest.approx((0 + 0 + 0 + 1) / 4 / (math.sqrt(2) * 8))
    assert mask_iou(found, truth).item() == pytest.approx((1 + 2 / 6 + 1 + 0) / 4)
    assert mask_chamfer(found, truth).item() == pytest.approx((0 + 0.5 + 0.5) / 2 / (math.sqrt(2) * 8))
    gone = boxes((-1, 0), (-1, 0), (-1, 0), (-1, 0))
    assert trajectory_error(gone, truth).isnan().all() and mask_chamfer(gone, truth).isnan().all()
    assert mask_iou(gone, truth).item() == 0.25
    away = [trajectory_error(boxes((0, k)), boxes((0, 0))).item() for k in range(4)]
    overlap = [mask_iou(boxes((0, k)), boxes((0, 0))).item() for k in range(4)]
    assert away == sorted(away) and away[0] == 0 and overlap == sorted(overlap, reverse=True) and overlap[0] == 1


def test_area_is_metric() -> None:
    """The same square at twice the distance has four times the area; half of it is half."""
    truth, depth = boxes((0, 0), (0, 0)), torch.full((1, 2, 8, 8), 2.0)
    intrinsics = camera()[:, :2]
    assert area_error(truth, depth, truth, depth, intrinsics).item() == 0
    assert area_error(truth, 2 * depth, truth, depth, intrinsics).item() == pytest.approx(3)
    half = truth.clone()
    half[..., 1, :] = False
    assert area_error(half, depth, truth, depth, intrinsics).item() == pytest.approx(0.5)
    hidden = truth.clone()
    hidden[:, :, 1] = False
    assert area_error(half, depth, hidden, depth, intrinsics).item() == pytest.approx(0.5)


def test_followed_masks_are_the_pixels_of_valid_chosen_tracks() -> None:
    pixels = torch.tensor([[[0.5, 0.5], [1.5, 0.5], [2.5, 1.5]], [[1.4, 1.9], [0.0, 0.0], [2.5, 1.5]]])
    valid = torch.tensor([[True, True, True], [True, False, True]])
    masks = followed(pixels, valid, torch.tensor([True, True, False]), 2, 3)
    assert masks[0].tolist() == [[True, True, False], [False, False, False]]
    assert masks[1].tolist() == [[False, False, False], [False, True, False]]


def test_means_leave_out_what_is_not_in_the_mask_or_not_known() -> None:
    values = torch.tensor([[1.0, math.nan, 3.0], [math.nan, math.nan, math.nan]])
    assert masked_mean(values, torch.tensor([[True, False, True], [False] * 3])).tolist()[0] == 2
    known = mean_where_known(values)
    assert known[0].item() == 2 and known[1].isnan()
