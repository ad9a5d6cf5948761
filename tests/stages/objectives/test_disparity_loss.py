"""The loss against disparity up to scale and shift: numbers by hand, invariance, masks, gradients, mixed batches."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from phys4d.models.world import WorldModel
from phys4d.stages import pretrain
from phys4d.stages.disparity_loss import disparity_loss
from phys4d.stages.geometry_loss import GeometryWeights, geometry_loss

SHAPE = (2, 3, 4, 5)


def clips(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Depth, disparity, valid and weight of two clips; what is not valid is far off."""
    draw = torch.Generator().manual_seed(4)
    depth, disparity, weight = (torch.rand(SHAPE, generator=draw, dtype=dtype) for _ in range(3))
    valid = torch.rand(SHAPE, generator=draw) < 0.7
    return 1 + depth, torch.where(valid, disparity, 1e4), valid, 0.5 + 4 * weight


def row(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)


def by_hand(depth: Tensor, disparity: Tensor, valid: Tensor, weight: Tensor) -> float:
    """1 minus the weighted correlation, clip by clip, in plain numbers."""
    found = []
    for clip in zip(depth, disparity, valid, weight, strict=True):
        some = [(1 / z, d, w) for z, d, seen, w in zip(*(x.flatten().tolist() for x in clip), strict=True) if seen]
        total = sum(w for *_, w in some)
        mean = [sum(x[i] * x[2] for x in some) / total for i in (0, 1)]
        pp, pd, dd = (
            sum((x[i] - mean[i]) * (x[j] - mean[j]) * x[2] for x in some) for i, j in ((0, 0), (0, 1), (1, 1))
        )
        found.append(1 - pd / math.sqrt(pp * dd))
    return sum(found) / len(found)


@pytest.mark.parametrize(
    ("disparity", "weight", "loss"),
    [
        ((4.0, 2.0, 1.0), (1, 1, 1), 0.0),  # that of depths 1/4, 1/2 and 1
        ((11.0, 7.0, 5.0), (1, 1, 1), 0.0),  # 2 d + 3
        ((1.0, 5.0, 7.0), (1, 1, 1), 2.0),  # inverted: 9 - 2 d
        ((1.0, 0.0, 0.0), (1, 1, 1), 1 - 5 / math.sqrt(28)),  # cov 5/9, variances 14/9 and 2/9
        ((1.0, 0.0, 0.0), (0, 3, 1), 0.0),  # constant where it counts: nothing to learn
        ((1.0, 0.0, 1.0), (1, 2, 1), 1 - 0.125 / math.sqrt(1.1875 * 0.25)),  # means 2.25 and 0.5
        ((1.0, 0.0, 1.0), (0.1, 0.2, 0.1), 1 - 0.125 / math.sqrt(1.1875 * 0.25)),  # weights that sum to less than 1
    ],
)
def test_three_pixels_in_numbers(disparity: Any, weight: Any, loss: float) -> None:
    found = disparity_loss(row(0.25, 0.5, 1), row(*disparity), torch.ones(1, 1, 1, 3, dtype=torch.bool), row(*weight))
    assert float(found) == pytest.approx(loss, abs=1e-12)


def test_two_clips_by_hand_with_masks_and_weights() -> None:
    inputs = clips()
    found = float(disparity_loss(*inputs))
    assert found == pytest.approx(by_hand(*inputs), rel=1e-12) and 0.5 < found < 1.5
    assert float(disparity_loss(*(x.float() if x.is_floating_point() else x for x in inputs))) == pytest.approx(found)


def test_scale_and_shift_of_the_label_and_of_each_clips_prediction_do_not_count() -> None:
    depth, disparity, valid, weight = clips()
    before = float(disparity_loss(depth, disparity, valid, weight))
    scale, shift = (torch.tensor(pair).view(2, 1, 1, 1) for pair in ((3.0, 0.4), (5.0, 2.0)))
    assert float(disparity_loss(depth, scale * disparity + shift, valid, weight)) == pytest.approx(before, rel=1e-9)
    assert float(disparity_loss(1 / (scale / depth + shift / 9), disparity, valid, weight)) == pytest.approx(before)
    assert float(disparity_loss(depth, 50 - disparity, valid, weight)) == pytest.approx(2 - before)


def test_frames_do_not_have_a_scale_of_their_own() -> None:
    """One that breathes costs, though each of its frames is that of the label up to scale."""
    depth = 1 + torch.rand(SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    yes, one = torch.ones(SHAPE, dtype=torch.bool), torch.ones(SHAPE)
    breathing = depth * torch.tensor([1.0, 1.5, 1.0]).view(1, 3, 1, 1)
    assert float(disparity_loss(depth, 1 / depth, yes, one)) == pytest.approx(0, abs=1e-12)
    assert float(disparity_loss(breathing, 1 / depth, yes, one)) > 0.1


def test_the_gradient_is_that_of_finite_differences_and_of_fp64() -> None:
    depth, disparity, valid, weight = clips()
    depth.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda z: disparity_loss(z, disparity, valid, weight), (depth,))
    (exact,) = torch.autograd.grad(disparity_loss(depth, disparity, valid, weight), depth)
    assert not exact[~valid].any() and exact[valid].abs().min() > 0
    single = depth.detach().float().requires_grad_(True)
    disparity_loss(single, disparity.float(), valid, weight.float()).backward()
    assert (single.grad.double() - exact).abs().max() < 1e-6 * exact.abs().max() * 10


