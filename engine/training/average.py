"""Averaged weights (EMA), sharded as the weights, on the device or in the host's memory."""

from collections.abc import Mapping

import torch
from torch import Tensor

from phys4d.engine.distributed.collectives import local
from phys4d.engine.training.adam import host_copy, sharded_as


class Average:
    """An exponential moving average of trained weights, begun with their values.

    parameters: by name, sharded or not. on_host: whether it is kept, and computed, in the host's memory; then the host
    waits for the weights of each step.

    The attribute `weights` holds the averages by name, sharded as the parameters.
    """

    def __init__(self, parameters: Mapping[str, Tensor], *, on_host: bool) -> None:
        self._on_host = on_host
        self._pins = next(iter(parameters.values())).device.type == "cuda"
        self._copies: dict[str, Tensor] = {}
        self.weights: dict[str, Tensor] = {}
        for name, value in parameters.items():
            own = local(value.detach())
            self.weights[name] = sharded_as(value, host_copy(own, pin=False) if on_host else own.clone())

    def add(self, shards: Mapping[str, Tensor], decay: float) -> None:
        """Adds the weights of a step, this rank's shards, in place: decay * average + (1 - decay) * weight."""
        averages = [local(self.weights[name]) for name in shards]
        weights = list(shards.values())
        if self._on_host and weights[0].device.type != "cpu":
            weights = self._copied(shards)
        torch._foreach_lerp_(averages, weights, 1.0 - decay)

    def _copied(self, shards: Mapping[str, Tensor]) -> list[Tensor]:
        for name, shard in shards.items():
            if name not in self._copies:
                self._copies[name] = torch.empty_like(shard, device="cpu", pin_memory=self._pins)
            self._copies[name].copy_(shard, non_blocking=True)
        torch.zeros((), device=shard.device).cpu()  # waits for what this stream was given before
        return [self._copies[name] for name in shards]

    def give(self, parameters: Mapping[str, Tensor]) -> None:
        """Replaces the values of the parameters, by name, by their averages."""
        for name, value in self.weights.items():
            local(parameters[name].detach()).copy_(local(value))
