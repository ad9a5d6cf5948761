"""Classifier-free guidance in numbers."""

import pytest
import torch
from torch import Tensor

from phys4d.models.guidance import Predict, guided
from phys4d.models.interface import Prediction


def constant(velocity: float, clean: float, hidden: float, asked: list[tuple[Tensor, Tensor]]) -> Predict:
    def predict(noisy: Tensor, sigma: Tensor) -> Prediction:
        asked.append((noisy, sigma))
        shape = (1, 1, 1, 1, 1)
        return Prediction(torch.full(shape, velocity), torch.full(shape, clean), (torch.full((1, 1, 1), hidden),))

    return predict


@pytest.mark.parametrize(("scale", "velocity", "clean"), [(2.0, 5.0, -1.0), (7.5, 16.0, 10.0), (0.0, 1.0, -5.0)])
def test_it_goes_from_the_negative_prompt_through_the_prompt(scale: float, velocity: float, clean: float) -> None:
    """Velocities 1 and 3, clean latents -5 and -3: each the first plus scale times the difference of 2."""
    prompt, negative = list[tuple[Tensor, Tensor]](), list[tuple[Tensor, Tensor]]()
    predict = guided(constant(3, -3, 0.5, prompt), constant(1, -5, 0.25, negative), scale)
    given = torch.randn(1, 1, 1, 1, 1), torch.tensor([0.4])
    found = predict(*given)
    assert (found.velocity.item(), found.clean.item(), found.hidden[0].item()) == (velocity, clean, 0.5)
    assert prompt == negative == [given]


def test_at_1_the_negative_prompt_is_not_evaluated() -> None:
    predict = constant(3, -3, 0.5, [])
    assert guided(predict, constant(1, -5, 0.25, []), 1.0) is predict
