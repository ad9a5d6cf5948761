"""The stochastic policy: its marginals, true log-probabilities, the deterministic limit, the given frame left out."""

import math

import pytest
import torch

from phys4d.models.interface import Prediction
from phys4d.stages.flow_sde import Sampler, gaussian_kl, log_probability, rollout, step_distribution

SAMPLERS: tuple[Sampler, ...] = ("flow_sde", "cps")
SIGMAS = [1.0, 0.9, 0.75, 0.5, 0.0]  # the demo's four steps at shift 3: 3 u / (1 + 2 u) at u = 1, 3/4, 1/2, 1/4, 0


def spreads(sampler: Sampler, spread: float) -> list[float]:
    """Standard deviation of the latents behind each of three drawn steps over that of the exact marginal.

    Data N(0, spread^2): x at sigma is N(0, V), V = (1 - sigma)^2 spread^2 + sigma^2, and the velocity of the flow is
    (sigma - (1 - sigma) spread^2) x / V. 400,000 latents: a standard deviation of theirs is off by 0.11 percent.
    """

    def predict(noisy: torch.Tensor, sigma: torch.Tensor) -> Prediction:
        s = float(sigma[0])
        return Prediction((s - (1 - s) * spread**2) / ((1 - s) ** 2 * spread**2 + s**2) * noisy, noisy, ())

    draw = torch.Generator().manual_seed(0)
    _, transitions = rollout(
        predict, torch.zeros(1, 1, 1, 1, 1, dtype=torch.float64),
        lambda use: torch.randn(1, 1, 400_001, 1, 1, generator=draw, dtype=torch.float64),
        sigmas=SIGMAS, stochastic_steps=3, noise_level=0.7, sampler=sampler, dimensions=1.0,
    )  # fmt: skip
    exact = [math.hypot((1 - s) * spread, s) for s in SIGMAS[1:4]]
    return [float(t.after[:, :, 1:].std()) / e for t, e in zip(transitions, exact, strict=True)]


def test_a_short_step_keeps_the_marginal_of_the_flow() -> None:
    # Data is exactly zero, so x_sigma = sigma * noise and the velocity is x / sigma: one step must end at sigma' *
    # noise.
    sigma, following = 0.8, 0.78
    before = sigma * torch.randn(1, 4, 60, 60, 60, generator=torch.Generator().manual_seed(0))
    mean, deviation = step_distribution(before / sigma, before, sigma, following, 0.7, "flow_sde")
    after = mean + deviation * torch.randn(mean.shape, generator=torch.Generator().manual_seed(1))
    assert float(after.std()) == pytest.approx(following, rel=2e-3)


def test_at_four_steps_cps_keeps_the_noise_of_the_schedule() -> None:
    assert spreads("cps", 0.0) == pytest.approx([1.0, 1.0, 1.0], abs=5e-3)


@pytest.mark.parametrize(
    ("sampler", "spread", "stated"),
    [
        ("flow_sde", 0.0, [1.07, 1.21, 1.36]), ("flow_sde", 0.5, [1.06, 1.20, 1.25]),
        ("flow_sde", 1.0, [1.06, 1.16, 1.08]), ("cps", 0.5, [1.00, 0.99, 0.92]), ("cps", 1.0, [0.99, 0.96, 0.81]),
    ],
)  # fmt: skip
def test_the_stated_deviations_from_the_marginals_hold(sampler: Sampler, spread: float, stated: list[float]) -> None:
    assert spreads(sampler, spread) == pytest.approx(stated, abs=0.01)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_without_noise_it_is_the_euler_step(sampler: Sampler) -> None:
    before, velocity = torch.randn(2, 1, 4, 3, 2, 2)
    mean, deviation = step_distribution(velocity, before, 0.6, 0.4, 0.0, sampler)
    assert deviation == 0
    torch.testing.assert_close(mean, before - 0.2 * velocity)


def test_the_flow_sde_step_by_hand() -> None:
    # sigma 0.5 to 0.3, level 0.6: eta^2 = 0.36, dt = -0.2; x (1 - 0.072) + v (1 + 0.18) (-0.2); sqrt(0.072)
    before, velocity = (torch.full((1, 1, 2, 1, 1), value, dtype=torch.float64) for value in (2.0, -3.0))
    mean, deviation = step_distribution(velocity, before, 0.5, 0.3, 0.6, "flow_sde")
    assert mean.flatten().tolist() == pytest.approx([1.856 + 0.708] * 2) and deviation == pytest.approx(0.072**0.5)
    # at sigma 1 the denominator takes the next sigma: eta^2 = 0.36 / 0.1 = 3.6, dt = -0.1
    mean, deviation = step_distribution(velocity, before, 1.0, 0.9, 0.6, "flow_sde")
    assert mean.flatten().tolist() == pytest.approx([2 * (1 - 0.18) + 0.3] * 2) and deviation == pytest.approx(0.6)


