"""Metrics against numbers worked out by hand, and averages that do not depend on batches."""

import math

import pytest
import torch
from torch import Tensor

from phys4d.evaluate.consistency.clouds import cloud_chamfer_4d
from phys4d.evaluate.consistency.depth import absrel, absrel_aligned, delta1
from phys4d.evaluate.consistency.motion import epe
from phys4d.evaluate.consistency.warps import warp_l1
from phys4d.evaluate.metrics import ClipMean, geometry_metrics, moving_region, psnr_moving

FRAMES, SIZE = 3, 8


def plane_truth(clips: int = 2) -> dict[str, Tensor]:
    """A fronto-parallel plane that comes 0.1 m nearer each frame; the left half is called moving."""
    z = 2 - 0.1 * torch.arange(FRAMES, dtype=torch.float64)
    depth = z.view(1, FRAMES, 1, 1).expand(clips, FRAMES, SIZE, SIZE).clone()
    centre = torch.arange(SIZE, dtype=torch.float64) + 0.5 - SIZE / 2
    growth = (z[:-1] / z[1:] - 1).view(1, -1, 1, 1)
    du = (centre * growth).expand(clips, -1, SIZE, SIZE)
    dv = (centre[:, None] * growth).expand(clips, -1, SIZE, SIZE)
    motion = torch.stack((du, dv, torch.full_like(du, -0.1)), dim=1)
    every = torch.ones(clips, FRAMES - 1, SIZE, SIZE, dtype=torch.bool)
    moving = every.clone()
    moving[..., SIZE // 2 :] = False
    masks = {"flow_valid": every, "visible": every, "moving": moving, "depth_valid": depth > 0}
    return {"depth": depth, "motion": motion, **masks}


def test_truth_is_perfect_and_zero_flow_is_the_mean_length() -> None:
    truth = plane_truth()
    figures = geometry_metrics(truth["depth"], truth["motion"], truth)
    for name in ("absrel", "absrel_aligned", "absrel_moving", "epe", "epe_moving", "warp_l1", "warp_l1_moving"):
        assert figures[name].abs().max() < 1e-12, name
    assert figures["delta1"].tolist() == [1, 1]
    length = truth["motion"][:, :2].norm(dim=1)
    assert figures["epe_zero"].tolist() == pytest.approx(length.flatten(1).mean(1).tolist())
    moving = length[..., : SIZE // 2].flatten(1).mean(1)
    assert figures["epe_zero_moving"].tolist() == pytest.approx(moving.tolist())


def test_depth_figures_by_hand() -> None:
    truth = torch.tensor([[[[1.0, 2.0, 4.0, 0.0]]]])
    depth = torch.tensor([[[[1.1, 1.5, 6.0, 9.0]]]])
    valid = truth > 0
    assert absrel(depth, truth, valid).item() == pytest.approx((0.1 + 0.25 + 0.5) / 3)
    assert delta1(depth, truth, valid).item() == pytest.approx(1 / 3)
    assert delta1(truth * 1.249, truth, valid).item() == 1
    assert delta1(truth / 1.249, truth, valid).item() == 1


def test_aligned_depth_is_that_of_the_best_disparity_of_each_clip() -> None:
    truth = torch.tensor([1.0, 2.0, 4.0, 0.0], dtype=torch.float64).view(1, 1, 1, 4).expand(4, 1, 1, 4)
    valid = (truth > 0).clone()
    valid[3] = False
    disparity = 1 / truth[0].where(truth[0] > 0, 1)
    # up to scale and shift; (1, 0, 0) has the fit 0.625 p + 0.375, of depths 1 and 8/3; inverted: only the mean 7/12 is
    # left, which is a depth of 12/7
    edge = torch.tensor([1, 1e-9, 1e-9, 1]).view(1, 1, 4)
    depth = 1 / torch.stack([3 * disparity + 0.7, edge, 2 - disparity, disparity])
    found = absrel_aligned(depth, truth, valid)
    inverted = (12 / 7 - 1 + 1 - 6 / 7 + 1 - 3 / 7) / 3
    assert found[:3].tolist() == pytest.approx([0, (1 / 3 + 1 / 3) / 3, inverted], abs=1e-7) and found[3].isnan()
    # the fit (0.5, 0.5, -0.1...) would be behind the camera: never farther than what is farthest
    far = torch.tensor([1.0, 10, 10, 10], dtype=torch.float64).view(1, 1, 1, 4)
    read = 1 / torch.tensor([0.6, 0.5, 0.5, 1e-3], dtype=torch.float64).view(1, 1, 1, 4)
    assert absrel_aligned(read, far, far > 0).item() < 1


def test_epe_is_the_length_on_the_mask_and_ignores_dz() -> None:
    truth = torch.zeros(1, 3, 1, 1, 2)
    motion = torch.tensor([[3.0, 100.0], [4.0, 100.0], [7.0, 7.0]]).view(1, 3, 1, 1, 2)
    assert epe(motion, truth, torch.tensor([[[[True, False]]]])).tolist() == [5.0]


def test_warp_l1_measures_disagreement_in_metres() -> None:
    truth = plane_truth()
    motion = truth["motion"].clone()
    motion[:, 2] += 0.03
    assert warp_l1(truth["depth"], motion, truth["visible"]).tolist() == pytest.approx([0.03, 0.03])
    assert warp_l1(truth["depth"] + 1, truth["motion"], truth["visible"]).abs().max() < 1e-12


def test_values_outside_the_masks_do_not_count() -> None:
    truth = plane_truth(1)
    truth["depth_valid"][..., 0, :] = False
    depth, motion = truth["depth"].clone(), truth["motion"].clone()
    depth[..., 0, :] = 77
    truth["depth"][..., 0, :] = 0
    truth["flow_valid"] = truth["flow_valid"].clone()
    truth["flow_valid"][..., 0, :] = False
    motion[:, :2, :, 0] = 55
    figures = geometry_metrics(depth, motion, truth)
    assert figures["absrel"].item() == 0 and figures["delta1"].item() == 1 and figures["epe"].item() == 0


def test_moving_region_joins_every_frame_with_the_first() -> None:
    instance = torch.zeros(1, 3, 1, 4, dtype=torch.uint8)
    for frame in range(3):
        instance[0, frame, 0, frame] = 5  # a mover ...
        instance[0, frame, 0, 3] = 7  # ... and something that stays
    moving = torch.zeros(1, 2, 1, 4, dtype=torch.bool)
    moving[0, 1, 0, 1] = True
    region = moving_region(instance, moving)[0, :, 0]
    assert region.tolist() == [
        [True, False, False, False],
        [True, True, False, False],
        [True, False, True, False],
    ]


def test_psnr_looks_at_the_region_after_the_first_frame() -> None:
    truth = torch.zeros(1, 3, 2, 2, 2)
    video = truth.clone()
    video[:, :, 0] = 1
    region = torch.tensor([[[[True, True], [True, True]], [[True, False], [False, False]]]])
    video[:, :, 1, 0, 0] = 0.2
    video[:, :, 1, 1, 1] = 1
    assert psnr_moving(video, truth, region).item() == pytest.approx(20.0, abs=1e-4)
    assert psnr_moving(truth, truth, region).item() == math.inf


def test_cloud_chamfer_of_a_shifted_plane_is_twice_the_shift() -> None:
    depth = torch.full((1, 3, 6, 6), 2.0, dtype=torch.float64)
    intrinsics = torch.tensor([[8.0, 0, 3], [0, 8, 3], [0, 0, 1]], dtype=torch.float64).expand(1, 3, 3, 3)
    valid = depth > 0
    assert cloud_chamfer_4d(depth, depth, valid, intrinsics).item() == 0
    near = depth.clone()
    near[:, 2] -= 1e-3
    value = cloud_chamfer_4d(near, depth, valid, intrinsics, frame_stride=2).item()
    assert value == pytest.approx(2e-3, rel=0.05)
    assert cloud_chamfer_4d(near, depth, valid, intrinsics, frame_stride=1).item() == pytest.approx(value / 2)


def test_clips_weigh_the_same_however_batches_fall() -> None:
    values = torch.tensor([1.0, 2.0, 6.0, math.nan, 3.0])
    whole, parts = ClipMean(), ClipMean()
    whole.add({"epe": values})
    for part in values.split([1, 3, 1]):
        parts.add({"epe": part})
    assert whole.summary() == parts.summary()
    estimate = whole.summary()["epe"]
    assert estimate.clips == 4 and estimate.mean == pytest.approx(3.0)
    assert estimate.standard_error == pytest.approx(torch.tensor([1.0, 2, 6, 3]).std().item() / 2)


def test_nothing_to_measure_is_not_a_number() -> None:
    truth = plane_truth(1)
    truth["moving"] = torch.zeros_like(truth["moving"])
    mean = ClipMean()
    mean.add(geometry_metrics(truth["depth"], truth["motion"], truth))
    summary = mean.summary()
    assert summary["epe_moving"].clips == 0 and math.isnan(summary["epe_moving"].mean)
    assert summary["epe"].clips == 1 and math.isnan(summary["epe"].standard_error)
