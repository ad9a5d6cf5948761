"""Solvers of the sampling ODE: diffusers' schedulers, on the noise levels of the model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from phys4d.models.flow import keep_first
from phys4d.models.guidance import Predict
from phys4d.models.spec import Sampling

_GUARD = 1e-6  # of a first sigma of 1: multistep solvers take the logarithm of 1 - sigma
_TIMESTEPS = 1000  # in the tables of diffusers' schedulers


def _scheduler(name: str) -> Any:
    """diffusers' scheduler of a solver's name, for velocities of rectified flow, with its own defaults."""
    from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
    if name == "euler":
        return FlowMatchEulerDiscreteScheduler()
    return UniPCMultistepScheduler(**flow) if name == "unipc" else DPMSolverMultistepScheduler(**flow)


SOLVERS = ("euler", "unipc", "dpm++")
"""Euler; UniPC (arXiv 2302.04867), order 2; DPM-Solver++(2M) (arXiv 2211.01095)."""


@dataclass(frozen=True)
class Solver:
    """A diffusers scheduler whose steps are set, and the noise level [steps] that the model is given at each."""

    scheduler: Any
    levels: tuple[float, ...]


def solver(name: str, sampling: Sampling, steps: int, shift: float, sigmas: Callable[[int], Sequence[float]]) -> Solver:
    """The solver of this name for one clip.

    A model's own solver is run as its own pipeline runs it: the noise levels and the timesteps are those of the
    published scheduler, which rounds timesteps down to whole numbers. Any other visits `sigmas`, and the model is given
    these levels as they are.

    name: one of `SOLVERS`. sampling: of the model. steps, shift: of its schedule. sigmas: noise levels of so many
    steps, from 1 to 0 (`WorldModel.sigmas`).
    """
    if name == sampling.solver and sampling.scheduler is not None:
        own = sampling.scheduler(shift)
        own.set_timesteps(steps)
        return Solver(own, tuple(float(t) / _TIMESTEPS for t in own.timesteps))
    levels = sigmas(steps)
    scheduler = _scheduler(name)
    scheduler.set_timesteps(steps)
    visited = torch.tensor(levels, dtype=torch.float64)
    if name != "euler":
        visited[0] = visited[0].clamp_max(1 - _GUARD)
    scheduler.sigmas = visited.float()
    scheduler.timesteps = scheduler.sigmas[:-1] * _TIMESTEPS
    return Solver(scheduler, tuple(levels[:-1]))


@torch.no_grad()
def solve(predict: Predict, held: Tensor, noise: Tensor, chosen: Solver) -> Tensor:
    """Clean latents from noise [B, C, T', H', W'] under `predict(noisy, sigma [B])`.

    predict: a prediction, whose velocity is solved for. held: latent frames [B, C, n, H', W'] that stay clean, n at the
    beginning, maybe none. noise: standard normal, fp32. chosen: used up, make one for each clip.
    """
    scheduler, latents = chosen.scheduler, keep_first(noise, held)
    scheduler.set_begin_index(0)
    for t, level in zip(scheduler.timesteps, chosen.levels, strict=True):
        velocity = predict(latents, latents.new_full((len(latents),), level)).velocity
        latents = keep_first(scheduler.step(velocity, t, latents, return_dict=False)[0], held)
    return latents
