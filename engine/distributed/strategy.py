"""What a strategy is: how weights, gradients and optimizer state are divided over the ranks, and gathered."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from phys4d.engine.distributed.mesh import DEEPSPEED, ParallelConfig
from phys4d.engine.distributed.sharded_update import Groups
from phys4d.engine.distributed.sharding import FullySharded
from phys4d.engine.errors import UserError

Loss = Callable[[], Tensor]
"""Evaluates a part of a step's clips: a scalar, the part's share of a loss that is a sum over all parts and ranks."""


class Update(Protocol):
    """AdamW over what this rank holds of the trained weights.

    weights: by name; a whole tensor, a DTensor, or a FlatPart. moments: step, exp_avg and exp_avg_sq by name.
    stepped: what this rank steps, by name, as plain tensors, possibly in the host's memory.
    """

    @property
    def weights(self) -> Mapping[str, Tensor]: ...

    @property
    def moments(self) -> Mapping[str, Mapping[str, Tensor]]: ...

    @property
    def stepped(self) -> Mapping[str, Tensor]: ...

    def set_rate(self, rate: float) -> None:
        """Sets the learning rate of the groups, each times its scale."""

    def step(self, losses: Sequence[Loss], clip_norm: float) -> Tensor:
        """Backward pass of each loss in turn, clipping and AdamW; returns the norm of all gradients before clipping.

        Gradients are sums over the losses and the ranks. Nothing changes if their norm is not finite.
        """

    def group_norms(self) -> Tensor:
        """[groups], L2 norms of the latest gradients over all ranks, up to one factor; a collective."""

    def gradient_bytes(self) -> int:
        """Bytes that this rank holds of gradients between two steps."""

    def written(self) -> None:
        """Has every rank see the weights after `weights` were written to; a collective."""


class Strategy(Protocol):
    """Divides modules over the ranks; one object for all modules of a run."""

    def shard(self, module: nn.Module, blocks: Sequence[nn.Module]) -> None:
        """Divides the parameters of a module, as of `Parallel.shard`."""

    def holds(self, parameter: nn.Parameter) -> bool:
        """Whether the gradients of a parameter are summed over the ranks."""

    def gathered(self, module: nn.Module) -> AbstractContextManager[None]:
        """As of `Parallel.gathered`."""

    def update(
        self, modules: Sequence[nn.Module], named: Mapping[str, nn.Parameter], groups: Groups, adam: Callable[..., Any],
        betas: tuple[float, float], weight_decay: float,
    ) -> Update:  # fmt: skip
        """AdamW over parameters of modules that were divided.

        named: the trained parameters. groups: [{"params": names, "lr_scale": float}, ...]. adam: a class of
        `training.adam`. betas, weight_decay: of AdamW.
        """


def strategy(config: ParallelConfig, mesh: DeviceMesh | None, device: torch.device) -> Strategy:
    """The strategy that a run file asks for; one process alone (no mesh) divides nothing.

    config: the table [parallel]. mesh: of the ranks that share weights. device: of this rank.
    """
    if mesh is not None and config.strategy == DEEPSPEED:
        from phys4d.engine.distributed.zero import Zero

        return Zero(config.zero_stage or 3, device)
    return FullySharded(mesh, device, config.reshard_after_forward)


def check_strategy(config: ParallelConfig) -> None:
    """Raises UserError if the package of the strategy is absent."""
    if config.strategy == DEEPSPEED and importlib.util.find_spec("deepspeed") is None:
        raise UserError(
            'parallel.strategy: "deepspeed" needs the package deepspeed, which is not installed: '
            'pip install "phys4d[deepspeed]", or set "fsdp"'
        )
