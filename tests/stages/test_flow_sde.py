"""The stochastic policy: marginals of the deterministic sampler, honest log-probabilities, the given frame left out."""

import math

import pytest
import torch

from phys4d.models.interface import Prediction
from phys4d.stages.flow_sde import gaussian_kl, log_probability, rollout, step_distribution


def test_a_step_keeps_the_marginal_of_the_flow() -> None:
    # Data is exactly zero, so x_sigma = sigma * noise and the velocity is x / sigma: one step must end at sigma' *
    # noise.
    torch.manual_seed(0)
    sigma, following = 0.8, 0.78
    before = sigma * torch.randn(1, 4, 60, 60, 60)
    mean, deviation = step_distribution(before / sigma, before, sigma, following, noise_level=0.7)
    after = mean + deviation * torch.randn_like(mean)
    assert float(after.std()) == pytest.approx(following, rel=2e-3)


def test_without_noise_it_is_the_euler_step() -> None:
    before, velocity = torch.randn(2, 1, 4, 3, 2, 2)
    mean, deviation = step_distribution(velocity, before, 0.6, 0.4, noise_level=0.0)
    assert deviation == 0
    torch.testing.assert_close(mean, before - 0.2 * velocity)


def test_log_probability_is_the_gaussians_up_to_its_constant_and_leaves_the_given_frame_out() -> None:
    mean, after = torch.randn(2, 3, 4, 3, 2, 2, dtype=torch.float64)
    drawn = 4 * 2 * 2 * 2
    normal = torch.distributions.Normal(mean, 0.3)
    reference = normal.log_prob(after)[:, :, 1:].sum((1, 2, 3, 4)) + drawn * math.log(0.3 * math.sqrt(2 * math.pi))
    torch.testing.assert_close(log_probability(after, mean, 0.3, dimensions=drawn), reference)
    after[:, :, 0] += 100
    torch.testing.assert_close(log_probability(after, mean, 0.3, dimensions=drawn), reference)


def test_kl_is_the_gaussians() -> None:
    a, b = torch.randn(2, 3, 4, 3, 2, 2, dtype=torch.float64)
    normal = torch.distributions.Normal
    reference = torch.distributions.kl_divergence(normal(a, 0.3), normal(b, 0.3))[:, :, 1:].sum((1, 2, 3, 4))
    torch.testing.assert_close(gaussian_kl(a, b, 0.3, dimensions=4 * 2 * 2 * 2), reference)


def test_rollout_replays_to_the_same_log_probability_and_holds_the_first_frame() -> None:
    weight = torch.randn(4, 4) * 0.1

    def predict(noisy: torch.Tensor, sigma: torch.Tensor) -> Prediction:
        velocity = torch.einsum("bcthw,cd->bdthw", noisy, weight)
        return Prediction(velocity, noisy, ())

    first = torch.randn(2, 4, 1, 2, 2)
    noises = {use: torch.randn(2, 4, 3, 2, 2) for use in ("start", "step 0", "step 1")}
    latents, transitions = rollout(
        predict,
        first,
        noises.__getitem__,
        steps=4,
        shift=3.0,
        stochastic_steps=2,
        noise_level=0.7,
        dimensions=10,
    )
    assert torch.equal(latents[:, :, :1], first) and len(transitions) == 2
    for t in transitions:
        assert torch.equal(t.before[:, :, :1], first)
        velocity = predict(t.before, torch.full((2,), t.sigma)).velocity
        mean, deviation = step_distribution(velocity, t.before, t.sigma, t.following, 0.7)
        assert torch.equal(log_probability(t.after, mean, deviation, 10), t.logprob)
