"""The Triton kernels of the backward warp against the definition in float64."""

import itertools

import pytest
import torch
from torch import Tensor

from phys4d.kernels.geometry.warps import flow_warp_ops
from phys4d.kernels.geometry.warps.flow_warp import flow_warp
from phys4d.kernels.geometry.warps.flow_warp_ops import flow_warp_op
from phys4d.kernels.geometry.warps.flow_warp_reference import flow_warp_reference

CASES = [
    pytest.param(*case, marks=[pytest.mark.slow] if case[1] != case[2] else [])
    for case in itertools.product((torch.float32, torch.float64), (False, True), (False, True))
]


def example(dtype: torch.dtype, device: torch.device, *, height: int = 21, width: int = 31) -> list[Tensor]:
    """Frames, flow, labels and wanted labels of two clips whose planes take more than one program."""
    generator = torch.Generator().manual_seed(3)
    frames = torch.randn(2, 3, 2, height, width, generator=generator, dtype=torch.float64)
    flow = torch.randn(2, 2, 2, height, width, generator=generator, dtype=torch.float64) * 3
    whole = torch.rand(flow.shape, generator=generator) < 0.2
    # Not so near to pixel centres that a single neighbour of next to no weight is divided by it.
    between = 0.1 + 0.8 * torch.rand(flow.shape, generator=generator, dtype=torch.float64)
    flow = flow.floor() + torch.where(whole, 0, between.float().double())
    for place, value in enumerate((torch.nan, torch.inf, -torch.inf, 1e30)):
        flow[:, place % 2, 0, height // 2, place % width] = value
    marks = [torch.randint(1, 4, flow[:, 0].shape, generator=generator).double() for _ in range(2)]
    return [t.to(device, dtype) for t in (frames, flow, *marks)]


def results(warp, frames: Tensor, flow: Tensor, *rest) -> list[Tensor]:
    """inside, warped, d_frames, d_flow; the gradient handed back is not a number where nothing is read."""
    frames, flow = frames.detach().requires_grad_(), flow.detach().requires_grad_()
    warped, inside = warp(frames, flow, *rest)
    weights = torch.linspace(-1, 2, warped.numel(), dtype=torch.float64).to(warped).view(warped.shape)
    weights = weights.masked_fill(flow.isnan().any(1, keepdim=True), torch.nan)
    return [inside, warped.detach(), *torch.autograd.grad(warped, (frames, flow), weights)]


@pytest.mark.interpreted
@pytest.mark.parametrize(("dtype", "labelled", "clamp"), CASES)
def test_the_kernels_compute_the_definition(dtype, labelled: bool, clamp: bool, device: torch.device) -> None:
    frames, flow, *marks = example(dtype, device)
    if labelled:
        frames = frames.masked_fill((marks[0] == 3)[:, None], torch.nan)
        marks[1] = marks[1].clamp_max(2)

    def found(warp, dtype: torch.dtype) -> list[Tensor]:
        read = [mark.to(dtype) for mark in marks] if labelled else [None, None]
        return results(warp, frames.to(dtype), flow.to(dtype), *read, 0.0, clamp)

    ours, theirs = found(flow_warp_op, dtype), found(flow_warp_reference, dtype)
    exact = found(flow_warp_reference, torch.float64)
    assert torch.equal(ours[0], theirs[0])
    for mine, other, true in zip(ours[1:], theirs[1:], exact[1:], strict=True):
        assert mine.isfinite().all()
        error, fault = ((t.double() - true).abs().max() for t in (mine, other))
        assert error <= 2 * fault + (1e-6 if dtype == torch.float32 else 1e-11)


@pytest.mark.interpreted
@pytest.mark.parametrize("pictures", [1, 3])
def test_how_many_frames_are_worked_on_at_a_time_does_not_matter(pictures: int, device, monkeypatch) -> None:
    frames, flow, *_ = example(torch.float32, device)
    whole = results(flow_warp_op, frames, flow, None, None, 0.0, False)
    monkeypatch.setattr(flow_warp_ops, "CACHED", pictures * frames[0, :, 0].numel() * 8)
    for expected, found in zip(whole, results(flow_warp_op, frames, flow, None, None, 0.0, False), strict=True):
        assert torch.equal(expected, found)


@pytest.mark.interpreted
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (7, 1), (0, 3)])
def test_small_and_empty_frames(height: int, width: int, device: torch.device) -> None:
    if height:
        frames, flow, *_ = example(torch.float64, device, height=height, width=width)
    else:
        frames, flow = torch.zeros(2, 1, 2, 2, height, width, device=device)
    for channels in (0, 3):
        ours, theirs = (
            results(warp, frames[:, :channels], flow, None, None, 0.0, False)
            for warp in (flow_warp_op, flow_warp_reference)
        )
        for mine, true in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, true, rtol=1e-11, atol=1e-11)


@pytest.mark.interpreted
def test_the_unit_of_a_gradient_does_not_matter_and_one_that_is_infinite_shows(device: torch.device) -> None:
    frames, flow, *_ = example(torch.float32, device)
    flow = flow.nan_to_num(0.5, 0.5, 0.5).requires_grad_()
    frames.requires_grad_()
    warped, _ = flow_warp(frames, flow, backend="triton")
    one = torch.autograd.grad(warped.sum(), (frames, flow), retain_graph=True)
    weights = warped.new_tensor([1e-20, torch.inf]).view(2, 1, 1, 1, 1).expand_as(warped)  # per clip; strides of 0
    tiny = torch.autograd.grad(warped, (frames, flow), weights)
    torch.testing.assert_close(tiny[0][0] * 1e20, one[0][0], rtol=1e-5, atol=1e-6)
    assert tiny[0][1].isnan().all() and tiny[0][0].isfinite().all()


@pytest.mark.interpreted
def test_all_pixels_in_one_cell_do_not_overflow_and_runs_agree(device: torch.device) -> None:
    frames = torch.ones(1, 1, 1, 30, 30, dtype=torch.float64, device=device, requires_grad=True)
    row, column = (torch.arange(30.0, dtype=torch.float64, device=device) for _ in range(2))
    flow = torch.stack(torch.broadcast_tensors(20 - column[None, :], 20 - row[:, None]))[None, :, None]
    found = [torch.autograd.grad(flow_warp(frames, flow, backend="triton")[0].sum(), frames)[0] for _ in range(2)]
    assert torch.equal(*found) and found[0].sum() == found[0][0, 0, 0, 20, 20] == 900


@pytest.mark.interpreted
def test_the_operator_is_well_formed_with_its_kernels(device: torch.device) -> None:
    frames, flow, *_ = (t[:1, :2, :1, :3, :4] for t in example(torch.float32, device)[:2])
    arguments = (frames.clone().requires_grad_(), flow.nan_to_num(0.5).requires_grad_(), None, None, 0.0, False)
    assert set(torch.library.opcheck(flow_warp_op, arguments).values()) == {"SUCCESS"}
