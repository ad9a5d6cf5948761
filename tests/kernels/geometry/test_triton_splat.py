"""The Triton kernels of the forward warp with a depth buffer: the definition in every bit."""

import pytest
import torch
from torch import Tensor

from phys4d.kernels.geometry import occlusion_mask, splat
from phys4d.kernels.geometry.warps.splat_ops import splat_op


def example(dtype: torch.dtype, device: torch.device, *, sizes: tuple[int, ...] = (2, 3, 2, 27, 41)) -> list[Tensor]:
    """values, flow, depth, valid of two clips whose planes take more than one program; ties and NaN included."""
    generator = torch.Generator().manual_seed(5)
    clips, _, times, height, width = sizes
    values = torch.randn(sizes, generator=generator, dtype=torch.float64)
    flow = torch.randn(clips, 2, times, height, width, generator=generator, dtype=torch.float64) * 3
    flow = flow.masked_fill(torch.rand(flow.shape, generator=generator) < 0.02, torch.nan)
    depth = torch.randint(-1, 9, (clips, times, height, width), generator=generator).double() / 3
    depth = depth.masked_fill(depth == 0, torch.nan).masked_fill(depth == 2, torch.inf)
    valid = torch.rand(depth.shape, generator=generator) < 0.8
    return [*(t.to(device, dtype) for t in (values, flow, depth)), valid.to(device)]


def results(values: Tensor, flow: Tensor, depth: Tensor, valid: Tensor | None, backend: str) -> list[Tensor]:
    values, depth = values.detach().requires_grad_(), depth.detach().requires_grad_()
    seen = splat(values, flow, depth, valid, backend=backend)  # type: ignore[arg-type]
    loss = seen.values.square().sum() + seen.depth.nan_to_num(posinf=0).square().sum()
    return [t.detach() for t in (*seen, *torch.autograd.grad(loss, (values, depth)))]


@pytest.mark.interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("masked", [False, True])
def test_the_kernels_compute_the_definition(dtype: torch.dtype, masked: bool, device: torch.device) -> None:
    *arguments, valid = example(dtype, device)
    ours, theirs = (results(*arguments, valid if masked else None, backend) for backend in ("triton", "reference"))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert (ours[2] >= 0).any() and (ours[2] < 0).any()


@pytest.mark.interpreted
def test_float64_depths_that_differ_in_their_last_bit_are_told_apart(device: torch.device) -> None:
    depth = torch.full((1, 1, 1, 3), 2.0, dtype=torch.float64, device=device)
    depth[..., 2] = torch.nextafter(depth[..., 2], depth.new_zeros(1))
    flow = torch.zeros(1, 2, 1, 1, 3, dtype=torch.float64, device=device)
    flow[0, 0, 0, 0] = torch.tensor([1.0, 0.0, -1.0])
    assert splat(depth[:, None], flow, depth, backend="triton").index[0, 0, 0].tolist() == [-1, 2, -1]
    assert splat(depth[:, None].float(), flow, depth.float(), backend="triton").index[0, 0, 0].tolist() == [-1, 0, -1]


@pytest.mark.interpreted
@pytest.mark.parametrize("sizes", [(1, 2, 2, 1, 1), (1, 0, 1, 3, 5), (0, 2, 1, 3, 3), (1, 1, 1, 0, 4)])
def test_small_and_empty_frames(sizes: tuple[int, ...], device: torch.device) -> None:
    arguments = example(torch.float32, device, sizes=sizes)
    ours, theirs = (results(*arguments, backend) for backend in ("triton", "reference"))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.interpreted
def test_occlusion_is_the_same_by_kernels(device: torch.device) -> None:
    _, flow, depth, valid = example(torch.float32, device)
    motion = torch.cat((flow, torch.zeros_like(flow[:, :1])), 1)[:, :, :1]
    found = [occlusion_mask(depth, motion, valid, backend=backend) for backend in ("triton", "reference")]
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True)) and found[0].hidden.any()


@pytest.mark.interpreted
def test_the_operator_is_well_formed_with_its_kernels(device: torch.device) -> None:
    values, flow, depth, valid = example(torch.float32, device, sizes=(1, 2, 1, 3, 4))
    arguments = values.clone().requires_grad_(), flow.nan_to_num(), depth.nan_to_num(1.0).requires_grad_(), valid
    assert set(torch.library.opcheck(splat_op, arguments).values()) == {"SUCCESS"}
