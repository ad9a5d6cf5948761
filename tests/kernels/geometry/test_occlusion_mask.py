"""Occlusion from depth and motion: what is covered, by whom, what leaves, and what masks say nothing about."""

import pytest
import torch
from torch import Tensor

from phys4d.kernels import native
from phys4d.kernels.geometry import occlusion_mask

BACKENDS = ["reference"] + (["native"] if native.status()[0] else [])


def passing(columns: int = 12, shift: float = 4.0) -> tuple[Tensor, Tensor]:
    """Something two pixels wide at 2 m moves right before a wall at 4 m: depth [1, 2, 3, W], motion [1, 3, 1, 3, W]."""
    depth = torch.full((1, 2, 3, columns), 4.0, dtype=torch.float64)
    depth[0, 0, :, 2:4] = depth[0, 1, :, 6:8] = 2.0
    motion = torch.zeros(1, 3, 1, 3, columns, dtype=torch.float64)
    motion[0, 0, 0, :, 2:4] = shift
    return depth, motion


def columns(mask: Tensor) -> list[int]:
    """Columns where a mask is True in every row; it must be the same in all rows."""
    assert (mask == mask[..., :1, :]).all()
    return mask[0, 0, 0].nonzero().flatten().tolist()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("by", ["both", "motion", "depth"])
def test_what_is_covered_is_hidden_by_what_moves_there_or_is_seen_there(by: str, backend: str) -> None:
    depth, motion = passing()
    if by == "motion":  # the second frame has not noticed
        depth[:, 1] = 4.0
    elif by == "depth":  # the motion has not
        motion.zero_()
        depth[:, 0] = 4.0
    found = occlusion_mask(depth, motion, backend=backend)
    assert columns(found.hidden) == [6, 7] and not found.outside.any()
    assert torch.equal(found.visible, ~found.hidden)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_leaves_or_passes_behind_the_camera_is_outside_and_not_hidden(backend: str) -> None:
    depth, motion = passing(shift=0.0)
    depth[:] = 4.0
    motion[0, 0, 0, :, 10:] = 2.0
    motion[0, 0, 0, :, 0] = -0.5  # to the very border: still in the picture
    motion[0, 0, 0, :, 1] = -1.51
    motion[0, 1, 0, :, 4] = torch.nan
    motion[0, 1, 0, :, 5] = torch.inf
    motion[0, 2, 0, :, 6] = -4.0
    found = occlusion_mask(depth, motion, backend=backend)
    assert columns(found.outside) == [1, 4, 5, 6, 10, 11] and not found.hidden.any()
    assert torch.equal(found.visible, ~found.outside)


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_a_surface_has_a_fate_and_only_a_surface_hides(backend: str) -> None:
    depth, motion = passing()
    valid = torch.ones_like(depth, dtype=torch.bool)
    valid[0, 0, :, 3], valid[0, 1, :, 7] = False, False  # half of it is unknown, before and after
    spoiled = depth.masked_fill(~valid, torch.nan)
    depth[0, 0, :, 9] = spoiled[0, 0, :, 9] = 0
    found = occlusion_mask(spoiled, motion, valid, backend=backend)
    assert columns(found.hidden) == [6] and not found.outside.any()
    assert columns(~(found.visible | found.hidden | found.outside)) == [3, 9]
    spoiled[0, 0, :, 3] = 1e-3
    again = occlusion_mask(spoiled, motion.masked_fill(~valid[:, None, :1], torch.nan), valid, backend=backend)
    assert all(torch.equal(a, b) for a, b in zip(again, found, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_tolerance_is_a_share_of_the_moved_depth(backend: str) -> None:
    depth, motion = passing()
    assert not occlusion_mask(depth, motion, tolerance=0.51, backend=backend).hidden.any()
    motion[0, 2] = 0.2  # then 2.2 is nearer than 0.53 of 4.2 and not than 0.52 of it
    depth[:, 1] += 0.2
    assert occlusion_mask(depth, motion, tolerance=0.47, backend=backend).hidden.any()
    assert not occlusion_mask(depth, motion, tolerance=0.48, backend=backend).hidden.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_clips_single_frames_and_no_gradient(backend: str) -> None:
    depth, motion = passing()
    found = occlusion_mask(depth.requires_grad_(), motion.float().requires_grad_(), backend=backend)
    assert not any(mask.requires_grad for mask in found)
    for clips, frames, height in ((0, 2, 3), (1, 1, 3), (1, 2, 0)):
        sizes = torch.zeros(clips, frames, height, 5), torch.zeros(clips, 3, frames - 1, height, 5)
        assert occlusion_mask(*sizes, backend=backend).visible.shape == (clips, frames - 1, height, 5)
    assert occlusion_mask(torch.ones(1, 2, 1, 1), torch.zeros(1, 3, 1, 1, 1), backend=backend).visible.all()


def test_wrong_arguments_are_named() -> None:
    depth, motion = passing()
    with pytest.raises(ValueError, match=r"motion: expected shape \[1, 3, 1, 3, 12\]"):
        occlusion_mask(depth, motion[:, :2])
    with pytest.raises(ValueError, match="tolerance: expected a share from 0 to below 1, got 1.5"):
        occlusion_mask(depth, motion, tolerance=1.5)
    with pytest.raises(ValueError, match="valid: expected a bool mask"):
        occlusion_mask(depth, motion, depth)
