"""The loss of the heads on two clips of three frames: every term, mask, weight and frame against loops in fp64."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from phys4d.stages.geometry_loss import GeometryWeights, geometry_loss, near_probe

WEIGHTS = {"depth": 1.5, "flow": 0.7, "dz": 2.5, "warp": 0.9}


@pytest.fixture
def predicted() -> tuple[Tensor, Tensor]:
    """Depth and motion of 2 clips of 3 frames of 3 x 4 pixels."""
    draw = torch.Generator().manual_seed(2)
    return 1 + torch.rand(2, 3, 3, 4, generator=draw), torch.rand(2, 3, 2, 3, 4, generator=draw) - 0.4


@pytest.fixture
def labels() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(3)
    masks = {name: torch.rand(2, 2, 3, 4, generator=draw) < 0.7 for name in ("flow_valid", "dz_valid", "visible")}
    valid = torch.rand(2, 3, 3, 4, generator=draw) < 0.7
    motion = torch.randn(2, 3, 2, 3, 4, generator=draw)
    motion = torch.where(torch.stack([masks["flow_valid"], masks["flow_valid"], masks["dz_valid"]], 1), motion, 55.0)
    depth = torch.where(valid, 1 + torch.rand(2, 3, 3, 4, generator=draw), 77.0)
    return masks | {"depth": depth, "depth_valid": valid, "motion": motion}


@pytest.fixture
def moving() -> Tensor:
    """In the first clip a corner moves between frames 0 and 1, in the second the middle between frames 1 and 2."""
    moving = torch.zeros(2, 2, 3, 4, dtype=torch.bool)
    moving[0, 0, 0, 0] = moving[1, 1, 1, 2] = True
    return moving


@pytest.mark.parametrize("margin", [0, 1, 2])
def test_every_term_and_the_sum(
    predicted: Any, labels: Any, moving: Tensor, margin: int, geometry_by_hand: Callable[..., Any]
) -> None:
    rest: dict[str, Any] = {"moving_depth": 4.0, "moving_motion": 6.0, "margin": margin}
    total, terms = geometry_loss(*predicted, labels, moving, GeometryWeights(**WEIGHTS, **rest))
    by_hand = geometry_by_hand(*predicted, labels, moving, weights=WEIGHTS, **rest)
    assert set(terms) == {"depth_loss", "flow_loss", "dz_loss", "warp_loss"}
    for name in WEIGHTS:
        assert float(terms[f"{name}_loss"]) == pytest.approx(by_hand[name], rel=1e-5) and by_hand[name] > 0.01, name
    assert float(total) == pytest.approx(by_hand["total"], rel=1e-5)


@pytest.mark.parametrize("name", list(WEIGHTS))
def test_each_weight_is_that_of_its_term(
    predicted: Any, labels: Any, moving: Tensor, name: str, geometry_by_hand: Callable[..., Any]
) -> None:
    alone = {other: 2.0 * (other == name) for other in WEIGHTS}
    total, terms = geometry_loss(*predicted, labels, moving, GeometryWeights(**alone))
    by_hand = geometry_by_hand(
        *predicted, labels, moving, weights=alone, moving_depth=8.0, moving_motion=16.0, margin=2
    )
    assert float(total) == pytest.approx(2 * by_hand[name], rel=1e-5)
    assert ("warp_loss" in terms) == (name == "warp")


def test_two_pixels_in_numbers() -> None:
    """Depth e times too far where it moves and right beside: (1 + 8) / (9 + 1) over both frames; off by 2 and 3 px
    where it moves and 1 px beside: (17 * 5 + 1) / 18; dz off by 0.4 m beside alone, where it counts alone."""
    moving = torch.tensor([[[[True, False]]]])
    depth = torch.tensor([[[[math.e, 1.0]], [[math.e, 1.0]]]], requires_grad=True)
    motion = torch.tensor([[2.0, 1.0], [-3.0, 0.0], [9.0, 0.4]]).view(1, 3, 1, 1, 2).requires_grad_(True)
    yes = torch.ones(1, 1, 1, 2, dtype=torch.bool)
    labels = {
        "depth": torch.ones(1, 2, 1, 2), "depth_valid": torch.ones(1, 2, 1, 2, dtype=torch.bool),
        "motion": torch.zeros(1, 3, 1, 1, 2), "flow_valid": yes, "dz_valid": yes & ~moving,
    }  # fmt: skip
    total, terms = geometry_loss(depth, motion, labels, moving, GeometryWeights(margin=0))
    assert {name: float(term) for name, term in terms.items()} == {
        "depth_loss": pytest.approx(0.9), "flow_loss": pytest.approx(86 / 18), "dz_loss": pytest.approx(0.4)
    }  # fmt: skip
    assert total.item() == pytest.approx(2 * 0.9 + 0.3 * 86 / 18 + 3 * 0.4)
    assert not any(term.requires_grad for term in terms.values())
    total.backward()  # towards the label: less depth, less du, more dv (it is -3), less dz
    assert depth.grad.flatten().tolist()[::2] == pytest.approx([2 * 9 / 20 / math.e] * 2)
    assert motion.grad.flatten().tolist() == pytest.approx([0.3 * 17 / 18, 0.3 / 18, -0.3 * 17 / 18, 0, 0, 3.0])


@pytest.mark.parametrize(
    ("probe", "u", "sigma"),
    [(0.07, 0.0, 0.02), (0.07, 1.0, 0.3), (0.07, 0.5, 0.07), (0.2, 0.5, 0.2), (0.16, 0.25, 0.09), (0.025, 0.5, 0.03)],
)
def test_half_of_the_sigmas_lie_below_the_probe(probe: float, u: float, sigma: float) -> None:
    """0.02 + 0.28 u^k with k = log_0.5((probe - 0.02) / 0.28): of 0.16, k = 1; probes below 0.03 count as 0.03."""
    assert float(near_probe(torch.tensor([u], dtype=torch.float64), probe)) == pytest.approx(sigma)
