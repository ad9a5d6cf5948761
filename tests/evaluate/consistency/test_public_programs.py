"""Our figures are those of the public programs, on inputs that both define: expected values were written by them."""

import json
from pathlib import Path

import pytest
import torch

from phys4d.evaluate.consistency.clouds import track_chamfer
from phys4d.evaluate.consistency.depth import absrel, delta1, rmse, scaled_and_shifted
from phys4d.evaluate.consistency.masks import mask_chamfer, mask_iou, trajectory_error
from phys4d.evaluate.consistency.tracks import agreement
from phys4d.evaluate.consistency.warps import temporal_alignment_error
from phys4d.kernels.geometry import chamfer_4d
from tests.evaluate.consistency import public_cases

PUBLIC = json.loads((Path(__file__).parent / "public_values.json").read_text())


def test_aligned_depth_is_that_of_video_depth_anything() -> None:
    disparity, truth = map(torch.from_numpy, public_cases.depths(3))
    every = torch.ones(1, 3, 12, 16, dtype=torch.bool)
    found = scaled_and_shifted(1 / disparity[None], truth[None], every)
    expected = PUBLIC["depth"]
    assert absrel(found, truth[None], every).item() == pytest.approx(expected["absrel"], rel=1e-6)
    assert delta1(found, truth[None], every).item() == pytest.approx(expected["delta1"], rel=1e-6)
    one = (1 / disparity[None, :1], truth[None, :1], every[:, :1])
    assert rmse(scaled_and_shifted(*one), *one[1:]).item() == pytest.approx(expected["rmse_of_one_frame"], rel=1e-6)


def test_temporal_alignment_error_of_a_still_scene_is_that_of_video_depth_anything() -> None:
    case = public_cases.sliding()
    truth = torch.from_numpy(case.truth)[None]
    depth = scaled_and_shifted(1 / torch.from_numpy(case.disparity)[None], truth, torch.ones_like(truth).bool())
    motion = torch.zeros(1, 3, *truth[0, 1:].shape, dtype=torch.float64)
    motion[:, 0] = -case.intrinsics[0, 0] * 0.1 / truth[:, :-1]
    landed = torch.arange(truth.shape[-1]) + motion[:, 0].round()
    error = temporal_alignment_error(depth, motion, landed >= 0, torch.ones_like(truth).bool())
    assert error.item() == pytest.approx(PUBLIC["tae"]["tae"], rel=1e-6)


def test_agreement_of_tracks_is_that_of_tapvid3d() -> None:
    points, visible, truth, true_visible, focal = map(torch.from_numpy, public_cases.tracks())
    root = focal.prod().sqrt().expand(1, len(points))
    found = agreement(points[None], visible[None], truth[None], true_visible[None], root)
    for name, value in found._asdict().items():
        assert value.item() == pytest.approx(PUBLIC["tracks"][name], abs=1e-12), name


def test_chamfer_distances_are_those_of_actionbench() -> None:
    x, y = (torch.from_numpy(cloud)[None] for cloud in public_cases.clouds())
    assert chamfer_4d(x, y).item() == pytest.approx(PUBLIC["clouds"]["chamfer_4d"], rel=1e-12)
    paired = torch.full((1, 4, 105, 3), torch.nan, dtype=torch.float64)
    mine, theirs = torch.zeros(2, 1, 4, 105, dtype=torch.bool)
    paired[:, :, :60], mine[:, :, :60] = x, True
    other = paired.clone()
    other[:, :, 60:], theirs[:, :, 60:] = y, True
    found = track_chamfer(paired, mine, other, theirs).item()
    assert found == pytest.approx(PUBLIC["clouds"]["chamfer_motion"], rel=1e-12)


def test_errors_of_masks_are_those_of_pisa() -> None:
    masks, truth = (torch.from_numpy(m).transpose(0, 1)[None] for m in public_cases.masks())
    expected = PUBLIC["masks"]
    assert trajectory_error(masks, truth).item() == pytest.approx(expected["trajectory_error"], rel=1e-12)
    assert mask_chamfer(masks, truth).item() == pytest.approx(expected["mask_chamfer"], rel=1e-12)
    assert mask_iou(masks[:, :1], truth[:, :1]).item() == pytest.approx(expected["mask_iou_of_one_object"], rel=1e-12)
