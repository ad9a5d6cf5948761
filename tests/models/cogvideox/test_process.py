"""Noise levels of CogVideoX against diffusers' schedulers, number by number, and the change of coordinates."""

import math

import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler

from phys4d.models.cogvideox.process import Process, scale, sigma_table, trailing_timesteps, velocity_of
from tests.models.cogvideox.conftest import SCHEDULER


@pytest.mark.parametrize("scheduler", [CogVideoXDDIMScheduler, CogVideoXDPMScheduler])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_noise_levels_and_timesteps_are_those_of_diffusers_schedulers(scheduler: type, shift: float) -> None:
    theirs = scheduler.from_config(SCHEDULER | {"snr_shift_scale": shift})
    a = theirs.alphas_cumprod.double().sqrt()
    s = (1 - theirs.alphas_cumprod.double()).sqrt()
    table = sigma_table(shift)
    torch.testing.assert_close(table, s / (a + s), rtol=1e-12, atol=0)
    assert table[-1] == 1 and a[-1] == 0
    for steps in (1, 4, 7, 30, 50, 1000):
        theirs.set_timesteps(steps)
        assert torch.equal(theirs.timesteps, trailing_timesteps(steps))
        sigmas = Process(shift).sigmas(steps, shift)
        assert sigmas.dtype == torch.float32 and torch.equal(sigmas[:-1], (s / (a + s))[theirs.timesteps].float())
        assert sigmas[0] == 1 and sigmas[-1] == 0


def test_a_sigma_of_the_table_is_its_timestep_and_others_go_to_the_nearest() -> None:
    process = Process()
    assert torch.equal(process.timestep(process.table.float()), torch.arange(1000))
    between = (process.table[500] + process.table[501]) / 2
    sigmas = torch.stack([between - 1e-6, between + 1e-6, process.table[0] / 2])
    assert process.timestep(sigmas).tolist() == [500, 501, 0]


def test_training_draws_every_timestep_as_often_as_the_other() -> None:
    process = Process()
    u = (torch.arange(2000) + 0.5) / 2000
    drawn = process.timestep(process.training_sigma(u, 1.0))
    assert torch.equal(drawn, torch.arange(1000).repeat_interleave(2))
    assert process.training_sigma(torch.tensor([0.0, 1.0]), 1.0).tolist() == [process.table[0].float().item(), 1.0]


@pytest.mark.parametrize("steps", [0, 1001])
def test_more_steps_than_timesteps_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=f"{steps} sampling steps: CogVideoX has 1000 timesteps"):
        trailing_timesteps(steps)


def test_the_change_of_coordinates_in_numbers() -> None:
    """a = 0.8, s = 0.6: sigma = 3/7; data 2 and noise -1 give x_t = 1, v = -2, z = 5/7 and velocity -3; at a = 0 the
    velocity is x_t + v."""
    sigma, noisy, v = torch.tensor([3 / 7, 1.0]), torch.tensor([5 / 7, -1.0]), torch.tensor([-2.0, -2.0])
    shape = (2, 1, 1, 1, 1)
    r = scale(sigma)
    assert (noisy.view(shape) / r).flatten().tolist() == pytest.approx([1.0, -1.0])
    assert r.flatten().tolist() == pytest.approx([5 / 7, 1.0])
    assert velocity_of(v.view(shape), noisy.view(shape), sigma).flatten().tolist() == pytest.approx([-3.0, -3.0])
    assert math.isclose(5 / 7 - 3 / 7 * -3, 2)
