"""Where the best policy is known: `reinforce` and `reward_gradient` reach it, the control with shuffled advantages not.

The generator is one number, the policy's slope, and all its steps are linear: latents are Gaussian, and the expected
reward, minus the squared distance of what is generated to a number, follows for every slope from means and variances.
A stage ends where the gradient through the steps that it trains on is zero: through all steps that is the best slope.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from phys4d.models.world import WorldModel
from phys4d.rewards.registry import REWARDS
from phys4d.stages import reinforce, reward_gradient
from tests.stages.objectives.conftest import BASE, FINETUNED, POLICY
from tests.stages.objectives.reinforce_by_hand import SIGMAS

WISHED, NUMBERS = -0.6, 24  # of the latents; those of a sample's two drawn frames
UPDATES, RATE, NOISE, NEAR = 150, 0.02, 0.7, 0.05


def expected_reward(slopes: Sequence[float], drawn: int, sampler: str) -> float:
    """Minus the mean of (x - WISHED)^2 over both clips, for a slope of each step; the first `drawn` steps are drawn."""
    total = 0.0
    for clip in (0, 1):
        mean, variance = 0.0, 1.0
        for k, (sigma, following) in enumerate(pairwise(SIGMAS)):
            a, b = BASE + FINETUNED + slopes[k], sigma + 0.05 * clip  # velocity = a x + b
            of_x, of_velocity, deviation = 1.0, following - sigma, 0.0
            if k < drawn and sampler == "flow_sde":
                eta2, dt = NOISE**2 * sigma / (1 - (sigma if sigma < 1 else following)), following - sigma
                of_x = 1 + eta2 * dt / (2 * sigma)
                of_velocity = (1 + eta2 * (1 - sigma) / (2 * sigma)) * dt
                deviation = math.sqrt(-eta2 * dt)
            elif k < drawn:
                deviation = following * math.sin(NOISE * math.pi / 2)
                of_noise = math.sqrt(following**2 - deviation**2)
                of_x = 1 - following + of_noise
                of_velocity = of_noise * (1 - sigma) - (1 - following) * sigma
            factor = of_x + of_velocity * a
            mean, variance = factor * mean + of_velocity * b, factor**2 * variance + deviation**2
        total -= ((mean - WISHED) ** 2 + variance) / 2
    return total


def end(learnt: Sequence[int], drawn: int = 0, sampler: str = "flow_sde") -> float:
    """The first slope above that of the start at which the gradient in the slopes of the steps `learnt` is zero."""

    def gradient(slope: float) -> float:
        moved = [[slope + (e if k in learnt else 0) for k in range(3)] for e in (-1e-5, 1e-5)]
        return expected_reward(moved[1], drawn, sampler) - expected_reward(moved[0], drawn, sampler)

    assert gradient(POLICY) > 0
    return next(k / 1000 for k in range(int(1000 * POLICY), 2000) if gradient(k / 1000) <= 0)


def trained(stage: Any, world: WorldModel) -> float:
    """The slope after all updates, as the mean over the last third, in which it wanders around where it is led."""
    adapter = world.backbone.transformer.adapters.reinforce
    optimizer = torch.optim.Adam([adapter], lr=RATE)
    seen = []

    def optimizer_step(parts: Sequence[Callable[[], Tensor]]) -> Tensor:
        optimizer.zero_grad()
        loss = torch.stack([part() for part in parts]).sum()
        loss.backward()
        optimizer.step()
        return loss.detach()

    for step in range(UPDATES):
        stage.update(step, optimizer_step)
        seen.append(adapter.item())
    return sum(seen[-UPDATES // 3 :]) / (UPDATES // 3)


def squared_distance(latents: Tensor) -> Tensor:
    """The reward [B] of latents [B, 3, 3, 2, 2], of the frames that are generated."""
    return -(latents[:, :, 1:] - WISHED).square().mean((1, 2, 3, 4))


@pytest.mark.parametrize("sampler", ["flow_sde", "cps"])
@pytest.mark.parametrize("shuffled", [False, True], ids=["", "control"])
def test_reinforce_goes_where_its_drawn_steps_lead(
    objective: Callable[..., Any], world: WorldModel, monkeypatch: pytest.MonkeyPatch, sampler: str, shuffled: bool
) -> None:
    """The last step, which is not drawn, is not learnt from, though it has the same slope."""

    def reward(self: Any, latents: Tensor, samples: Any, conditions: Any, logged: Any) -> Tensor:
        logged.add(1.0, head_drift=0.0)
        return squared_distance(latents)

    monkeypatch.setattr(reinforce.ReinforceObjective, "_reward", reward)
    settings = {"conditions": 2, "group": 16, "steps": 3, "stochastic_steps": 2, "noise_level": NOISE, "kl": 0.0}
    more = {"flow_matching": 0.0, "dimensions": NUMBERS, "sampler": sampler, "shuffled_advantages": shuffled}
    found, best = trained(objective(reinforce, **settings, **more), world), end((0, 1), 2, sampler)
    assert best > POLICY + 0.5
    assert found < POLICY + NEAR if shuffled else abs(found - best) < NEAR


@pytest.mark.parametrize("steps", [3, 2, 1])
def test_the_gradient_of_the_reward_goes_where_the_last_steps_lead(
    objective: Callable[..., Any], world: WorldModel, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    def reward(generated: Any, truth: Any) -> Tensor:
        return squared_distance(2 * generated.video)

    monkeypatch.setitem(REWARDS, "changed", replace(REWARDS["changed"], differentiable=reward))
    settings = {"conditions": 2, "steps": 3, "gradient_steps": steps, "flow_matching": 0.0}
    found, best = trained(objective(reward_gradient, **settings), world), end(range(3)[-steps:])
    assert best > POLICY + 0.5 and abs(found - best) < NEAR
