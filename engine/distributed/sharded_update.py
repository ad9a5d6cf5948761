"""An update of this rank's rows of the weights (FSDP2), or of whole weights by one process."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from phys4d.engine.distributed.collectives import full, local

Groups = Sequence[Mapping[str, Any]]
"""[{"params": names of parameters, "lr_scale": float}, ...]"""


class ShardedUpdate:
    """See `strategy.Update`.

    modules, named, groups: as of `strategy.Strategy.update`. adam: steps, as `training.adam.Adam`.
    """

    def __init__(
        self, modules: Sequence[nn.Module], named: Mapping[str, nn.Parameter], groups: Groups, adam: Any
    ) -> None:
        self._roots, self._parameters, self.adam = modules, named, adam
        self._grouped = [[named[name] for name in group["params"]] for group in groups]
        self.weights = {name: value.detach() for name, value in named.items()}
        self.moments: dict[str, dict[str, Tensor]] = adam.moments
        self.stepped: dict[str, Tensor] = adam.weights

    def set_rate(self, rate: float) -> None:
        """As of `Update.set_rate`."""
        self.adam.set_rate(rate)

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
        gradients = {name: value.grad for name, value in self._parameters.items()}
        self.adam.step({n: None if g is None else local(g) for n, g in gradients.items()}, norm.isfinite())
        return norm

    def _check_summed(self) -> None:
        for root in self._roots:
            if keeps_gradients(root):
                name = type(root).__name__
                raise RuntimeError(f"{name} was not evaluated in the last micro-batch: its gradients are not summed")

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


def keeps_gradients(module: nn.Module) -> bool:
    """Whether this rank still holds gradients of gathered weights, which have not been summed over the ranks."""
    for part in module.modules():
        group = part._get_fsdp_state()._fsdp_param_group if isinstance(part, FSDPModule) else None  # no public way
        for one in () if group is None else group.fsdp_params:
            gathered = getattr(one, "_unsharded_param", None)  # made when the weights are first gathered
            if one.unsharded_accumulated_grad is not None or (gathered is not None and gathered.grad is not None):
                return True
    return False
