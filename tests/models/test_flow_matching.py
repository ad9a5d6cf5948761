"""Rectified flow: conventions, the sampler, and the tiny backbone's two ways of saying the same thing."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from phys4d.models.backbone import Backbone
from phys4d.models.config import ModelConfig
from phys4d.models.flow import noised, sample, schedule, shifted
from phys4d.models.interface import Prediction
from phys4d.models.world import WorldModel, create_model


def test_first_latent_frame_stays_clean() -> None:
    clean, noise = torch.randn(2, 4, 3, 2, 2), torch.randn(2, 4, 3, 2, 2)
    mixed = noised(clean, noise, torch.tensor([1.0, 0.25]), held=1)
    assert torch.equal(mixed[:, :, 0], clean[:, :, 0])
    torch.testing.assert_close(mixed[0, :, 1:], noise[0, :, 1:])
    torch.testing.assert_close(mixed[1, :, 1:], 0.75 * clean[1, :, 1:] + 0.25 * noise[1, :, 1:])


def test_schedule_runs_from_noise_to_data_and_shift_moves_it_towards_noise() -> None:
    sigmas = schedule(8, 3.0)
    assert sigmas[0] == 1 and sigmas[-1] == 0 and (sigmas.diff() < 0).all()
    assert (shifted(torch.linspace(0.1, 0.9, 9), 3.0) > torch.linspace(0.1, 0.9, 9)).all()


def test_the_schedule_in_numbers() -> None:
    # 3 u / (1 + 2 u) at u = 1, 3/4, 1/2, 1/4, 0; without a shift u itself
    torch.testing.assert_close(schedule(4, 3.0), torch.tensor([1, 0.9, 0.75, 0.5, 0]))
    torch.testing.assert_close(schedule(4, 1.0), torch.tensor([1, 0.75, 0.5, 0.25, 0]))


def test_the_sampler_takes_the_schedules_sigmas_and_their_steps() -> None:
    """Two steps at shift 3: sigma 1 to 0.75, 0.75 to 0; velocity = sigma, so that x falls by 0.25 and by 0.5625."""
    seen: list[list[float]] = []

    def predict(noisy: torch.Tensor, sigma: torch.Tensor) -> Prediction:
        seen.append(sigma.tolist())
        assert (noisy[:, :, 0] == 8).all()
        return Prediction(sigma.view(-1, 1, 1, 1, 1).expand_as(noisy), noisy, ())

    first = torch.full((2, 1, 1, 1, 1), 8.0)
    out = sample(predict, first, torch.full((2, 1, 2, 1, 1), 5.0), schedule(2, 3.0).tolist())
    assert seen == [[1.0, 1.0], [0.75, 0.75]]
    assert out.flatten().tolist() == [8.0, 5 - 0.25 - 0.5625] * 2


def test_generation_takes_the_models_steps_and_shift() -> None:
    model = tiny(sampling_steps=3, sampling_shift=5.0)
    seen: list[float] = []
    predict = model.predict
    model.predict = lambda noisy, sigma, *given: seen.append(float(sigma[0])) or predict(noisy, sigma, *given)
    model.generate(torch.zeros(1, 192, 1, 4, 4), model.text(["a ball"]), torch.randn(1, 192, 2, 4, 4))
    assert seen == pytest.approx([1.0, 10 / 11, 5 / 7])  # 5 u / (1 + 4 u) at u = 1, 2/3, 1/3


@pytest.mark.parametrize("differentiable", [0, 1, 2, 3])
def test_gradients_flow_through_the_last_steps_alone(differentiable: int) -> None:
    """Velocity w x: from x = 1 by steps -0.5, -0.3, -0.2, of which only some see that w moves."""
    weight = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    def predict(noisy: Tensor, sigma: Tensor) -> Prediction:
        return Prediction(weight * noisy, noisy, ())

    first, noise = torch.empty(1, 1, 0, 1, 1, dtype=torch.float64), torch.ones(1, 1, 1, 1, 1, dtype=torch.float64)
    sigmas = (1.0, 0.5, 0.2, 0.0)
    out = sample(predict, first, noise, sigmas, differentiable)
    assert out.item() == pytest.approx((1 - 0.5 * 0.7) * (1 - 0.3 * 0.7) * (1 - 0.2 * 0.7))
    assert out.requires_grad == (differentiable > 0)
    if differentiable:
        out.sum().backward()
        steps = (0.5, 0.3, 0.2)[3 - differentiable :]
        assert weight.grad is not None
        assert weight.grad.item() == pytest.approx(-sum(out.item() * step / (1 - step * 0.7) for step in steps))
    assert not sample(predict, first, noise, sigmas).requires_grad
    with torch.no_grad():
        assert not sample(predict, first, noise, sigmas, differentiable).requires_grad


def test_sampler_recovers_data_from_the_exact_velocity() -> None:
    clean, noise = torch.randn(2, 4, 3, 2, 2), torch.randn(2, 4, 3, 2, 2)

    def exact(noisy: torch.Tensor, sigma: torch.Tensor) -> Prediction:
        return Prediction(noise - clean, clean, ())

    out = sample(exact, clean[:, :, :1], noise, schedule(7, 3.0).tolist())
    torch.testing.assert_close(out, clean, atol=1e-5, rtol=0)


def tiny(**settings: float) -> WorldModel:
    return create_model(ModelConfig(width=32, layers=2, taps=(0, 1), **settings), 5, 16, 16, seed=0)


def test_velocity_and_clean_agree_and_timesteps_are_per_token() -> None:
    model = tiny()
    clean = model.codec.encode(torch.rand(2, 3, 5, 16, 16) * 2 - 1)
    noise, sigma = torch.randn_like(clean), torch.tensor([0.9, 0.3])
    noisy = model.noised(clean, noise, sigma)
    prediction = model.predict(noisy, sigma, model.text(["a red ball falls", "a blue box"]))
    s = sigma.view(-1, 1, 1, 1, 1)
    torch.testing.assert_close(noisy - s * prediction.velocity, prediction.clean, atol=1e-5, rtol=1e-5)
    assert torch.equal(prediction.clean[:, :, :1], clean[:, :, :1])
    assert (prediction.velocity[:, :, 0] == 0).all()
    assert [h.shape for h in prediction.hidden] == [(2, 8, 32)] * 2
    steps = model.backbone.token_timesteps(clean.shape, sigma)
    assert steps.shape == (2, 8) and (steps[:, :4] == 0).all()
    torch.testing.assert_close(steps[:, 4:], (1000 * sigma)[:, None].expand(2, 4))


def test_loss_is_zero_on_the_truth_and_weighs_what_moves() -> None:
    model = tiny()
    video = torch.zeros(1, 3, 5, 16, 16)
    video[:, :, 3:, 4:8, 4:8] = 0.9
    clean = model.codec.encode(video)
    truth = Prediction(torch.zeros_like(clean), clean, ())
    assert model.backbone.diffusion_loss(truth, clean, clean, torch.ones(1)) < 1e-10
    still, moving = video.clone(), video.clone()
    still[:, :, 3, 12:, 12:] += 0.05
    moving[:, :, 3, 4:8, 4:8] += 0.05
    losses = [
        float(model.backbone.diffusion_loss(Prediction(clean, model.codec.encode(v), ()), clean, clean, torch.ones(1)))
        for v in (still, moving)
    ]
    assert losses[1] > 4 * losses[0] > 0


def test_velocity_loss_ignores_the_given_frame() -> None:
    clean, noise = torch.randn(2, 192, 2, 4, 4), torch.randn(2, 192, 2, 4, 4)
    velocity = noise - clean
    velocity[:, :, 0] = 7
    backbone: Any = SimpleNamespace(held=1)
    assert Backbone.diffusion_loss(backbone, Prediction(velocity, clean, ()), clean, noise, torch.ones(2)) == 0
