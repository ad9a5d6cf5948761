"""Targets of tokens, ridge regression and errors, in numbers."""

import math
from typing import Any

import pytest
import torch

from phys4d.probe.opening import Encoded
from phys4d.probe.ridge import Ridge
from phys4d.probe.sweep import errors_of
from phys4d.probe.targets import Targets, token_targets


def labels() -> dict[str, torch.Tensor]:
    """One clip of 5 x 4 x 8 pixels, tokens of 4 x 4 x 4: all valid."""
    draw = torch.Generator().manual_seed(0)
    return {
        "depth": 1 + torch.rand(1, 5, 4, 8, generator=draw),
        "motion": torch.randn(1, 3, 4, 4, 8, generator=draw),
        "depth_valid": torch.ones(1, 5, 4, 8, dtype=torch.bool),
        "flow_valid": torch.ones(1, 4, 4, 8, dtype=torch.bool),
    }


def test_a_token_says_the_mean_of_the_labels_under_it() -> None:
    """The first token frame holds frame 0, the second frames 1 to 4, of which the last has no motion."""
    given = labels()
    values, known = token_targets(given, (4, 4, 4))
    assert values.shape == (1, 4, 3) and known.all()
    for k, (t, x) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
        frames, columns = slice(0, 1) if t == 0 else slice(1, 5), slice(4 * x, 4 * x + 4)
        depth = given["depth"][0, frames, :, columns].log().mean()
        motion = given["motion"][0, :2, frames, :, columns].mean((1, 2, 3))
        torch.testing.assert_close(values[0, k], torch.cat([depth[None], motion]))


def test_only_valid_pixels_count_and_at_least_half_must_be_valid() -> None:
    given = labels()
    given["depth_valid"][0, 0, :2, :4] = False  # half of token 0
    given["depth"][0, 0, :2, :4] = 0
    given["depth_valid"][0, 0, 1:, 4:] = False  # three quarters of token 1
    given["flow_valid"][0, 1:3, :, :4] = False  # two of the three frames of token 2 that have motion
    given["flow_valid"][0, 2, :, 4:] = False  # one of the three of token 3
    values, known = token_targets(given, (4, 4, 4))
    assert known.tolist() == [[True, False, False, True]]
    torch.testing.assert_close(values[0, 0, 0], given["depth"][0, 0, 2:, :4].log().mean())
    torch.testing.assert_close(values[0, 3, 1:], given["motion"][0, :2, [1, 3], :, 4:].mean((1, 2, 3)))


@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_the_ridge_solves_its_equation(strength: float) -> None:
    """Added in two parts; against least squares with the penalty as further rows, in float64."""
    draw = torch.Generator().manual_seed(1)
    x, y = torch.randn(40, 6, generator=draw) * 3 + 2, torch.randn(40, 3, generator=draw) + 5
    ridge = Ridge(6, 3, torch.device("cpu"))
    ridge.add(x[:15], y[:15])
    ridge.add(x[15:], y[15:])
    weights, intercept = ridge.solve(strength)
    a, b = (x - x.mean(0)).double(), (y - y.mean(0)).double()
    penalty = strength * a.square().mean() * 40
    rows = torch.cat([a, torch.eye(6, dtype=torch.float64) * math.sqrt(penalty)])
    expected = torch.linalg.lstsq(rows, torch.cat([b, torch.zeros(6, 3)])).solution.float()
    torch.testing.assert_close(weights, expected, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(intercept, y.mean(0) - x.mean(0) @ expected, rtol=1e-3, atol=1e-4)


def test_the_ridge_takes_fewer_tokens_than_features_and_refuses_none() -> None:
    ridge = Ridge(8, 3, torch.device("cpu"))
    with pytest.raises(ValueError, match="no token has a label"):
        ridge.solve(0.1)
    ridge.add(torch.eye(8)[:3], torch.eye(3))
    assert all(tensor.isfinite().all() for tensor in ridge.solve(0.1))


def clip(values: Any, known: list[bool]) -> Encoded:
    nothing = torch.zeros(0)
    return Encoded(
        nothing, nothing, nothing, nothing, Targets(torch.tensor([values]), torch.tensor([known])), held_out=True
    )


def test_the_errors() -> None:
    """Tokens that move by more than 0.3 pixels; the unknown one counts nowhere."""
    truth = [[0.5, 0.0, 0.0], [1.0, 3.0, 4.0], [9.0, 9.0, 9.0], [0.0, 0.3, 0.0]]
    predicted = torch.tensor([[0.7, 0.3, 0.4], [0.6, 3.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.3, 1.0]])
    found = errors_of(predicted, clip(truth, [True, True, False, True]))
    assert {name: round(value.item(), 5) for name, value in found.items()} == {
        "depth": 0.2, "motion": 1.5, "moving": 3.0,
    }  # fmt: skip
    assert errors_of(predicted, clip(truth, [True, False, False, False]))["moving"].isnan()
