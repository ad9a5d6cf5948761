"""AdamW with warmup, linear decay, gradient clipping and averaged weights (EMA), on one process or under FSDP2."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from phys4d.engine.checkpoint import named_parameters
from phys4d.engine.config import Config
from phys4d.engine.distributed.collectives import full, local
from phys4d.engine.distributed.sharding import synchronise_gradients
from phys4d.engine.resume import FROM_HERE

_LAST_RATE = 0.02
_FUSED = ("cpu", "cuda")  # device types for which torch has a fused AdamW, which can skip a step without a host sync

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
        self._roots = list(modules.values())
        device = next(iter(self.parameters.values())).device
        self._fused = device.type in _FUSED
        # Over this rank's shards as plain tensors: no operator of the step goes through DTensor's dispatch.
        self._shards = {name: local(value.detach()) for name, value in self.parameters.items()}
        names = {id(value): name for name, value in self.parameters.items()}
        self.adamw = torch.optim.AdamW(
            [
                {
                    "params": [self._shards[names[id(p)]] for p in group["params"]],
                    "lr_scale": group.get("lr_scale", 1.0),
                }
                for group in groups
            ],
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
            foreach=not self._fused,
            fused=self._fused,
        )
        self._moments: dict[str, dict[str, Tensor]] = {}
        for name, parameter in self.parameters.items():  # before the first step: every checkpoint has the same names
            moments = {
                "step": torch.zeros((), dtype=torch.float32, device=device if self._fused else "cpu"),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
            self._moments[name] = moments
            self.adamw.state[self._shards[name]] = {key: local(value) for key, value in moments.items()}
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
        self._step(norm)
        if self.ema:
            count = self.updates
            decay = min(self.config.ema, (count + 1) / (count + 10))
            averages = [local(value) for value in self.ema.values()]
            torch._foreach_lerp_(averages, list(self._shards.values()), 1.0 - decay)
        self._updates += 1
        return norm

    def _check_summed(self) -> None:
        for root in self._roots:
            trained = [parameter for parameter in root.parameters() if parameter.requires_grad]
            if trained and all(parameter.grad is None for parameter in trained):
                name = type(root).__name__
                raise RuntimeError(f"{name} was not evaluated in the last micro-batch: its gradients are not summed")

    def _step(self, norm: Tensor) -> None:
        for name, shard in self._shards.items():
            gradient = self.parameters[name].grad
            shard.grad = None if gradient is None else local(gradient)
        finite = norm.isfinite()
        if self._fused:
            self.adamw.found_inf = (~finite).to(torch.float32)  # type: ignore[attr-defined]
            self.adamw.step()
        elif finite:  # a host sync: torch's AdamW for other devices cannot skip a step by itself
            self.adamw.step()
        for shard in self._shards.values():
            shard.grad = None

    @property
    def updates(self) -> int:
        """Number of optimizer steps taken, skipped ones included."""
        return int(self._updates)

    def state(self) -> dict[str, Tensor]:
        """The state that a resumed run needs, by name; loading into these tensors restores it."""
        state: dict[str, Tensor] = {"updates": self._updates}
        for name, parameter in self.parameters.items():
            state[f"model.{name}"] = parameter.detach()
            for key, value in self._moments[name].items():
                state[f"optimizer.{name}.{key}"] = value
        return state | {f"ema.{name}": value for name, value in self.ema.items()}

    def use_ema(self) -> None:
        """Replaces the trained weights by their EMA, if there is one."""
        for name, value in self.ema.items():
            self._shards[name].copy_(local(value))
