"""Rectified flow: x_sigma = (1 - sigma) data + sigma noise, velocity = noise - data, leading frames held clean."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from phys4d.models.interface import Prediction


def expand(sigma: Tensor) -> Tensor:
    """[B] -> [B, 1, 1, 1, 1]."""
    return sigma.view(-1, 1, 1, 1, 1)


def keep_first(latents: Tensor, first: Tensor) -> Tensor:
    """Latents [B, C, T', H', W'] with their first frames replaced by first [B, C, held, H', W'], which may be none."""
    return torch.cat([first, latents[:, :, first.shape[2] :]], 2)


def noised(clean: Tensor, noise: Tensor, sigma: Tensor, held: int) -> Tensor:
    """The training input: the mixture at sigma [B], the first `held` latent frames clean (`Backbone.held`)."""
    s = expand(sigma)
    return keep_first((1 - s) * clean + s * noise, clean[:, :, :held])


def shifted(u: Tensor, shift: float) -> Tensor:
    """Moves uniform u towards noise: shift u / (1 + (shift - 1) u) (SD3, equation 23)."""
    return shift * u / (1 + (shift - 1) * u)


def schedule(steps: int, shift: float) -> Tensor:
    """Sampling sigmas [steps + 1], from exactly 1 to 0: uniform steps of u in [0, 1], then shifted.

    diffusers' UniPC spaces u from 1 to 1/1000 and appends 0, since its table of
    timesteps ends at 1; sigma is continuous here, so u ends at 0 and the steps are equal. At 50 steps and shift 5 the
    sigmas differ by 0.0042 at most. FlowMatchEuler takes N - 1 equal steps of u from 1 to the shifted 1/1000, shifts
    them, and makes the last step from there (0.024) to 0: at 50 steps its sigmas differ by 0.068, at fewer by more.
    """
    return from_noise(shifted(torch.linspace(1, 0, steps + 1), shift))


def from_noise(sigmas: Tensor) -> Tensor:
    """The same levels with 1 as the first, which rounding, or a scheduler that takes the logarithm of 1 - sigma, sets
    beside it: sampling begins with noise alone, and stochastic steps divide by 1 - sigma below 1."""
    return torch.cat([torch.ones_like(sigmas[:1]), sigmas[1:]])


def sample(
    predict: Callable[[Tensor, Tensor], Prediction],
    first: Tensor,
    noise: Tensor,
    sigmas: Sequence[float],
    differentiable: int = 0,
) -> Tensor:
    """Euler from noise [B, C, T', H', W'] to data under `predict(noisy, sigma [B])`.

    first: [B, C, held, H', W'], the latent frames that are held clean, `Backbone.held` of them; sigmas: from 1 to 0, as
    `Backbone.sigmas`. differentiable: gradients flow through the last so many steps, through those before not.
    """
    latents = keep_first(noise, first)
    for left, (now, following) in zip(range(len(sigmas) - 1, 0, -1), pairwise(sigmas), strict=True):
        with torch.set_grad_enabled(torch.is_grad_enabled() and left <= differentiable):
            velocity = predict(latents, latents.new_full((len(latents),), now)).velocity
            latents = keep_first(latents + (following - now) * velocity, first)
    return latents