def test_the_cps_step_by_hand() -> None:
    # sigma 0.5 to 0.4, level 1/3: sin 30 degrees = 1/2, deviation 0.2; data 2 + 1.5, noise 2 - 1.5
    before, velocity = (torch.full((1, 1, 2, 1, 1), value, dtype=torch.float64) for value in (2.0, -3.0))
    mean, deviation = step_distribution(velocity, before, 0.5, 0.4, 1 / 3, "cps")
    assert deviation == pytest.approx(0.2)
    assert mean.flatten().tolist() == pytest.approx([0.6 * 3.5 + 0.12**0.5 * 0.5] * 2)
    mean, deviation = step_distribution(velocity, before, 0.5, 0.4, 1.0, "cps")  # all of the noise is new
    assert deviation == pytest.approx(0.4) and mean.flatten().tolist() == pytest.approx([0.6 * 3.5] * 2)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_drawn_steps_log_probability_is_that_of_its_gaussian(sampler: Sampler) -> None:
    """Against torch.distributions in fp64, up to the constant that cancels in ratios."""
    draw = torch.Generator().manual_seed(3)
    noises = {use: torch.randn(2, 4, 3, 2, 2, generator=draw, dtype=torch.float64) for use in ("start", "step 0")}
    drawn = 4 * 2 * 2 * 2
    _, (t,) = rollout(
        lambda noisy, sigma: Prediction(0.4 * noisy - 0.1, noisy, ()),
        torch.randn(2, 4, 1, 2, 2, generator=draw, dtype=torch.float64), noises.__getitem__,
        sigmas=SIGMAS, stochastic_steps=1, noise_level=0.7, sampler=sampler, dimensions=drawn,
    )  # fmt: skip
    x, v = t.before, 0.4 * t.before - 0.1
    if sampler == "cps":  # sigma 1 to 0.9
        deviation = 0.9 * math.sin(0.35 * math.pi)
        mean = 0.1 * (x - v) + math.sqrt(0.81 - deviation**2) * x
    else:  # eta^2 = 4.9, dt = -0.1
        deviation, mean = 0.7, x * (1 - 0.245) - 0.1 * v
    normal = torch.distributions.Normal(mean, deviation)
    summed = normal.log_prob(t.after)[:, :, 1:].sum((1, 2, 3, 4))
    torch.testing.assert_close(t.logprob, summed + drawn * math.log(deviation * math.sqrt(2 * math.pi)))
    torch.testing.assert_close(t.after[:, :, 1:], (mean + deviation * noises["step 0"])[:, :, 1:])


@pytest.mark.parametrize("held", [0, 1])
def test_log_probability_is_the_gaussians_up_to_its_constant_and_leaves_held_frames_out(held: int) -> None:
    mean, after = torch.randn(2, 3, 4, 3, 2, 2, dtype=torch.float64)
    drawn = 4 * (3 - held) * 2 * 2
    normal = torch.distributions.Normal(mean, 0.3)
    reference = normal.log_prob(after)[:, :, held:].sum((1, 2, 3, 4)) + drawn * math.log(0.3 * math.sqrt(2 * math.pi))
    torch.testing.assert_close(log_probability(after, mean, 0.3, dimensions=drawn, held=held), reference)
    after[:, :, :held] += 100
    torch.testing.assert_close(log_probability(after, mean, 0.3, dimensions=drawn, held=held), reference)


@pytest.mark.parametrize("held", [0, 1])
def test_kl_is_the_gaussians(held: int) -> None:
    a, b = torch.randn(2, 3, 4, 3, 2, 2, dtype=torch.float64)
    normal = torch.distributions.Normal
    reference = torch.distributions.kl_divergence(normal(a, 0.3), normal(b, 0.3))[:, :, held:].sum((1, 2, 3, 4))
    torch.testing.assert_close(gaussian_kl(a, b, 0.3, dimensions=4 * (3 - held) * 2 * 2, held=held), reference)


@pytest.mark.parametrize("held", [0, 1])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_rollout_replays_to_the_same_log_probability_and_holds_given_frames(sampler: Sampler, held: int) -> None:
    weight = torch.randn(4, 4) * 0.1

    def predict(noisy: torch.Tensor, sigma: torch.Tensor) -> Prediction:
        velocity = torch.einsum("bcthw,cd->bdthw", noisy, weight)
        return Prediction(velocity, noisy, ())

    first = torch.randn(2, 4, held, 2, 2)
    noises = {use: torch.randn(2, 4, 3, 2, 2) for use in ("start", "step 0", "step 1")}
    latents, transitions = rollout(
        predict,
        first,
        noises.__getitem__,
        sigmas=SIGMAS,
        stochastic_steps=2,
        noise_level=0.7,
        sampler=sampler,
        dimensions=10,
    )
    assert torch.equal(latents[:, :, :held], first) and len(transitions) == 2
    assert torch.equal(transitions[0].before[:, :, held:], noises["start"][:, :, held:])
    for t in transitions:
        assert torch.equal(t.before[:, :, :held], first)
        velocity = predict(t.before, torch.full((2,), t.sigma)).velocity
        mean, deviation = step_distribution(velocity, t.before, t.sigma, t.following, 0.7, sampler)
        assert torch.equal(log_probability(t.after, mean, deviation, 10, held), t.logprob)
