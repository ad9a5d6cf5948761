"""Depth and flow losses: scale, masks, weights, and no NaN from what is masked."""

import math

import pytest
import torch

from phys4d.kernels.geometry import depth_loss, flow_loss


def test_depth_loss_is_the_log_ratio_near_and_far() -> None:
    target = torch.rand(2, 3, 4, 5, dtype=torch.float64) * 30 + 0.1
    valid = torch.ones_like(target, dtype=torch.bool)
    assert depth_loss(target * 1.2, target, valid).item() == pytest.approx(math.log(1.2))
    assert depth_loss(target / 1.2, target, valid).item() == pytest.approx(math.log(1.2))


def test_flow_loss_sums_channels_and_averages_pixels() -> None:
    target = torch.randn(2, 2, 3, 4, 5, dtype=torch.float64)
    valid = torch.rand(2, 3, 4, 5) > 0.5
    shift = torch.tensor([0.5, -0.25], dtype=torch.float64).view(1, 2, 1, 1, 1)
    assert flow_loss(target + shift, target, valid).item() == pytest.approx(0.75)
    assert flow_loss(target[:, :1] + 2, target[:, :1], valid).item() == pytest.approx(2.0)


def test_weights_are_normalised() -> None:
    target = torch.ones(1, 1, 1, 2, dtype=torch.float64)
    predicted = target * torch.tensor([2.0, 1.0], dtype=torch.float64)
    weight = torch.tensor([3.0, 1.0], dtype=torch.float64).expand_as(target)
    value = depth_loss(predicted, target, torch.ones_like(target, dtype=torch.bool), weight=weight)
    assert value.item() == pytest.approx(0.75 * math.log(2))
    flow = torch.zeros(1, 2, 1, 1, 2, dtype=torch.float64)
    off = flow.clone()
    off[..., 0] = 1
    valid = torch.ones(1, 1, 1, 2, dtype=torch.bool)
    assert flow_loss(off, flow, valid, weight=weight).item() == pytest.approx(0.75 * 2)


def test_masked_values_reach_neither_loss_nor_gradient() -> None:
    target = torch.tensor([[[[1.0, 0.0, float("nan")]]]], dtype=torch.float64)
    predicted = torch.tensor([[[[1.5, 0.0, float("nan")]]]], dtype=torch.float64, requires_grad=True)
    value = depth_loss(predicted, target, target == 1)
    value.backward()
    assert value.item() == pytest.approx(math.log(1.5))
    assert predicted.grad is not None
    assert predicted.grad.flatten().tolist() == pytest.approx([1 / 1.5, 0, 0])


def test_nothing_valid_costs_nothing() -> None:
    depth = torch.full((1, 2, 3, 3), float("nan"), requires_grad=True)
    flow = torch.full((1, 2, 2, 3, 3), float("inf"), requires_grad=True)
    nothing = torch.zeros(1, 2, 3, 3, dtype=torch.bool)
    value = depth_loss(depth, depth.detach(), nothing) + flow_loss(flow, flow.detach(), nothing)
    value.backward()
    assert value == 0
    assert depth.grad is not None and not depth.grad.any()
    assert flow.grad is not None and not flow.grad.any()


def test_gradients() -> None:
    torch.manual_seed(0)
    valid, weight = torch.rand(1, 2, 2, 3) > 0.3, torch.rand(1, 2, 2, 3, dtype=torch.float64)
    target = torch.rand(1, 2, 2, 3, dtype=torch.float64) + 1
    predicted = (target + 0.3 + torch.rand_like(target)).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: depth_loss(p, target, valid, weight=weight), predicted)
    motion = torch.randn(1, 2, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m: flow_loss(m, torch.zeros_like(m), valid, weight=weight), motion)


def test_wrong_arguments_are_named() -> None:
    depth = torch.ones(1, 2, 3, 4)
    with pytest.raises(ValueError, match=r"target: expected shape \[1, 2, 3, 4\], got \[1, 2, 3, 3\]"):
        depth_loss(depth, depth[..., :3], depth > 0)
    flow = torch.ones(1, 2, 2, 3, 4)
    with pytest.raises(ValueError, match=r"valid: expected shape \[1, 2, 3, 4\], got \[1, 3, 4\]"):
        flow_loss(flow, flow, torch.ones(1, 3, 4, dtype=torch.bool))
