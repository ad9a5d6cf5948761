"""AdamW with warmup, linear decay, gradient clipping and averaged weights (EMA), on one process or under FSDP2."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from phys4d.engine.checkpoint import named_parameters
from phys4d.engine.config import Config
from phys4d.engine.distributed.collectives import full, local
from phys4d.engine.distributed.sharding import synchronise_gradients
from phys4d.engine.resume import FROM_HERE, REGROUPED
from phys4d.engine.training.adam import ADAMS, AdamName, HostAdam
from phys4d.engine.training.average import Average

_LAST_RATE = 0.02

Loss = Callable[[], Tensor]
"""Evaluates a part of a step's clips: a scalar, the part's share of a loss that is a sum over all parts and ranks."""
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
        self._roots = list(modules.values())
        names = {id(value): name for name, value in self.parameters.items()}
        by_name = [
            {"params": [names[id(p)] for p in group["params"]], "lr_scale": group.get("lr_scale", 1.0)}
            for group in groups
        ]
        adam = HostAdam if "moments" in config.offload else ADAMS[config.adam]
        self.adam = adam(self.parameters, by_name, config.betas, config.weight_decay)
        self.adam.set_rate(config.learning_rate)
        self.average = Average(self.parameters, on_host="ema" in config.offload) if config.ema > 0 else None
        self._updates = torch.zeros((), dtype=torch.int64)

    def schedule(self, steps: int, step: int) -> float:
        """Sets the learning rate of step `step` of `steps` and returns it (before lr_scale of the groups)."""
        rate = learning_rate(self.config, steps, step)
        self.adam.set_rate(rate)
        return rate

    def optimizer_step(self, losses: Sequence[Loss]) -> Tensor:
        """Backward pass of each part in turn, gradient clipping, AdamW step, EMA; returns the gradient norm before
        clipping, without a host sync.

        losses: the parts of this rank; all ranks must have equally many. Gradients are summed over the parts and, after
            the last one, over the ranks.

        A step whose gradient norm is not finite, on any rank, changes neither weights nor moments.
        """
        for parameter in self.parameters.values():
            parameter.grad = None
        for number, loss in enumerate(losses):
            for root in self._roots:
                synchronise_gradients(root, number == len(losses) - 1)
            loss().backward()
        if len(losses) > 1:
            self._check_summed()
        norm = full(nn.utils.clip_grad_norm_(self.parameters.values(), self.config.clip_norm))
        gradients = {name: value.grad for name, value in self.parameters.items()}
        self.adam.step({n: None if g is None else local(g) for n, g in gradients.items()}, norm.isfinite())
        if self.average is not None:
            count = self.updates
            self.average.add(self.adam.weights, min(self.config.ema, (count + 1) / (count + 10)))
        self._updates += 1
        return norm

    def _check_summed(self) -> None:
        for root in self._roots:
            trained = [parameter for parameter in root.parameters() if parameter.requires_grad]
            if trained and all(parameter.grad is None for parameter in trained):
                name = type(root).__name__
                raise RuntimeError(f"{name} was not evaluated in the last micro-batch: its gradients are not summed")

    @property
    def updates(self) -> int:
        """Number of optimizer steps taken, skipped ones included."""
        return int(self._updates)

    def state(self) -> dict[str, Tensor]:
        """The state that a resumed run needs, by name; loading into these tensors restores it."""
        state: dict[str, Tensor] = {"updates": self._updates}
        for name, parameter in self.parameters.items():
            state[f"model.{name}"] = parameter.detach()
            for key, value in self.adam.moments[name].items():
                state[f"optimizer.{name}.{key}"] = value
        averages = {} if self.average is None else self.average.weights
        return state | {f"ema.{name}": value for name, value in averages.items()}

    def use_ema(self) -> None:
        """Replaces the trained weights by their EMA, if there is one."""
        if self.average is not None:
            self.average.give(self.parameters)
