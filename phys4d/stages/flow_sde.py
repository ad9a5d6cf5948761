"""Denoising as a stochastic policy: two kinds of Gaussian steps with their log-probabilities.

Sigma falls from 1 to 0. A step from x at sigma to the latents at the following sigma, with dt = following - sigma < 0:

    flow_sde   eta^2 = a^2 sigma / (1 - sigma), a the noise level, and at sigma = 1 the denominator takes the following
               sigma; mean x (1 + eta^2 dt / (2 sigma)) + velocity (1 + eta^2 (1 - sigma) / (2 sigma)) dt, deviation
               eta sqrt(-dt). The Euler-Maruyama step of Flow-GRPO (arXiv 2505.05470).
    cps        deviation following sin(a pi / 2); mean (1 - following) (x - sigma velocity)
               + sqrt(following^2 - deviation^2) (x + (1 - sigma) velocity): the predicted data and the predicted noise
               in the proportions of the next sigma. Coefficients-Preserving Sampling (arXiv 2509.05952).

Both are the Euler step at noise level 0. `flow_sde` has the marginals of the deterministic sampler only as dt -> 0: at
few steps its latents carry too much noise. For data N(0, s^2), of which the exact velocity is known, noise level 0.7
and shift 3, the standard deviation of the latents behind each of the first three steps over that of the exact marginal:

    steps  s    flow_sde             cps                  Euler
    4      0    1.07  1.21  1.36     1.00  1.00  1.00     1.00  1.00  1.00
    4      0.5  1.06  1.20  1.25     1.00  0.99  0.92     1.00  0.99  0.95
    4      1    1.06  1.16  1.08     0.99  0.96  0.81     0.99  0.97  0.87
    10     0    1.04  1.08  1.08     1.00  1.00  1.00     1.00  1.00  1.00

`cps` keeps the proportion of noise exactly at any number of steps (s = 0). What it lacks on wide data is the spread of
the data that the predicted mean does not have; more steps do not bring that back, as they do for Euler and `flow_sde`.

Latent frames that are held clean (`Backbone.held`) are given, not drawn: they are in neither the log-probability nor
the KL.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from phys4d.models.flow import keep_first
from phys4d.models.interface import Prediction

Sampler = Literal["flow_sde", "cps"]


@dataclass(frozen=True)
class Transition:
    """One stochastic step: latents before and after [B, C, T', H', W'], its sigmas, log-probability [B] when drawn."""

    before: Tensor
    after: Tensor
    sigma: float
    following: float
    logprob: Tensor


def step_distribution(
    velocity: Tensor, before: Tensor, sigma: float, following: float, noise_level: float, sampler: Sampler
) -> tuple[Tensor, float]:
    """Mean (as latents) and standard deviation of the next latents; noise_level is from 0 to 1 for "cps"."""
    if sampler == "cps":
        deviation = following * math.sin(noise_level * math.pi / 2)
        clean, noise = before - sigma * velocity, before + (1 - sigma) * velocity
        return (1 - following) * clean + math.sqrt(following**2 - deviation**2) * noise, deviation
    dt = following - sigma
    eta2 = noise_level**2 * sigma / (1 - (sigma if sigma < 1 else following))
    mean = before * (1 + eta2 * dt / (2 * sigma)) + velocity * (1 + eta2 * (1 - sigma) / (2 * sigma)) * dt
    return mean, (eta2 * -dt) ** 0.5


def log_probability(after: Tensor, mean: Tensor, deviation: float, dimensions: float, held: int) -> Tensor:
    """[B]: the Gaussian's log density up to its constant, averaged over the drawn latents times `dimensions`; the first
    `held` latent frames are not drawn.

    The sum over some 1e5 latents makes ratios explode, their mean makes them 1 within 1e-6, where no clip ever acts;
    `dimensions` sets the scale in between.
    """
    squared = (after - mean)[:, :, held:].square().mean((1, 2, 3, 4))
    return -squared * (dimensions / (2 * deviation**2))


def gaussian_kl(mean: Tensor, reference: Tensor, deviation: float, dimensions: float, held: int) -> Tensor:
    """[B]: KL between two steps of equal deviation, on the scale of `log_probability`."""
    squared = (mean - reference)[:, :, held:].square().mean((1, 2, 3, 4))
    return squared * (dimensions / (2 * deviation**2))


@torch.no_grad()
def rollout(
    predict: Callable[[Tensor, Tensor], Prediction],
    first: Tensor,
    noise: Callable[[str], Tensor],
    *,
    sigmas: Sequence[float],
    stochastic_steps: int,
    noise_level: float,
    sampler: Sampler,
    dimensions: float,
) -> tuple[Tensor, list[Transition]]:
    """Samples with the first `stochastic_steps` drawn, the rest deterministic: latents and the drawn steps.

    predict: evaluates the model, from noisy latents and sigma [B]. first: [B, C, held, H', W'], the latent frames that
    are held clean, `Backbone.held` of them. noise: gives white noise [B, C, T', H', W'] for each use. sigmas: noise
    levels from 1 to 0, as `Backbone.sigmas`. noise_level, sampler: as of `step_distribution`. dimensions: as of
    `log_probability`.
    """
    latents = keep_first(noise("start"), first)
    transitions = []
    for k, (sigma, following) in enumerate(pairwise(sigmas)):
        velocity = predict(latents, latents.new_full((len(latents),), sigma)).velocity
        if k < stochastic_steps:
            mean, deviation = step_distribution(velocity, latents, sigma, following, noise_level, sampler)
            after = keep_first(mean + deviation * noise(f"step {k}"), first)
            logprob = log_probability(after, mean, deviation, dimensions, first.shape[2])
            transitions.append(Transition(latents, after, sigma, following, logprob))
        else:
            after = keep_first(latents + (following - sigma) * velocity, first)
        latents = after
    return latents, transitions
