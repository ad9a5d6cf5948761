"""The stochastic steps of `reinforce` on a v-prediction model keep the marginals of its deterministic sampler.

Data are normal with deviation S, of which the exact v is known. The latents behind each step must have the deviation of
the exact marginal, sqrt((1 - sigma)^2 S^2 + sigma^2): for `cps` at any number of steps where S = 0, for `flow_sde` up
to what the size of a step leaves. That is 3 % behind the first step, whatever its size, and falls with it later on.
"""

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from torch import Tensor

from phys4d.models.cogvideox.backbone import CogVideoXBackbone
from phys4d.models.cogvideox.process import scale
from phys4d.stages.flow_sde import Sampler, rollout

SHAPE = (64, 4, 3, 16, 16)  # 196,608 numbers: their deviation is known within 0.16 %


class ExactV(CogVideoXBackbone):
    """In place of the transformer: v = a E[noise | x_t] - s E[data | x_t] at the timestep's own a and s."""

    spread = 0.5

    def evaluate(self, noisy: Tensor, sigma: Tensor, text: Tensor, first: Tensor | None) -> Tensor:
        x = noisy / scale(sigma)
        level = self.process.table[self.process.timestep(sigma)].view(-1, 1, 1, 1, 1)
        r = (level**2 + (1 - level) ** 2).sqrt()
        a, s = (1 - level) / r, level / r
        variance = a**2 * self.spread**2 + s**2
        return ((a * s - s * a * self.spread**2) / variance * x).float()


@pytest.fixture
def exact() -> ExactV:
    return ExactV(CogVideoXTransformer3DModel(num_attention_heads=1, attention_head_dim=16, num_layers=1), ())


def sampled(backbone: ExactV, steps: int, sampler: Sampler, drawn: int) -> tuple[Tensor, float]:
    """Deviation of the latents behind each of `drawn` stochastic steps over that of the exact marginal; deviation of
    the samples."""
    draw, sigmas = torch.Generator().manual_seed(0), backbone.sigmas(steps, 1.0).tolist()
    latents, transitions = rollout(
        lambda noisy, sigma: backbone(noisy, sigma, torch.zeros(1, 1, 1)), torch.zeros(64, 4, 0, 16, 16),
        lambda use: torch.randn(SHAPE, generator=draw),
        sigmas=sigmas, stochastic_steps=drawn, noise_level=0.7, sampler=sampler, dimensions=10.0,
    )  # fmt: skip
    ratios = [
        t.after.std() / ((1 - t.following) ** 2 * backbone.spread**2 + t.following**2) ** 0.5 for t in transitions
    ]
    return torch.stack(ratios) if ratios else torch.ones(0), float(latents.std())


def test_drawn_steps_have_the_marginals_of_the_ode_as_steps_become_small(exact: ExactV) -> None:
    errors = {}
    for steps in (25, 100):
        ratio, drawn = sampled(exact, steps, "flow_sde", steps - 1)
        _, ode = sampled(exact, steps, "flow_sde", 0)
        assert ((ratio - 1).abs() < 0.07).all()
        middle = float((ratio[steps // 4 :] - 1).abs().mean())
        errors[steps] = middle, abs(drawn - 0.5), abs(ode - 0.5)
    assert all(fine < 0.5 * coarse for coarse, fine in zip(errors[25], errors[100], strict=True)), errors
    assert errors[100][0] < 0.02 and errors[100][1] < 0.02 and errors[100][2] < 0.02


def test_the_proportion_of_noise_is_kept_at_any_number_of_steps(exact: ExactV) -> None:
    """Data at one point: the latents are sigma times noise."""
    exact.spread = 0.0
    for steps in (4, 25):
        ratio, drawn = sampled(exact, steps, "cps", steps - 1)
        assert ((ratio - 1).abs() < 0.01).all() and drawn < 1e-3
