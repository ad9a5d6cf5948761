"""Denoising as a stochastic policy: Flow-SDE steps with their log-probabilities (Flow-GRPO, arXiv 2505.05470).

With sigma from 1 to 0, dt = next - sigma < 0 and eta^2 = a^2 sigma / (1 - sigma), one step from x draws the next
latents from a Gaussian of mean  x (1 + eta^2 dt / (2 sigma)) + velocity (1 + eta^2 (1 - sigma) / (2 sigma)) dt  and
deviation eta sqrt(-dt): the same marginals as the deterministic sampler. At sigma = 1 the denominator takes the next
sigma. The clean first latent frame is given, not drawn: it is in neither the log-probability nor the KL.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from phys4d.models.flow import keep_first, schedule
from phys4d.models.interface import Prediction


@dataclass(frozen=True)
class Transition:
    """One stochastic step: latents before and after [B, C, T', H', W'], its sigmas, log-probability [B] when drawn."""

    before: Tensor
    after: Tensor
    sigma: float
    following: float
    logprob: Tensor


def step_distribution(
    velocity: Tensor, before: Tensor, sigma: float, following: float, noise_level: float
) -> tuple[Tensor, float]:
    """Mean (as latents) and standard deviation of the next latents."""
    dt = following - sigma
    eta2 = noise_level**2 * sigma / (1 - (sigma if sigma < 1 else following))
    mean = before * (1 + eta2 * dt / (2 * sigma)) + velocity * (1 + eta2 * (1 - sigma) / (2 * sigma)) * dt
    return mean, (eta2 * -dt) ** 0.5


def log_probability(after: Tensor, mean: Tensor, deviation: float, dimensions: float) -> Tensor:
    """[B]: the Gaussian's log density up to its constant, averaged over the drawn latents times `dimensions`.

    The sum over some 1e5 latents makes ratios explode, their mean makes them 1 within 1e-6, where no clip ever acts;
    `dimensions` sets the scale in between.
    """
    squared = (after - mean)[:, :, 1:].square().mean((1, 2, 3, 4))
    return -squared * (dimensions / (2 * deviation**2))


def gaussian_kl(mean: Tensor, reference: Tensor, deviation: float, dimensions: float) -> Tensor:
    """[B]: KL between two steps of equal deviation, on the scale of `log_probability`."""
    squared = (mean - reference)[:, :, 1:].square().mean((1, 2, 3, 4))
    return squared * (dimensions / (2 * deviation**2))


@torch.no_grad()
def rollout(
    predict: Callable[[Tensor, Tensor], Prediction],
    first: Tensor,
    noise: Callable[[str], Tensor],
    *,
    steps: int,
    shift: float,
    stochastic_steps: int,
    noise_level: float,
    dimensions: float,
) -> tuple[Tensor, list[Transition]]:
    """Samples with the first `stochastic_steps` of `steps` drawn, the rest deterministic: latents and the drawn steps.

    first [B, C, 1, H', W']; noise(use) gives white noise [B, C, T', H', W'] for each use.
    """
    sigmas = schedule(steps, shift).tolist()
    latents = keep_first(noise("start"), first)
    transitions = []
    for k in range(steps):
        sigma, following = sigmas[k], sigmas[k + 1]
        velocity = predict(latents, latents.new_full((len(latents),), sigma)).velocity
        if k < stochastic_steps:
            mean, deviation = step_distribution(velocity, latents, sigma, following, noise_level)
            after = keep_first(mean + deviation * noise(f"step {k}"), first)
            logprob = log_probability(after, mean, deviation, dimensions)
            transitions.append(Transition(latents, after, sigma, following, logprob))
        else:
            after = keep_first(latents + (following - sigma) * velocity, first)
        latents = after
    return latents, transitions
