"""Classifier-free guidance (Ho and Salimans, arXiv 2207.12598): away from what another text, often none, predicts."""

from collections.abc import Callable

from torch import Tensor

from phys4d.models.interface import Prediction

Predict = Callable[[Tensor, Tensor], Prediction]
"""(noisy [B, C, T', H', W'], sigma [B]) -> a prediction, with text and first frame bound."""


def guided(predict: Predict, negative: Predict, scale: float) -> Predict:
    """Predictions negative + scale (predict - negative), as the pipelines of diffusers combine them.

    The two evaluations run one after the other, so that guidance doubles the time of a step and adds the memory of one
    velocity. `hidden` is that of `predict`.

    predict, negative: with the prompt, and with the negative prompt. scale: at 1 `negative` is not evaluated.
    """
    if scale == 1:
        return predict

    def combined(noisy: Tensor, sigma: Tensor) -> Prediction:
        away, towards = negative(noisy, sigma), predict(noisy, sigma)
        velocity, clean = (
            a + scale * (b - a) for a, b in ((away.velocity, towards.velocity), (away.clean, towards.clean))
        )
        return Prediction(velocity, clean, towards.hidden)

    return combined
