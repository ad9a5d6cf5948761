"""An update of stage `reinforce` in float64: rollouts, ratios, clip, KL and flow matching."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from phys4d.engine.random import normal, uniform

SEED, STEP, SHIFT = 5, 7, 2.5
REFERENCE, POLICY = 0.5, 0.6  # slopes of the stub's velocity, with the adapter `reinforce` off and acting
SHAPE = (3, 3, 2, 2)
SETTINGS: dict[str, Any] = {
    "conditions": 2, "group": 2, "steps": 3, "stochastic_steps": 2, "noise_level": 0.6, "clip": 0.1,
    "dimensions": 20.0, "kl": 0.4, "flow_matching": 0.3, "flow_matching_batch": 2,
}  # fmt: skip
MOVE = 0.15
MATCHING = "reinforce flow matching"  # of the clips of the diffusion loss
KEYS = [(SEED, "reinforce", STEP, place, member) for place in (0, 1) for member in (0, 1)]
CLIPS = [0, 0, 1, 1]
SIGMAS = [SHIFT * u / (1 + (SHIFT - 1) * u) for u in (1.0, 2 / 3, 1 / 3, 0.0)]
# Rewards of two groups of two: mean 0 and deviation 1 with n - 1 makes the advantages 1 / sqrt(2) of either sign.
REWARDS = [-1.0, -3.0, -0.5, -0.25]
ADVANTAGES = [0.5**0.5, -(0.5**0.5), -(0.5**0.5), 0.5**0.5]


def step(x: Tensor, velocity: Tensor, k: int, sampler: str) -> tuple[Tensor, float]:
    """Mean and deviation of a drawn step, level 0.6."""
    now, following = SIGMAS[k], SIGMAS[k + 1]
    if sampler == "cps":
        deviation = following * math.sin(0.3 * math.pi)
        clean, noise = x - now * velocity, x + (1 - now) * velocity
        return (1 - following) * clean + math.sqrt(following**2 - deviation**2) * noise, deviation
    eta2, dt = 0.36 * now / (1 - (following if k == 0 else now)), following - now
    return x * (1 + eta2 * dt / (2 * now)) + velocity * (1 + eta2 * (1 - now) / (2 * now)) * dt, (-eta2 * dt) ** 0.5


def velocity(x: Tensor, k: int, clip: int, slope: float, guidance: float = 1.0) -> Tensor:
    """Of the guided model: both evaluations have the slope, the empty caption says -0.3."""
    towards, away = (slope * x + SIGMAS[k] + text for text in (0.05 * clip, -0.3))
    return away + guidance * (towards - away)


def drawn(
    source: Any, sampler: str, shared_start: bool = True, guidance: float = 1.0
) -> tuple[list[list[tuple[Tensor, Tensor]]], Tensor]:
    """Per drawn step and sample: later latent frames before and after; and the latents at the end [4, 3, 3, 2, 2]."""
    steps: list[list[tuple[Tensor, Tensor]]] = [[], []]
    ends = []
    for key, clip in zip(KEYS, CLIPS, strict=True):
        start = key[:-1] if shared_start else key
        x = normal(SHAPE, *start, "start").double()[:, 1:]
        for k in (0, 1):
            mean, deviation = step(x, velocity(x, k, clip, POLICY, guidance), k, sampler)
            after = mean + deviation * normal(SHAPE, *key, f"step {k}").double()[:, 1:]
            steps[k].append((x, after))
            x = after
        x = x - SIGMAS[2] * velocity(x, 2, clip, POLICY, guidance)
        ends.append(torch.cat([2 * source.video[clip, :, :1].double(), x], 1))
    return steps, torch.stack(ends)


def flow_matching(source: Any, draw: int, slope: float) -> float:
    """The rectified-flow loss of two clips."""
    errors = []
    for clip in (0, 1):
        key = (SEED, MATCHING, draw, clip)
        u = float(uniform((), *key, "sigma"))
        sigma = max(SHIFT * u / (1 + (SHIFT - 1) * u), 0.02)
        clean, noise = 2 * source.video[clip].double(), normal(SHAPE, *key, "noise").double()
        noisy = ((1 - sigma) * clean + sigma * noise)[:, 1:]
        errors.append((slope * noisy + sigma + 0.05 * clip - (noise - clean)[:, 1:]).square().mean())
    return float(torch.stack(errors).mean())


def losses(
    source: Any, steps: list[list[tuple[Tensor, Tensor]]], k: int, slope: float, sampler: str, advantages: list[float],
    guidance: float = 1.0,
) -> dict[str, float]:  # fmt: skip
    """Policy loss, KL, flow matching and total of drawn step k once the policy has this slope."""
    policy, kl, ratios = [], [], []
    for (x, after), clip, advantage in zip(steps[k], CLIPS, advantages, strict=True):
        before, deviation = step(x, velocity(x, k, clip, POLICY, guidance), k, sampler)
        mean, _ = step(x, velocity(x, k, clip, slope, guidance), k, sampler)
        reference, _ = step(x, velocity(x, k, clip, REFERENCE, guidance), k, sampler)
        scale = 20.0 / (2 * deviation**2)
        ratio = math.exp(scale * float((after - before).square().mean() - (after - mean).square().mean()))
        policy.append(-min(ratio * advantage, min(max(ratio, 0.9), 1.1) * advantage))
        kl.append(scale * float((mean - reference).square().mean()))
        ratios.append(ratio)
    found = {"policy": sum(policy) / 4, "kl": sum(kl) / 4, "ratio": sum(ratios) / 4}
    found["flow"] = flow_matching(source, 2 * STEP + k, slope)
    found["clipped"] = sum(abs(r - 1) > 0.1 for r in ratios) / 4
    found["std"] = float(torch.tensor(ratios, dtype=torch.float64).std())
    return found | {"total": found["policy"] + 0.4 * found["kl"] + 0.3 * found["flow"]}


def evaluated(parts: list[Callable[[], Tensor]]) -> Tensor:
    """Stands for an optimizer that changes nothing."""
    return torch.stack([part().detach() for part in parts]).sum()
