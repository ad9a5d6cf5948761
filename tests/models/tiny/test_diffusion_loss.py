"""The diffusion loss in numbers: which error of which pixels, and how each pixel is weighed."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from phys4d.models.backbone import Backbone
from phys4d.models.interface import Prediction
from phys4d.models.tiny.backbone import TinyBackbone
from phys4d.models.tiny.haar import HaarCodec


def gated(true: Tensor, drawn: Tensor) -> Tensor:
    """The loss of a predicted clip [B, 3, 5, 4, 4]; the Haar codec keeps squared distances."""
    codec = HaarCodec().double()
    tiny: Any = SimpleNamespace(gate=SimpleNamespace(codec=codec))
    clean, predicted = codec.encode(true), codec.encode(drawn)
    nothing = torch.zeros_like(clean)
    return TinyBackbone.diffusion_loss(tiny, Prediction(nothing, predicted, ()), clean, nothing, nothing)


def clip() -> Tensor:
    """Two grey clips of 5 frames of 4 x 4 pixels; the second is brighter."""
    return torch.tensor([0.1, 0.3], dtype=torch.float64).view(2, 1, 1, 1, 1).expand(2, 3, 5, 4, 4).clone()


PIXELS = 2 * 3 * 4 * 4 * 4  # of two clips: colours, later frames, rows, columns


@pytest.mark.parametrize(
    ("true", "drawn", "weight"),
    [
        (0.0, 0.05, 1), (0.0, 0.2, 4), (0.0, -0.2, 4), (0.2, 0.05, 4), (0.2, 0.4, 7), (-0.2, 0.2, 7),
        (0.09, 0.0, 1), (0.11, 0.0, 4), (0.0, 0.09, 1), (0.0, 0.11, 4),
    ],
)  # fmt: skip
def test_a_pixel_counts_three_more_where_it_changes_and_three_more_where_it_is_drawn_so(
    true: float, drawn: float, weight: float
) -> None:
    """One pixel of one clip differs from its first frame by `true`, is drawn as by `drawn`, all three colours alike."""
    truth, prediction = clip(), clip()
    truth[1, :, 3, 2, 1] += true
    prediction[1, :, 3, 2, 1] += drawn
    expected = 3 * weight * (drawn - true) ** 2 / PIXELS
    assert float(gated(truth, prediction)) == pytest.approx(expected, rel=1e-5)


def test_a_change_of_one_colour_weighs_all_three() -> None:
    truth, prediction = clip(), clip()
    truth[0, 0, 2, 1, 1] += 0.5
    prediction[0, :, 2, 1, 1] += torch.tensor([0.5, 0.05, -0.05], dtype=torch.float64)  # drawn changed as well: 7
    assert float(gated(truth, prediction)) == pytest.approx(7 * 2 * 0.05**2 / PIXELS, rel=1e-5)


def test_weights_have_no_gradient_and_the_first_frame_no_loss() -> None:
    truth, prediction = clip(), clip()
    prediction[0, :, 1, 0, 0] += 0.2
    prediction.requires_grad_(True)
    gated(truth, prediction).backward()
    expected = torch.zeros_like(truth)
    expected[0, :, 1, 0, 0] = 4 * 2 * 0.2 / PIXELS
    torch.testing.assert_close(prediction.grad, expected, rtol=1e-5, atol=1e-9)


def test_the_velocity_is_noise_minus_data_after_the_first_latent_frame() -> None:
    """Two clips of two latent frames of one number: (2 - 1)^2 and (5 - 3)^2, the first frames anything."""
    clean, noise, velocity = (
        torch.tensor(values).view(2, 1, 2, 1, 1) for values in ([9.0, 1, 9, -1], [7.0, 2, 7, 2], [5.0, 2, 5, 5])
    )
    backbone: Any = SimpleNamespace(held=1)
    loss = Backbone.diffusion_loss(backbone, Prediction(velocity, velocity, ()), clean, noise, torch.ones(2))
    assert float(loss) == (1 + 4) / 2
