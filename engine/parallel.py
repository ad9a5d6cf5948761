"""One process or many: process group, FSDP2 sharding, and the few collectives that a training loop needs."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from phys4d.engine.errors import FaultElsewhere, UserError

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)

_REST = 0.5  # seconds in which a thread that could run does run, on a machine however loaded
_UNLIMITED = timedelta(days=365)
_POLL = 0.02  # seconds between two looks at a collective that may take hours


class Parallel:
    """This process's place among all: rank, world_size, device, and mesh (None when alone).

    waiting: a gloo group of all ranks without a time limit, for work whose duration differs between ranks.
    """

    def __init__(
        self,
        rank: int,
        world_size: int,
        device: torch.device,
        mesh: DeviceMesh | None,
        waiting: dist.ProcessGroup | None = None,
    ) -> None:
        self.rank, self.world_size, self.device, self.mesh = rank, world_size, device, mesh
        self._waiting = waiting

    @classmethod
    def start(cls, timeout: timedelta | None = None) -> Self:
        """Joins the processes that torchrun started (RANK, WORLD_SIZE, LOCAL_RANK), or stands alone.

        With accelerators (CUDA, or another device type that torch knows) each process takes that of its local rank, and
        collectives run over the backend that torch has for it; without, over gloo on the CPU. Alone there is no process
        group at all. timeout: of a collective within a step; default: torch's.
        """
        rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        device = _own_device(rank, int(os.environ.get("LOCAL_RANK", "0")))
        if world_size == 1:
            return cls(0, 1, device, None)
        backend = "gloo"
        if device.type != "cpu":
            backend = f"cpu:gloo,{device.type}:{dist.get_default_backend_for_device(device)}"
        dist.init_process_group(backend, timeout=timeout)
        mesh = init_device_mesh(device.type, (world_size,), mesh_dim_names=("data",))
        return cls(rank, world_size, device, mesh, dist.new_group(backend="gloo", timeout=_UNLIMITED))

    def shard(self, module: M, blocks: Sequence[nn.Module] = ()) -> M:
        """Moves a module to the device and, among several processes, shards its parameters (FSDP2).

        blocks: submodules gathered one at a time (transformer blocks); the rest goes with the root. All
        ranks must hold equal weights before. Parameters and compute stay in the dtype they have: without
        mixed precision no input is cast, so timesteps, sigmas and RoPE tables are never rounded. Frozen and
        trained parameters may mix. Only `module(...)` gathers weights, calling other methods does not.
        """
        module.to(self.device)
        if self.mesh is not None:
            for block in blocks:
                fully_shard(block, mesh=self.mesh)
            fully_shard(module, mesh=self.mesh)
        return module

    def local(self, batch: Sequence[T]) -> Sequence[T]:
        """This rank's contiguous part of a global batch, which must divide evenly (UserError)."""
        if len(batch) % self.world_size:
            raise UserError(
                f"a global batch of {len(batch)} does not divide over {self.world_size} processes: "
                f"choose a multiple of {self.world_size}, or fewer processes"
            )
        size = len(batch) // self.world_size
        return batch[self.rank * size : (self.rank + 1) * size]

    def mean(self, values: Mapping[str, float | Tensor]) -> dict[str, float]:
        """Means of scalars over the ranks, one all-reduce and host sync; every rank gives the same names."""
        if not values:
            return {}
        names = sorted(values)
        scalars = [torch.as_tensor(values[name], dtype=torch.float64) for name in names]
        stacked = torch.stack([full(scalar.detach()).to(self.device).reshape(()) for scalar in scalars])
        if self.mesh is not None:
            dist.all_reduce(stacked)
            stacked /= self.world_size
        return dict(zip(names, stacked.tolist(), strict=True))

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank; a collective on the host that does not wait for the GPU."""
        if self.mesh is None:
            return flag
        flags = torch.tensor([float(flag)])
        dist.all_reduce(flags)
        return bool(flags.item() > 0)

    def on_rank_zero(self, action: Callable[[], T]) -> T | None:
        """The result of `action()` on rank 0 and None on the others, which wait for it without a time limit.

        For what takes minutes or hours: evaluation, export, the report. Errors as in `on_all_ranks`.
        """
        return on_all_ranks(lambda: action() if self.rank == 0 else None, self._waiting)

    def gather(self, value: T) -> list[T] | None:
        """The values of all ranks in their order on rank 0, None on the others; any object that pickle takes.

        Waits without a time limit for ranks that come late.
        """
        if self.mesh is None:
            return [value]
        on_all_ranks(lambda: None, self._waiting)
        gathered: list[T] | None = [value] * self.world_size if self.rank == 0 else None
        dist.gather_object(value, gathered, group=self._waiting)
        return gathered

    def close(self) -> None:
        """Leaves the process group."""
        if self.mesh is not None:
            leave_group()


def _own_device(rank: int, local_rank: int) -> torch.device:
    """The accelerator of this local rank, made current, or the CPU; UserError where there are too few."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return torch.device("cpu")
    count = torch.accelerator.device_count()
    if local_rank >= count:
        raise UserError(
            f"rank {rank}: no device for local rank {local_rank}, this machine has {count} of type {accelerator.type}: "
            "lower --nproc-per-node"
        )
    torch.accelerator.set_device_index(local_rank)
    return torch.device(accelerator.type, local_rank)


def leave_group() -> None:
    """Leaves torch's process group, and lets gloo's threads come to rest; not a collective.

    A thread of gloo drops the tensors of the collective that it ran last whenever the system next lets it, and needs
    Python for that. Where Python is already ending, the thread cannot have it and the whole process aborts (torch 2.13:
    "terminate called without an active exception"), after all work was done. torch offers nothing to wait for.
    """
    dist.destroy_process_group()
    time.sleep(_REST)


def on_all_ranks(action: Callable[[], T], waiting: dist.ProcessGroup | None = None) -> T:
    """The result of `action()`, unless it raises UserError or OSError on any rank: then every rank raises.

    Of the ranks at fault the lowest raises its own error, all others FaultElsewhere, so that one line is
    printed and no rank waits for one that has gone. A collective on the host. waiting: a group without a time limit, in
    which signals are acted on while this rank waits; default: the process group, within its time limit.
    """
    fault: UserError | OSError | None = None
    try:
        result = action()
    except (UserError, OSError) as error:
        fault = error
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    first = torch.tensor([world_size if fault is None else rank])
    if waiting is not None:
        work = dist.all_reduce(first, op=dist.ReduceOp.MIN, group=waiting, async_op=True)
        while not work.is_completed():
            time.sleep(_POLL)
        work.wait()
    elif dist.is_initialized():
        dist.all_reduce(first, op=dist.ReduceOp.MIN)
    if first.item() == world_size:
        return result
    if fault is not None and first.item() == rank:
        raise fault
    raise FaultElsewhere(int(first.item()))


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this rank holds (the tensor itself unless it is sharded), sharing memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def full(tensor: Tensor) -> Tensor:
    """The whole of a tensor, gathered from all ranks where it is sharded (then a collective)."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
