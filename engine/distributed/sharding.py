"""Weights sharded over ranks by FSDP2: what is gathered when, and weights that stay gathered for a while."""

import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from phys4d.engine.distributed.flat import part_of
from phys4d.engine.distributed.sharded_update import Groups, ShardedUpdate

# What a transformer returns is often a view; the warning is for callers that would write into it.
warnings.filterwarnings("ignore", r"FSDP2-wrapped module \(.*\) returned a view tensor")

_TRAINING, _ROLLOUT = 0.1, 0.25  # shares of a device's memory that gathered weights may take


class FullySharded:
    """FSDP2 over a mesh, or HSDP over one of two dimensions; without a mesh every process holds all; see
    `strategy.Strategy`.

    mesh: of the ranks that share weights; device: of this rank; reshard: `parallel.reshard_after_forward`.
    """

    def __init__(self, mesh: DeviceMesh | None, device: torch.device, reshard: str) -> None:
        self._mesh, self._device, self._reshard = mesh, device, reshard

    def shard(self, module: nn.Module, blocks: Sequence[nn.Module]) -> None:
        """As of `shard_weights`."""
        if self._mesh is not None:
            asked = self._reshard
            reshard = not fits_training(module, self._device) if asked == "auto" else asked == "always"
            shard_weights(module, blocks, self._mesh, reshard=reshard)

    def holds(self, parameter: nn.Parameter) -> bool:
        """Whether the parameter is sharded, or there is one process."""
        return self._mesh is None or isinstance(parameter, DTensor)

    def gathered(self, module: nn.Module) -> AbstractContextManager[None]:
        """As of `kept_gathered`."""
        return kept_gathered(module, self._device)

    def update(
        self, modules: Sequence[nn.Module], named: Mapping[str, nn.Parameter], groups: Groups, adam: Callable[..., Any],
        betas: tuple[float, float], weight_decay: float,
    ) -> ShardedUpdate:  # fmt: skip
        """Over this rank's rows."""
        return ShardedUpdate(modules, named, groups, adam(named, groups, betas, weight_decay))


def shard_weights(module: nn.Module, blocks: Sequence[nn.Module], mesh: DeviceMesh, *, reshard: bool) -> None:
    """Shards the parameters of a module over a mesh, each along its first dimension; gradients are summed.

    Nothing is cast: each parameter is gathered in the dtype that it is held in, and inputs stay as they are. Frozen
    weights in bf16 and trained ones in fp32 may be mixed.

    module: on any device, or on meta. blocks: its submodules that are gathered one at a time; the next one is gathered
    while one is computed. mesh: one dimension, or (replicate, shard). reshard: whether a block's gathered weights are
    released after its forward pass.
    """
    for block in blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=reshard)
    fully_shard(module, mesh=mesh, reshard_after_forward=False)
    for block, following in pairwise(blocks):
        assert isinstance(block, FSDPModule) and isinstance(following, FSDPModule)
        block.set_modules_to_forward_prefetch([following])
        following.set_modules_to_backward_prefetch([block])
    for part in sharded_parts(module):
        # Losses are shares of a global sum. torch's own division is by the number of ranks, or on gloo refused.
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)


def sharded_parts(module: nn.Module) -> list[FSDPModule]:
    """The module and its submodules that FSDP gathers on their own."""
    return [part for part in module.modules() if isinstance(part, FSDPModule)]


@contextmanager
def kept_gathered(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Within it, weights stay gathered from one evaluation to the next, if they fit; for evaluations without gradients.

    A rollout evaluates the same weights at each denoising step; without this each would gather them all again. They fit
    if they take at most a quarter of the device's memory.
    """
    parts = sharded_parts(module)
    if not parts or not fits_rollout(module, device):
        yield
        return
    before = [(part, _reshards(part)) for part in parts]
    for part, _ in before:
        part.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for part, reshards in before:
            part.set_reshard_after_forward(reshards, recurse=False)
            part.reshard()


def _reshards(part: FSDPModule) -> bool:
    group = part._get_fsdp_state()._fsdp_param_group  # torch has no public way to ask
    return group is not None and group.post_forward_mesh_info is not None


def fits_training(module: nn.Module, device: torch.device) -> bool:
    """Whether all weights of a module stay gathered from the forward to the backward pass when nothing is asked for."""
    return not gathers_again(gathered_bytes(module), device_memory(device))


def fits_rollout(module: nn.Module, device: torch.device) -> bool:
    """Whether all weights of a module stay gathered between evaluations without gradients."""
    return stays_gathered(gathered_bytes(module), device_memory(device))


def gathers_again(gathered: int, memory: int) -> bool:
    """Whether blocks are gathered again for the backward pass; both in bytes: all weights, and a device's memory."""
    return gathered > kept_for_backward(memory)


def kept_for_backward(memory: int) -> int:
    """Bytes that weights may take which stay gathered from the forward to the backward pass."""
    return int(_TRAINING * memory)


def stays_gathered(gathered: int, memory: int) -> bool:
    """Whether weights stay gathered in rollouts; arguments as of `gathers_again`."""
    return gathered <= _ROLLOUT * memory


def gathered_bytes(module: nn.Module) -> int:
    """Bytes of all parameters of a module, whole, on any device."""
    return sum(math.prod(whole_shape(p)) * p.element_size() for p in module.parameters())


def whole_shape(parameter: Tensor) -> torch.Size:
    """The shape of a parameter before it was divided."""
    part = part_of(parameter)
    return parameter.shape if part is None else part.shape


def device_memory(device: torch.device) -> int:
    """Bytes of a device's memory; of the CPU's, the share of one local process."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return whole // int(os.environ.get("LOCAL_WORLD_SIZE") or 1)


def materialise(module: nn.Module, device: torch.device) -> None:
    """Gives every parameter and buffer of a module memory on the device; those on meta hold no values yet.

    Sharded parameters get memory for this rank's part alone.
    """

    def moved(tensor: Tensor) -> Tensor:
        return torch.empty_like(tensor, device=device) if tensor.is_meta else tensor.to(device)

    module._apply(moved)


def own_elements(parameter: Tensor) -> slice:
    """The elements of a whole parameter, flattened, that this rank holds; all of them unless it is divided."""
    if (part := part_of(parameter)) is not None:
        return slice(part.start, part.start + len(part.own))
    if not isinstance(parameter, DTensor):
        return slice(0, parameter.numel())
    shape, offset = compute_local_shape_and_global_offset(
        parameter.shape, parameter.device_mesh, parameter.placements
    )
    row = math.prod(parameter.shape[1:])
    return slice(offset[0] * row, (offset[0] + shape[0]) * row)
