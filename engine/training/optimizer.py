"""AdamW with warmup, linear decay, gradient clipping and averaged weights (EMA), however the weights are divided."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from phys4d.engine.checkpoint import named_parameters
from phys4d.engine.config import Config
from phys4d.engine.distributed.collectives import local
from phys4d.engine.distributed.mesh import DEEPSPEED, ParallelConfig
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.distributed.strategy import Loss
from phys4d.engine.errors import UserError
from phys4d.engine.resume import FROM_HERE, REGROUPED
from phys4d.engine.training.adam import ADAMS, AdamName, HostAdam
from phys4d.engine.training.average import Average

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
    adam: whose fused AdamW, "torch" or "apex" (NVIDIA's FusedAdam).
    offload: what is kept, and computed, in the host's memory: "moments", "ema".
    """

    learning_rate: Annotated[float, FROM_HERE] = Field(gt=0)
    betas: Annotated[tuple[float, float], FROM_HERE] = (0.9, 0.95)
    weight_decay: Annotated[float, FROM_HERE] = Field(0.01, ge=0)
    clip_norm: Annotated[float, FROM_HERE] = Field(1.0, gt=0)
    warmup_steps: Annotated[int, FROM_HERE] = Field(0, ge=0)
    decay_fraction: Annotated[float, FROM_HERE] = Field(0.0, ge=0, le=1)
    ema: float = Field(0.0, ge=0, lt=1)
    adam: Annotated[AdamName, REGROUPED] = "torch"
    offload: Annotated[tuple[Literal["moments", "ema"], ...], REGROUPED] = ()

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.adam != "torch" and "moments" in self.offload:
            raise ValueError(f'offload = ["moments"] is for adam = "torch", not for "{self.adam}"')
        if "ema" in self.offload and self.ema == 0:
            raise ValueError('offload = ["ema"]: there are no averaged weights: set ema')
        return self


def check_steps(config: OptimizerConfig, parallel: ParallelConfig, where: str) -> None:
    """UserError unless the strategy can step by this AdamW.

    config, parallel: settings. where: the table of `config` in the run file.
    """
    asked = {"adam": config.adam != "torch", "offload": "moments" in config.offload}
    if parallel.strategy == DEEPSPEED and any(asked.values()):
        key = next(name for name, there in asked.items() if there)
        raise UserError(
            f'{where}.{key}: expected torch\'s AdamW on the device with parallel.strategy = "deepspeed": remove it'
        )


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
        names = {id(value): name for name, value in self.parameters.items()}
        by_name = [
            {"params": [names[id(p)] for p in group["params"]], "lr_scale": group.get("lr_scale", 1.0)}
            for group in groups
        ]
        adam = HostAdam if "moments" in config.offload else ADAMS[config.adam]
        self.update = (parallel or Parallel.alone()).strategy.update(
            list(modules.values()), self.parameters, by_name, adam, config.betas, config.weight_decay
        )
        self.update.set_rate(config.learning_rate)
        on_host = "ema" in config.offload
        self.average = Average(self.update.weights, on_host=on_host) if config.ema > 0 else None
        on_device = {name: local(value) for name, value in self.update.weights.items()}
        self._averaged = self.update.stepped if on_host else on_device
        self._updates = torch.zeros((), dtype=torch.int64)

    def schedule(self, steps: int, step: int) -> float:
        """Sets the learning rate of step `step` of `steps` and returns it (before lr_scale of the groups)."""
        rate = learning_rate(self.config, steps, step)
        self.update.set_rate(rate)
        return rate

    def optimizer_step(self, losses: Sequence[Loss]) -> Tensor:
        """Backward pass of each part in turn, gradient clipping, AdamW step, EMA; returns the gradient norm before
        clipping.

        losses: the parts of this rank; all ranks must have equally many. Gradients are summed over the parts and over
            the ranks.

        A step whose gradient norm is not finite, on any rank, changes neither weights nor moments.
        """
        norm = self.update.step(losses, self.config.clip_norm)
        if self.average is not None:
            count = self.updates
            self.average.add(self._averaged, min(self.config.ema, (count + 1) / (count + 10)))
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
        averages = {} if self.average is None else self.average.weights
        return state | {f"ema.{name}": value for name, value in averages.items()}

    def loaded(self) -> None:
        """Takes over what was loaded into `state()`; a collective."""
        self.update.written()

    def use_ema(self) -> None:
        """Replaces the trained weights by their EMA, if there is one; a collective."""
        if self.average is not None:
            self.average.give(self.update.weights)
            self.update.written()
