"""AdamW with warmup, linear decay, gradient clipping and averaged weights (EMA), however the weights are divided."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from phys4d.engine.checkpoint import named_parameters
from phys4d.engine.config import Config
from phys4d.engine.distributed.collectives import local
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.distributed.strategy import Loss
from phys4d.engine.resume import FROM_HERE

_LAST_RATE = 0.02

OptimizerStep = Callable[[Sequence[Loss]], Tensor]
"""Takes all parts of one optimizer step on this rank, evaluates them in turn and steps; returns the gradient norm."""


class OptimizerConfig(Config):
    """Settings of AdamW; all values are global, the same on every rank.

    learning_rate: peak of the schedule.
    betas: AdamW's decay rates of the first and second moment.
    weight_decay: AdamW's decoupled weight decay.
    clip_norm: largest L2 norm of all gradients together, over all ranks.
    warmup_steps: steps of the linear rise from 0.
    decay_fraction: share of the steps, at the end, over which the rate falls linearly to 0.02 of its peak.
    ema: decay of the averaged weights that the stage ends with, 0 for none.
    """

    learning_rate: Annotated[float, FROM_HERE] = Field(gt=0)
    betas: Annotated[tuple[float, float], FROM_HERE] = (0.9, 0.95)
    weight_decay: Annotated[float, FROM_HERE] = Field(0.01, ge=0)
    clip_norm: Annotated[float, FROM_HERE] = Field(1.0, gt=0)
    warmup_steps: Annotated[int, FROM_HERE] = Field(0, ge=0)
    decay_fraction: Annotated[float, FROM_HERE] = Field(0.0, ge=0, le=1)
    ema: float = Field(0.0, ge=0, lt=1)


def learning_rate(config: OptimizerConfig, steps: int, step: int) -> float:
    """The learning rate of step `step` (from 0) of `steps`; a pure function, so that a resume needs no state."""
    rate = config.learning_rate
    if step < config.warmup_steps:
        rate *= (step + 1) / config.warmup_steps
    decay_steps = round(steps * config.decay_fraction)
    decayed = step + 1 - (steps - decay_steps)
    if decayed > 0:
        rate *= 1.0 - (1.0 - _LAST_RATE) * decayed / decay_steps
    return rate


class Optimizer:
    """AdamW over the parameters with requires_grad of some modules.

    config: settings.
    modules: by name, as in the checkpoint.
    groups: [{"params": [...], "lr_scale": float}, ...].
    parallel: whose strategy divided the modules; default: one process alone.

    Raises ValueError unless the groups contain exactly the trained parameters of `modules`.
    """

    def __init__(
        self,
        config: OptimizerConfig,
        modules: Mapping[str, nn.Module],
        groups: Sequence[Mapping[str, Any]],
        parallel: Parallel | None = None,
    ) -> None:
        self.config = config
        named = named_parameters(modules)
        self.parameters = {name: value for name, value in named.items() if value.requires_grad}
        grouped = [id(parameter) for group in groups for parameter in group["params"]]
        if sorted(grouped) != sorted(map(id, self.parameters.values())):
            counts = f"{len(grouped)} parameters, modules train {len(self.parameters)}"
            raise ValueError(f"parameter_groups must hold what modules train, they hold {counts}")
        options = {"lr": config.learning_rate, "betas": config.betas, "weight_decay": config.weight_decay}
        strategy = (parallel or Parallel.alone()).strategy
        self.update = strategy.adamw(list(modules.values()), self.parameters, groups, options)
        self.ema: dict[str, Tensor] = {}
        if config.ema > 0:
            self.ema = {name: value.clone() for name, value in self.update.weights.items()}
        self._updates = torch.zeros((), dtype=torch.int64)

    def schedule(self, steps: int, step: int) -> float:
        """Sets the learning rate of step `step` of `steps` and returns it (before lr_scale of the groups)."""
        rate = learning_rate(self.config, steps, step)
        for group in self.update.groups:
            group["lr"] = rate * group["lr_scale"]
        return rate

    def optimizer_step(self, losses: Sequence[Loss]) -> Tensor:
        """Backward pass of each part in turn, gradient clipping, AdamW step, EMA; returns the gradient norm before
        clipping.

        losses: the parts of this rank; all ranks must have equally many. Gradients are summed over the parts and over
            the ranks.

        A step whose gradient norm is not finite, on any rank, changes neither weights nor moments.
        """
        norm = self.update.step(losses, self.config.clip_norm)
        if self.ema:
            count = self.updates
            decay = min(self.config.ema, (count + 1) / (count + 10))
            averages = [local(value) for value in self.ema.values()]
            torch._foreach_lerp_(averages, [local(value) for value in self.update.weights.values()], 1.0 - decay)
        self._updates += 1
        return norm

    @property
    def updates(self) -> int:
        """Number of optimizer steps taken, skipped ones included."""
        return int(self._updates)

    def state(self) -> dict[str, Tensor]:
        """The state that a resumed run needs, by name; loading into these tensors restores it (`loaded`)."""
        state: dict[str, Tensor] = {"updates": self._updates}
        for name, value in self.update.weights.items():
            state[f"model.{name}"] = value
            for key, moment in self.update.moments[name].items():
                state[f"optimizer.{name}.{key}"] = moment
        return state | {f"ema.{name}": value for name, value in self.ema.items()}

    def loaded(self) -> None:
        """Takes over what was loaded into `state()`; a collective."""
        self.update.written()

    def use_ema(self) -> None:
        """Replaces the trained weights by their EMA, if there is one; a collective."""
        for name, value in self.ema.items():
            local(self.update.weights[name]).copy_(local(value))
        self.update.written()
