"""AdamW with warmup, linear decay, gradient clipping and averaged weights (EMA), on one process or under FSDP2."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from phys4d.engine.checkpoint import named_parameters
from phys4d.engine.config import Config
from phys4d.engine.distributed.parallel import full, local
from phys4d.engine.resume import FROM_HERE

_LAST_RATE = 0.02


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

    Raises ValueError unless the groups contain exactly the trained parameters of `modules`.
    """

    def __init__(
        self, config: OptimizerConfig, modules: Mapping[str, nn.Module], groups: Sequence[Mapping[str, Any]]
    ) -> None:
        self.config = config
        named = named_parameters(modules)
        self.parameters = {name: value for name, value in named.items() if value.requires_grad}
        grouped = [id(parameter) for group in groups for parameter in group["params"]]
        if sorted(grouped) != sorted(map(id, self.parameters.values())):
            counts = f"{len(grouped)} parameters, modules train {len(self.parameters)}"
            raise ValueError(f"parameter_groups must hold what modules train, they hold {counts}")
        self.adamw = torch.optim.AdamW(
            [{"params": list(group["params"]), "lr_scale": group.get("lr_scale", 1.0)} for group in groups],
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
            foreach=True,
        )
        for parameter in self.parameters.values():  # before the first step, so that every checkpoint has the same names
            self.adamw.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        self.ema: dict[str, Tensor] = {}
        if config.ema > 0:
            self.ema = {name: value.detach().clone() for name, value in self.parameters.items()}
        self._updates = torch.zeros((), dtype=torch.int64)

    def schedule(self, steps: int, step: int) -> float:
        """Sets the learning rate of step `step` of `steps` and returns it (before lr_scale of the groups)."""
        rate = learning_rate(self.config, steps, step)
        for group in self.adamw.param_groups:
            group["lr"] = rate * group["lr_scale"]
        return rate

    def optimizer_step(self, loss: Tensor) -> Tensor:
        """Backward pass, gradient clipping, AdamW step, EMA; returns the gradient norm before clipping, without a host
        sync.
        """
        self.adamw.zero_grad(set_to_none=True)
        loss.backward()
        norm = full(nn.utils.clip_grad_norm_(self.parameters.values(), self.config.clip_norm))
        self.adamw.step()
        if self.ema:
            count = self.updates
            decay = min(self.config.ema, (count + 1) / (count + 10))
            averages = [local(value) for value in self.ema.values()]
            current = [local(value.detach()) for value in self.parameters.values()]
            torch._foreach_lerp_(averages, current, 1.0 - decay)
        self._updates += 1
        return norm

    @property
    def updates(self) -> int:
        """Number of optimizer steps taken."""
        return int(self._updates)

    def state(self) -> dict[str, Tensor]:
        """The state that a resumed run needs, by name; loading into these tensors restores it."""
        state: dict[str, Tensor] = {"updates": self._updates}
        for name, parameter in self.parameters.items():
            state[f"model.{name}"] = parameter.detach()
            for key, value in self.adamw.state[parameter].items():
                state[f"optimizer.{name}.{key}"] = value
        return state | {f"ema.{name}": value for name, value in self.ema.items()}

    def use_ema(self) -> None:
        """Replaces the trained weights by their EMA, if there is one."""
        for name, value in self.ema.items():
            local(self.parameters[name].detach()).copy_(local(value))
