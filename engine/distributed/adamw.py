"""AdamW over this rank's rows of the weights (FSDP2), or over whole weights of one process."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from phys4d.engine.distributed.collectives import full, local

_FUSED = ("cpu", "cuda")  # device types for which torch has a fused AdamW, which can skip a step without a host sync


class ShardedAdamW:
    """torch's AdamW; see `strategy.Update` and `strategy.Strategy.adamw`."""

    def __init__(
        self, modules: Sequence[nn.Module], named: Mapping[str, nn.Parameter], groups: Sequence[Mapping[str, Any]],
        options: Mapping[str, Any],
    ) -> None:  # fmt: skip
        self._roots, self._parameters = modules, named
        self._grouped = [list(group["params"]) for group in groups]
        device = next(iter(named.values())).device
        self._fused = device.type in _FUSED
        # Over this rank's shards as plain tensors: no operator of the step goes through DTensor's dispatch.
        self.weights = {name: value.detach() for name, value in named.items()}
        self._shards = {name: local(value) for name, value in self.weights.items()}
        names = {id(value): name for name, value in named.items()}
        self._adamw = torch.optim.AdamW(
            [
                {
                    "params": [self._shards[names[id(p)]] for p in group["params"]],
                    "lr_scale": group.get("lr_scale", 1.0),
                }
                for group in groups
            ],
            **options,
            foreach=not self._fused,
            fused=self._fused,
        )
        self.groups = self._adamw.param_groups
        self.moments: dict[str, dict[str, Tensor]] = {}
        for name, parameter in named.items():  # before the first step: every checkpoint has the same names
            moments = {
                "step": torch.zeros((), dtype=torch.float32, device=device if self._fused else "cpu"),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
            self.moments[name] = moments
            self._adamw.state[self._shards[name]] = {key: local(value) for key, value in moments.items()}

    def step(self, losses: Sequence[Callable[[], Tensor]], clip_norm: float) -> Tensor:
        """As of `Update.step`, without a host sync. Gradients are summed over the ranks after the last loss."""
        for parameter in self._parameters.values():
            parameter.grad = None
        for number, loss in enumerate(losses):
            for root in self._roots:
                _synchronise_gradients(root, number == len(losses) - 1)
            loss().backward()
        if len(losses) > 1:
            self._check_summed()
        norm = full(nn.utils.clip_grad_norm_(self._parameters.values(), clip_norm))
        self._step(norm.isfinite())
        return norm

    def _check_summed(self) -> None:
        for root in self._roots:
            trained = [parameter for parameter in root.parameters() if parameter.requires_grad]
            if trained and all(parameter.grad is None for parameter in trained):
                name = type(root).__name__
                raise RuntimeError(f"{name} was not evaluated in the last micro-batch: its gradients are not summed")

    def _step(self, finite: Tensor) -> None:
        for name, shard in self._shards.items():
            gradient = self._parameters[name].grad
            shard.grad = None if gradient is None else local(gradient)
        if self._fused:
            self._adamw.found_inf = (~finite).to(torch.float32)  # type: ignore[attr-defined]
            self._adamw.step()
        elif finite:  # a host sync: torch's AdamW for other devices cannot skip a step by itself
            self._adamw.step()
        for shard in self._shards.values():
            shard.grad = None

    def group_norms(self) -> Tensor:
        """As of `Update.group_norms`; after clipping."""
        of_groups = [[p.grad for p in group if p.grad is not None] for group in self._grouped]
        return torch.stack([full(nn.utils.get_total_norm(gradients)) for gradients in of_groups])

    def gradient_bytes(self) -> int:
        """As of `Update.gradient_bytes`."""
        return sum(local(p.grad).nbytes for p in self._parameters.values() if p.grad is not None)

    def written(self) -> None:
        """Nothing to do: what was written is what is gathered."""


def _synchronise_gradients(module: nn.Module, on: bool) -> None:
    """Whether the next backward pass sums gradients over the ranks, or only adds them up on each."""
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(on)
