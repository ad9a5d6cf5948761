"""Warp consistency on a slanted plane, whose depth and motion are known in closed form."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from phys4d.kernels.geometry import sample_depth, warp_consistency, warp_residual

FOCAL, HEIGHT, WIDTH = 40.0, 20, 24


def slanted_plane(step: tuple[float, float, float], frames: int = 3) -> tuple[Tensor, Tensor]:
    """Depth [1, T, H, W] and motion [1, 3, T-1, H, W] of the plane n.p = c that moves by `step` metres a
    frame."""
    normal = torch.tensor([0.35, -0.6, 1.0], dtype=torch.float64)
    moved = torch.tensor(step, dtype=torch.float64)
    v = (torch.arange(HEIGHT, dtype=torch.float64) + 0.5 - HEIGHT / 2)[:, None].expand(HEIGHT, WIDTH)
    u = (torch.arange(WIDTH, dtype=torch.float64) + 0.5 - WIDTH / 2).expand(HEIGHT, WIDTH)
    rays = torch.stack((u / FOCAL, v / FOCAL, torch.ones_like(u)), dim=-1)
    depth = torch.stack([(2.5 + frame * (normal @ moved)) / (rays @ normal) for frame in range(frames)])
    after = rays * depth[:-1, ..., None] + moved
    projected = FOCAL * after[..., :2] / after[..., 2:]
    flow = projected - torch.stack((u, v), dim=-1)
    motion = torch.cat((flow, (after[..., 2] - depth[:-1])[..., None]), dim=-1)
    return depth[None], motion.permute(3, 0, 1, 2)[None]


def everywhere(depth: Tensor) -> Tensor:
    return torch.ones_like(depth[:, 1:], dtype=torch.bool)


def test_exact_on_a_slanted_plane_under_translation() -> None:
    depth, motion = slanted_plane((0.07, -0.04, 0.09))
    residual, used = warp_residual(depth, motion, everywhere(depth))
    assert used.float().mean() > 0.8
    assert residual.abs().max() < 1e-12
    # The same plane with bilinear z instead of bilinear inverse depth would be off by far more.
    grid = motion[:, :2, 0, 5, 5]
    assert float(grid.abs().min()) > 0.1


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_a_wrong_sign_is_caught(channel: int) -> None:
    depth, motion = slanted_plane((0.07, -0.04, 0.09))
    motion[:, channel] *= -1
    assert warp_consistency(depth, motion, everywhere(depth)) > 5e-3


@pytest.mark.parametrize("channel", [0, 1])
def test_a_half_pixel_shift_is_caught(channel: int) -> None:
    depth, motion = slanted_plane((0.07, -0.04, 0.09))
    motion[:, channel] += 0.5
    assert warp_consistency(depth, motion, everywhere(depth)) > 5e-3


def test_exchanged_axes_are_caught() -> None:
    depth, motion = slanted_plane((0.07, -0.04, 0.09))
    assert warp_consistency(depth, motion[:, [1, 0, 2]], everywhere(depth)) > 5e-3


def test_float32_stays_below_a_micrometre() -> None:
    depth, motion = slanted_plane((0.07, -0.04, 0.09))
    residual, _ = warp_residual(depth.float(), motion.float(), everywhere(depth))
    assert residual.abs().max() < 2e-6


@pytest.mark.parametrize("loss", ["l1", "charbonnier", "relative"])
def test_gradients(loss: str) -> None:
    torch.manual_seed(0)
    depth = (torch.rand(1, 3, 4, 5, dtype=torch.float64) + 1).requires_grad_()
    motion = torch.rand(1, 3, 2, 4, 5, dtype=torch.float64).mul(0.8).add(0.1).requires_grad_()
    visible = torch.rand(1, 2, 4, 5) > 0.2

    def value(depth: Tensor, motion: Tensor) -> Tensor:
        return warp_consistency(depth, motion, visible, loss=loss)  # type: ignore[arg-type]

    if loss == "relative":  # its denominator is held fixed, so finite differences see more than the gradient
        value(depth, motion).backward()
        assert depth.grad is not None and motion.grad is not None
        assert depth.grad.isfinite().all() and motion.grad.abs().sum() > 0
    else:
        assert torch.autograd.gradcheck(value, (depth, motion))


@pytest.mark.parametrize("loss", ["l1", "charbonnier", "relative"])
def test_nothing_visible_costs_nothing(loss: str) -> None:
    depth = torch.full((1, 2, 3, 3), float("nan"), requires_grad=True)
    motion = torch.full((1, 3, 1, 3, 3), float("nan"), requires_grad=True)
    hidden = torch.zeros(1, 1, 3, 3, dtype=torch.bool)
    value = warp_consistency(depth, motion, hidden, loss=loss)  # type: ignore[arg-type]
    value.backward()
    assert value == 0
    assert depth.grad is not None and motion.grad is not None
    assert torch.equal(motion.grad, torch.zeros_like(motion)) and torch.equal(depth.grad, torch.zeros_like(depth))


def test_missing_surface_is_masked_and_not_mixed_in() -> None:
    depth = torch.full((1, 2, 4, 4), 2.0, dtype=torch.float64)
    depth[0, 1, 1, 1] = 0
    motion = torch.zeros(1, 3, 1, 4, 4, dtype=torch.float64)
    motion[:, 0] = 0.5
    residual, used = warp_residual(depth, motion, everywhere(depth))
    assert residual.abs().max() == 0
    touching = torch.zeros(4, 4, dtype=torch.bool)
    touching[1, :2] = True  # the two pixels whose landing mixes the hole
    touching[:, 3] = True  # and those that leave the image
    assert torch.equal(~used[0, 0], touching)


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    du=st.floats(-8, 8, width=32),
    dv=st.floats(-8, 8, width=32),
)
def test_constant_depth_samples_as_itself_exactly_where_inside(height: int, width: int, du: float, dv: float) -> None:
    depth = torch.full((1, 1, height, width), 3.0, dtype=torch.float64)
    flow = torch.tensor([du, dv], dtype=torch.float64).view(2, 1, 1, 1, 1).expand(2, 1, 1, height, width)
    sampled, inside = sample_depth(depth, flow)
    column = torch.arange(width)[None, :] + du
    row = torch.arange(height)[:, None] + dv
    expected = (column >= 0) & (column <= width - 1) & (row >= 0) & (row <= height - 1)
    assert torch.equal(inside[0, 0], expected)
    torch.testing.assert_close(sampled[0, 0], torch.where(expected, 3.0, 0.0).double())


@pytest.mark.parametrize("leading", [(), (3,), (2, 1, 2)])
@pytest.mark.parametrize("shape", [(2, 2), (1, 2), (2, 1), (3, 2)])
def test_the_smallest_images_are_interpolated_along_both_axes(leading: tuple[int, ...], shape: tuple[int, int]) -> None:
    """Inverse depth 1 + row + 2 column, sampled a quarter of a pixel down and half a pixel to the right."""
    height, width = shape
    rows, columns = torch.arange(height, dtype=torch.float64)[:, None], torch.arange(width, dtype=torch.float64)
    depth = (1 / (1 + rows + 2 * columns)).expand(*leading, height, width)
    down, right = (0.25 if height > 1 else 0.0), (0.5 if width > 1 else 0.0)
    flow = torch.stack([torch.full_like(depth, right), torch.full_like(depth, down)])
    sampled, inside = sample_depth(depth, flow)
    first = sampled[..., 0, 0]
    torch.testing.assert_close(first, torch.full_like(first, 1 / (1 + down + 2 * right)))
    assert inside[..., 0, 0].all() and sampled.shape == depth.shape


def test_wrong_arguments_are_named() -> None:
    depth, motion = slanted_plane((0.0, 0.0, 0.1))
    with pytest.raises(ValueError, match=r"motion: expected shape \[1, 3, 2, 20, 24\], got \[1, 3, 1, 20, 24\]"):
        warp_consistency(depth, motion[:, :, :1], everywhere(depth))
    with pytest.raises(ValueError, match="visible: expected a bool mask, got float64"):
        warp_consistency(depth, motion, everywhere(depth).double())
    with pytest.raises(ValueError, match='loss: expected "l1"'):
        warp_consistency(depth, motion, everywhere(depth), loss="l2")  # type: ignore[arg-type]
