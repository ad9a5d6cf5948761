"""One process or many: process group, FSDP2 sharding, and the few collectives that a training loop needs."""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from types import TracebackType
from typing import Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from phys4d.engine import signals
from phys4d.engine.distributed import environment
from phys4d.engine.distributed.watchdog import MEETING, Timeouts, Watchdog
from phys4d.engine.errors import FaultElsewhere, RankLost, UserError

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)

_REST = 0.5  # seconds: long enough for a runnable thread to be scheduled, even on a loaded machine
_UNLIMITED = timedelta(days=365)
# What a transformer returns is often a view; the warning is for callers that would write into it.
warnings.filterwarnings("ignore", r"FSDP2-wrapped module \(.*\) returned a view tensor")
_POLL = 0.02  # seconds between two checks of a collective that may take hours


class Parallel:
    """Rank, world size, device and device mesh of this process; a context manager, which closes it.

    rank, world_size: of this process; 0 of 1 without torchrun.
    device: of this rank.
    mesh: device mesh over all ranks; None for one process.
    waiting: gloo group of all ranks without a time limit, for work whose duration differs between ranks.
    watchdog: ends all ranks if one hangs or is gone; None for one process.
    """

    def __init__(
        self,
        rank: int,
        world_size: int,
        device: torch.device,
        mesh: DeviceMesh | None,
        waiting: dist.ProcessGroup | None = None,
        watchdog: Watchdog | None = None,
    ) -> None:
        self.rank, self.world_size, self.device, self.mesh = rank, world_size, device, mesh
        self._waiting, self._watchdog = waiting, watchdog
        self.timeouts = Timeouts() if watchdog is None else watchdog.timeouts

    @classmethod
    def start(cls, timeouts: Timeouts | None = None) -> Self:
        """Joins the processes that torchrun started (RANK, WORLD_SIZE, LOCAL_RANK); without torchrun, one process
        alone.

        Each process uses the accelerator of its local rank (CUDA, or another device type that torch supports) and
        torch's communication backend for it; without accelerators, the CPU and gloo. One process alone has no process
        group.

        timeouts: time limits of what the ranks do together; default: those of `Timeouts`.

        Raises UserError if the environment does not say which rank this is and where the ranks meet, or if they have
        not met after ten minutes.
        """
        rank, world_size, local_rank = environment.place()
        device = own_device(rank, local_rank)
        if world_size == 1:
            return cls(0, 1, device, None)
        environment.check_meeting_point()
        backend = "gloo"
        if device.type != "cpu":
            backend = f"cpu:gloo,{device.type}:{dist.get_default_backend_for_device(device)}"
        try:
            store, *_ = next(dist.rendezvous("env://", rank, world_size, timeout=timedelta(seconds=MEETING)))
        except (dist.DistError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"rank {rank}: {world_size} processes did not meet within {MEETING:.0f} s ({reason}): start all of "
                "them, or correct WORLD_SIZE, MASTER_ADDR and MASTER_PORT"
            ) from None

        # Its limits replace those of torch, which end a process with an abort or a traceback.
        watchdog = Watchdog(rank, world_size, timeouts or Timeouts(), signals.end_now)
        store = dist.PrefixStore("default_pg", store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=_UNLIMITED)
        mesh = init_device_mesh(device.type, (world_size,), mesh_dim_names=("data",))
        return cls(rank, world_size, device, mesh, dist.new_group(backend="gloo", timeout=_UNLIMITED), watchdog)

    def limit(self, timeouts: Timeouts) -> None:
        """Time limits from here on."""
        self.timeouts = timeouts
        if self._watchdog is not None:
            self._watchdog.timeouts = timeouts

    def at(self, what: str, limit: float | None = None) -> AbstractContextManager[None]:
        """Context in which this rank is at `what`, as a line about a rank that hangs calls it.

        limit: seconds between two points at which the ranks meet (`passed`); default: `timeouts.other`.
        """
        limit = self.timeouts.other if limit is None else limit
        return nullcontext() if self._watchdog is None else self._watchdog.at(what, limit)

    def passed(self) -> None:
        """Notes for the watchdog that this rank goes on; for long work within one `at`."""
        if self._watchdog is not None:
            self._watchdog.passed()

    def shard(self, module: M, blocks: Sequence[nn.Module] = ()) -> M:
        """Moves a module to the device and, with several processes, shards its parameters (FSDP2).

        Parameters and compute keep their dtype: without mixed precision no input is cast, so timesteps, sigmas and RoPE
            tables are never rounded. Frozen and trained parameters may be mixed. Only `module(...)` gathers weights;
            calling other methods does not.

        module: all ranks must hold equal weights.
        blocks: submodules that are gathered one at a time (transformer blocks); the rest is gathered with the root.
        """
        module.to(self.device)
        if self.mesh is not None:
            for block in blocks:
                fully_shard(block, mesh=self.mesh)
            fully_shard(module, mesh=self.mesh)
        return module

    def local(self, batch: Sequence[T]) -> Sequence[T]:
        """This rank's contiguous part of a global batch. Raises UserError if the batch does not divide evenly."""
        if len(batch) % self.world_size:
            raise UserError(
                f"a global batch of {len(batch)} does not divide over {self.world_size} processes: "
                f"choose a multiple of {self.world_size}, or fewer processes"
            )
        size = len(batch) // self.world_size
        return batch[self.rank * size : (self.rank + 1) * size]

    def mean(self, values: Mapping[str, float | Tensor]) -> dict[str, float]:
        """Means of scalars over the ranks, by one all-reduce and one host sync; all ranks must pass the same names."""
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
        """Whether the flag is set on any rank; a collective on the host, which does not wait for the GPU."""
        if self.mesh is None:
            return flag
        flags = torch.tensor([float(flag)])
        self.passed()
        dist.all_reduce(flags)
        self.passed()
        return bool(flags.item() > 0)

    def on_rank_zero(self, action: Callable[[], T]) -> T | None:
        """Returns `action()` on rank 0 and None on the other ranks, which wait for it without a time limit.

        For work of minutes or hours: evaluation, export, the report. Errors as in `on_all_ranks`.
        """
        with self._unlimited("the work of rank 0"):
            return on_all_ranks(lambda: action() if self.rank == 0 else None, self._waiting)

    def gather(self, value: T) -> list[T] | None:
        """The values of all ranks in rank order on rank 0, None on the others; any picklable object.

        Waits without a time limit for late ranks.
        """
        if self.mesh is None:
            return [value]
        with self._unlimited("waiting for the results of other ranks"):
            on_all_ranks(lambda: None, self._waiting)
            gathered: list[T] | None = [value] * self.world_size if self.rank == 0 else None
            dist.gather_object(value, gathered, group=self._waiting)
        return gathered

    def _unlimited(self, what: str) -> AbstractContextManager[None]:
        return nullcontext() if self._watchdog is None else self._watchdog.at(what, None)

    def close(self) -> None:
        """Ends the watch and leaves the process group."""
        if self._watchdog is not None:
            self._watchdog.stop()
        if self.mesh is not None:
            leave_group()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes; raises RankLost in place of the error of a collective whose peer is gone."""
        lost = None if error is None or self._watchdog is None else self._watchdog.lost(error)
        self.close()
        if lost is not None:
            raise RankLost(lost) from error


def own_device(rank: int, local_rank: int) -> torch.device:
    """The accelerator of this local rank, made current, or the CPU. Raises UserError if there are too few accelerators.
    """
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
    """Destroys torch's process group and waits for gloo's threads; not a collective.

    A gloo thread releases the tensors of its last collective asynchronously and needs the Python interpreter for that.
    If the interpreter is already shutting down, the process aborts (torch 2.13: "terminate called without an active
    exception"), after all work is done. torch has no function to wait for these threads.
    """
    dist.destroy_process_group()
    time.sleep(_REST)


def on_all_ranks(action: Callable[[], T], waiting: dist.ProcessGroup | None = None) -> T:
    """Returns `action()`, unless it raises UserError or OSError on any rank: then every rank raises.

    The lowest of the failing ranks raises its own error, all others FaultElsewhere, so that one line is printed and no
    rank waits for one that has exited. A collective on the host.

    action: called on every rank.
    waiting: group without a time limit, in which signals are handled while this rank waits; default: the process group,
        within its time limit.
    """
    fault: UserError | OSError | None = None
    try:
        result = action()
    except (UserError, OSError) as error:
        fault = error
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    reporting = fault.rank if isinstance(fault, FaultElsewhere) else rank
    first = torch.tensor([world_size if fault is None else reporting])
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
    """The part of a tensor that this rank holds, sharing memory; the tensor itself unless it is sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def full(tensor: Tensor) -> Tensor:
    """The whole tensor, gathered from all ranks if it is sharded (then a collective)."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
