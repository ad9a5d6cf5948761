"""AdamW with warmup, linear decay, gradient clipping and averaged weights, alone or under FSDP2."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from phys4d.engine.checkpoint import named_parameters
from phys4d.engine.config import Config
from phys4d.engine.parallel import full, local
from phys4d.engine.resume import FROM_HERE

_LAST_RATE = 0.02


class OptimizerConfig(Config):
    """learning_rate: peak. betas, weight_decay: AdamW's. clip_norm: largest L2 norm of all gradients.
    warmup_steps: linear rise from 0. decay_fraction: over this last part of the steps the rate falls linearly
    to 0.02 of the peak. ema: decay of the averaged weights that the stage ends with, 0 for none.
    """

    learning_rate: Annotated[float, FROM_HERE] = Field(gt=0)
    betas: Annotated[tuple[float, float], FROM_HERE] = (0.9, 0.95)
    weight_decay: Annotated[float, FROM_HERE] = Field(0.01, ge=0)
    clip_norm: Annotated[float, FROM_HERE] = Field(1.0, gt=0)
    warmup_steps: Annotated[int, FROM_HERE] = Field(0, ge=0)
    decay_fraction: Annotated[float, FROM_HERE] = Field(0.0, ge=0, le=1)
    ema: float = Field(0.0, ge=0, lt=1)


def learning_rate(config: OptimizerConfig, steps: int, step: int) -> float:
    """The rate of step `step` (from 0) of `steps`, a pure function, so that a resume needs no state."""
    rate = config.learning_rate
    if step < config.warmup_steps:
        rate *= (step + 1) / config.warmup_steps
    decay_steps = round(steps * config.decay_fraction)
    decayed = step + 1 - (steps - decay_steps)
    if decayed > 0:
        rate *= 1.0 - (1.0 - _LAST_RATE) * decayed / decay_steps
    return rate


class Optimizer:
    """Trains the requires_grad parameters of some modules; `optimizer_step` is one optimizer step.

    modules: by name, for the checkpoint. groups: [{"params": [...], "lr_scale": float}], which must cover
    exactly the trained parameters of `modules` (ValueError: an objective's own fault).
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
        for parameter in self.parameters.values():  # now: a checkpoint has the same names at every step
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
        """Sets the learning rate of step `step` of `steps` and returns it (before any group's lr_scale)."""
        rate = learning_rate(self.config, steps, step)
        for group in self.adamw.param_groups:
            group["lr"] = rate * group["lr_scale"]
        return rate

    def optimizer_step(self, loss: Tensor) -> Tensor:
        """Backward, clip, AdamW step, EMA; returns the gradient norm before clipping, without a host sync."""
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
        """How many optimizer steps have been taken."""
        return int(self._updates)

    def state(self) -> dict[str, Tensor]:
        """Everything a resumed run needs, by name; loading into these tensors restores it."""
        state: dict[str, Tensor] = {"updates": self._updates}
        for name, parameter in self.parameters.items():
            state[f"model.{name}"] = parameter.detach()
            for key, value in self.adamw.state[parameter].items():
                state[f"optimizer.{name}.{key}"] = value
        return state | {f"ema.{name}": value for name, value in self.ema.items()}

    def use_ema(self) -> None:
        """Replaces the trained weights by their average, where one is kept."""
        for name, value in self.ema.items():
            local(self.parameters[name].detach()).copy_(local(value))
