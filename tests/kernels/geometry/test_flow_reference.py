"""The definition of the flow losses in numbers: two pixels of one clip, one off by 3 mm (or px), one not valid."""

import math

import pytest
import torch

from phys4d.kernels.geometry.losses.flow_reference import flow_reference


@pytest.mark.parametrize(
    ("kind", "error"),
    [("l1", 3e-3), ("charbonnier", math.sqrt(1e-5) - 1e-3), ("epe", 3e-3), ("laplace", None)],
)
@pytest.mark.parametrize("weight", [None, 0.25])
def test_a_small_error_with_a_small_weight(kind: str, error: float | None, weight: float | None) -> None:
    """Weights of a clip whose sum is below 1 still divide by that sum."""
    predicted = torch.tensor([[[2.003, 7.0, 9.0]]], dtype=torch.float64)
    target = torch.tensor([[[2.0, 7.0, 1.0]]], dtype=torch.float64)
    valid = torch.tensor([[True, False, False]])
    weights = None if weight is None else torch.full((1, 3), weight, dtype=torch.float64)
    confidence = None
    if error is None:  # share 1 / (1 + e^-0.4) of scale 1, the rest of scale e^0.7
        confidence = torch.tensor([[[0.4, 0, 0], [0.7, 0, 0]]], dtype=torch.float64)
        share = 1 / (1 + math.exp(-0.4))
        density = share * math.exp(-3e-3) / 2 + (1 - share) * math.exp(-3e-3 / math.exp(0.7)) / (2 * math.exp(0.7))
        error = -math.log(density)
    value, total = flow_reference(predicted, target, valid, weights, confidence, kind)
    assert value.item() == pytest.approx(error, rel=1e-9)
    assert total.item() == (1 if weight is None else weight)


def test_a_clip_without_valid_pixels_has_no_loss() -> None:
    none = torch.zeros(1, 2, dtype=torch.bool)
    value, total = flow_reference(torch.ones(1, 1, 2), torch.zeros(1, 1, 2), none, None, None, "l1")
    assert value.tolist() == [0.0] and total.tolist() == [0.0]
