"""Phases that take their first step again and again, on clips that they learn by heart."""

from typing import Any

import torch

from phys4d.engine.config import build
from phys4d.engine.distributed.parallel import Parallel
from phys4d.models.world import WorldModel
from phys4d.stages.registry import STAGES
from phys4d.stages.spec import Shares


def prepared(model: WorldModel, stage: str, settings: dict[str, Any]) -> tuple[Any, torch.optim.Optimizer]:
    """A stage's objective over the model, and Adam over what it trains."""
    objective, table = STAGES[stage].objective, build(STAGES[stage].config, settings, stage)
    objective.prepare(model, table, 0)
    made = objective(table, model, Parallel.alone(), 0)
    return made, torch.optim.Adam([p for group in made.parameter_groups() for p in group["params"]], 1e-2)


def repeated(model: WorldModel, stage: str, settings: dict[str, Any], updates: int) -> list[float]:
    """Losses of the first step of a stage, which draws the same clips and the same noise, taken again and again."""
    made, optimizer = prepared(model, stage, settings)

    def step(losses: Any) -> torch.Tensor:
        optimizer.zero_grad()
        for loss in losses:
            loss().backward()
        optimizer.step()
        return torch.zeros(())

    return [float(made.update(0, step)["loss"]) for _ in range(updates)]


def rewards_climbed(model: WorldModel, data: dict[str, Any], updates: int) -> list[float]:
    """Rewards of one sample, drawn again and again, along whose gradient `reward_gradient` goes."""
    settings = {"conditions": 1, "steps": 3, "gradient_steps": 2, "flow_matching": 0.0, "rank": 8}
    made, optimizer = prepared(model, "reward_gradient", data | settings)

    def step(losses: Any) -> torch.Tensor:
        optimizer.zero_grad()
        for loss in losses:
            loss().backward()
        optimizer.step()
        return torch.zeros(())

    return [float(made.update(0, step)["reward"]) for _ in range(updates)]


def policy_losses(model: WorldModel, data: dict[str, Any], updates: int) -> list[float]:
    """Policy losses of updates on the drawn steps of two samples, of which the first was better than the second."""
    settings = {"conditions": 1, "group": 2, "steps": 3, "stochastic_steps": 2, "flow_matching": 0.0, "rank": 8}
    made, optimizer = prepared(model, "reinforce", data | settings | {"kl": 0.0, "dimensions": 192.0})
    (samples,) = made._samples(made.clips.batch(1, Parallel.alone(), 0, "reinforce", 0, pixels=True), made.config.group)
    _, transitions = made._rollout(samples)
    losses = []
    for _ in range(updates):
        optimizer.zero_grad()
        advantage = torch.tensor([1.0, -1.0])
        loss = sum(made._policy_loss(t, samples, advantage, [], Shares()) for t in transitions) / 2
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    return losses