def test_a_constant_prediction_has_a_finite_gradient_towards_the_label() -> None:
    depth = row(2, 2, 2, 2).requires_grad_(True)
    loss = disparity_loss(depth, row(0, 1, 2, 3), torch.ones(1, 1, 1, 4, dtype=torch.bool), row(1, 1, 1, 1))
    loss.backward()
    # d(1 - cov / (0.01 mean_p std_d)) / dz = off_d / 4 / (0.01 / 2 std_d) / z^2: what is nearer must come nearer
    expected = [off / 4 / (0.01 / 2 * math.sqrt(1.25)) / 4 for off in (-1.5, -0.5, 0.5, 1.5)]
    assert loss.item() == 1 and depth.grad.flatten().tolist() == pytest.approx(expected)


@pytest.mark.parametrize(("off", "loss"), [(1.5e-3, 2.0), (0.7e-3, 0.0)])
def test_a_label_is_constant_below_a_hundred_thousandth_of_its_mean(off: float, loss: float) -> None:
    """Of mean 100, with deviations to either side of 100 / 10^5; the depths are in the label's order, so inverted."""
    label, both = row(100 - off, 100 + off), torch.ones(1, 1, 1, 2, dtype=torch.bool)
    assert float(disparity_loss(row(1, 2), label, both, row(1, 1))) == pytest.approx(loss, abs=1e-6)


def test_clips_without_anything_to_learn_add_nothing() -> None:
    depth, disparity, valid, weight = clips()
    valid[0] = False
    depth.requires_grad_(True)
    loss = disparity_loss(depth, disparity, valid, weight)
    loss.backward()
    assert loss.item() == pytest.approx(by_hand(depth[1:], disparity[1:], valid[1:], weight[1:]) / 2)
    assert not depth.grad[0].any() and depth.grad[1].any() and depth.grad.isfinite().all()
    valid[1], disparity[1] = True, 7.0
    assert float(disparity_loss(depth.detach(), disparity, valid, weight)) == 0


@pytest.mark.parametrize("affine", [(), (True, False), (False, True), (True, True)])
def test_a_mixed_batch_is_the_mean_over_clips_of_each_clips_own_loss(
    affine: tuple[bool, ...], geometry_by_hand: Callable[..., dict[str, float]]
) -> None:
    draw = torch.Generator().manual_seed(6)
    depth, motion = 1 + torch.rand(2, 3, 3, 4, generator=draw), torch.rand(2, 3, 2, 3, 4, generator=draw)
    masks = {name: torch.rand(2, 2, 3, 4, generator=draw) < 0.7 for name in ("flow_valid", "dz_valid")}
    labels = masks | {
        "depth": 1 + torch.rand(2, 3, 3, 4, generator=draw), "motion": torch.randn(2, 3, 2, 3, 4, generator=draw),
        "depth_valid": torch.rand(2, 3, 3, 4, generator=draw) < 0.7,
    }  # fmt: skip
    moving = torch.rand(2, 2, 3, 4, generator=draw) < 0.3
    weights = {"depth": 1.5, "flow": 0.7, "dz": 2.5}
    rest: dict[str, Any] = {"moving_depth": 4.0, "moving_motion": 6.0, "margin": 0}
    total, terms = geometry_loss(
        depth, motion, labels, moving, GeometryWeights(**weights, **rest), affine=affine, disparity=1.25
    )
    weight = 1 + 4.0 * torch.cat([moving, moving[:, -1:]], 1).float()
    hand = geometry_by_hand(depth, motion, labels, moving, weights=weights, **rest)
    metric, disparity = 0.0, 0.0
    for i, is_affine in enumerate(affine or (False, False)):
        one = slice(i, i + 1)
        own = {name: array[one] for name, array in labels.items()}
        if is_affine:
            disparity += by_hand(depth[one], own["depth"], own["depth_valid"], weight[one]) / 2
        else:
            metric += geometry_by_hand(depth[one], motion[one], own, moving[one], weights=weights, **rest)["depth"] / 2
    assert float(terms["depth_loss"]) == pytest.approx(metric, rel=1e-5)
    assert ("disparity_loss" in terms) == bool(affine)
    assert float(terms.get("disparity_loss", 0)) == pytest.approx(disparity, rel=1e-5)
    expected = 1.5 * metric + 1.25 * disparity + 0.7 * hand["flow"] + 2.5 * hand["dz"]
    assert float(total) == pytest.approx(expected, rel=1e-5)
    unweighted, _ = geometry_loss(depth, motion, labels, moving, GeometryWeights(**weights, **rest), affine=affine)
    assert float(unweighted) == pytest.approx(expected - 1.25 * disparity, rel=1e-5)


def test_pretrain_takes_the_kind_of_each_clip(
    objective: Callable[..., Any], source: Any, world: WorldModel, minimised: Any
) -> None:
    """Also in micro-batches, of which one has metric labels alone; the terms add up to those of one batch."""
    weights, found = GeometryWeights(margin=0), {}
    source.affine = (False, True)
    for name, size, weight in (("whole", None, 2.0), ("parts", 1, 2.0), ("without", None, 0.0)):
        stage = objective(pretrain, batch=2, micro_batch=size, weights=weights, disparity=weight)
        found[name] = {term: float(value) for term, value in stage.update(3, minimised).items()}
    assert found["parts"] == pytest.approx(found["whole"], rel=1e-5)
    whole, without = found["whole"], found["without"]
    assert whole["disparity_loss"] > 0.1 and whole["disparity_loss"] == without["disparity_loss"]
    assert whole["loss"] == pytest.approx(without["loss"] + 2 * whole["disparity_loss"], rel=1e-5)
    source.affine = ()
    metric = {t: float(v) for t, v in objective(pretrain, batch=2, weights=weights).update(3, minimised).items()}
    assert "disparity_loss" not in metric and metric["depth_loss"] > whole["depth_loss"]
