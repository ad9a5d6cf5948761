"""CogVideoX's diffusion process in the coordinates of rectified flow.

CogVideoX was trained on x_t = a data + s noise with a^2 + s^2 = 1, at the 1000 timesteps of a table whose
signal-to-noise ratio is shifted and whose last entry has no signal (a = 0), to predict v = a noise - s data. In
rectified flow, for sigma = s / (a + s), the same state is z = x_t / (a + s), and

    a = (1 - sigma) / r, s = sigma / r, x_t = z / r         with r^2 = (1 - sigma)^2 + sigma^2 = 1 / (a + s)^2
    velocity = noise - data = (s - a) x_t + v / r
    clean = data = a x_t - s v = z - sigma velocity

which holds for any sigma, 1 included. The transformer reads a whole timestep: that of the table whose sigma is nearest.
x_t is exact for sigma itself, so that between two entries only the timestep that the transformer reads is rounded.

Source of the table: diffusers, schedulers/scheduling_ddim_cogvideox.py (CogVideoXDDIMScheduler).
"""

from functools import lru_cache

import torch
from torch import Tensor

from phys4d.models.flow import expand, from_noise

TIMESTEPS = 1000
BETAS = (0.00085, 0.012)  # of the first and the last timestep, linear in their square roots
SNR_SHIFT = 1.0  # of CogVideoX-5B and -I2V; CogVideoX-2B has 3


@lru_cache(maxsize=8)
def sigma_table(snr_shift: float = SNR_SHIFT, betas: tuple[float, float] = BETAS) -> Tensor:
    """sigma of each timestep, fp64 [1000], rising to exactly 1.

    snr_shift: by which the signal-to-noise ratio of all timesteps is divided. betas: of the first and the last
    timestep.
    """
    beta = torch.linspace(betas[0] ** 0.5, betas[1] ** 0.5, TIMESTEPS, dtype=torch.float64) ** 2
    kept = torch.cumprod(1 - beta, 0)
    a = (kept / (snr_shift + (1 - snr_shift) * kept)).sqrt()
    a = (a - a[-1]) * (a[0] / (a[0] - a[-1]))  # zero terminal SNR: arXiv 2305.08891, algorithm 1
    s = (1 - a**2).sqrt()
    return s / (a + s)


def trailing_timesteps(steps: int) -> Tensor:
    """int64 [steps], falling from 999: the ends of so many equal parts of the 1000, rounded to even.

    ValueError for more steps than timesteps.
    """
    if not 1 <= steps <= TIMESTEPS:
        raise ValueError(f"{steps} sampling steps: CogVideoX has {TIMESTEPS} timesteps")
    ends = torch.arange(steps, dtype=torch.float64) * (TIMESTEPS / steps)
    return (TIMESTEPS - ends).round().long() - 1


class Process:
    """The noise levels that one model was trained at; arguments as of `sigma_table`."""

    def __init__(self, snr_shift: float = SNR_SHIFT, betas: tuple[float, float] = BETAS) -> None:
        self.betas = betas
        self.table = sigma_table(snr_shift, betas)

    def timestep(self, sigma: Tensor) -> Tensor:
        """int64 [B]: the timestep whose sigma is nearest; 0 for a sigma below the first one, 0.028."""
        table = self.table.to(sigma.device)
        return (sigma.double()[:, None] - table).abs().argmin(1)

    def sigmas(self, steps: int, snr_shift: float) -> Tensor:
        """Noise levels of sampling, fp32 [steps + 1]: those of the trailing timesteps at this SNR shift, then 0."""
        visited = sigma_table(snr_shift, self.betas)[trailing_timesteps(steps)]
        return from_noise(torch.cat([visited, visited.new_zeros(1)]).float())

    def training_sigma(self, u: Tensor, snr_shift: float) -> Tensor:
        """Uniform u [B] -> the sigma of a timestep at this SNR shift, each as likely as the other."""
        t = (TIMESTEPS * u.double()).long().clamp(max=TIMESTEPS - 1)
        return sigma_table(snr_shift, self.betas).to(u.device)[t].to(u.dtype)


def scale(sigma: Tensor) -> Tensor:
    """r [B, 1, 1, 1, 1], by which latents of rectified flow are divided to get x_t; 1 / (a + s)."""
    s = expand(sigma)
    return ((1 - s).square() + s.square()).sqrt()


def velocity_of(v: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
    """The velocity of rectified flow [B, C, T', H', W'] from the v-prediction at x_t = noisy / `scale`."""
    s, r = expand(sigma), scale(sigma)
    return (2 * s - 1) / r**2 * noisy + v / r
