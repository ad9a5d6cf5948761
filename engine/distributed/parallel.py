"""One process or many: the process group, the mesh of its ranks, and the few collectives that a training loop needs."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import timedelta
from types import TracebackType
from typing import Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from phys4d.engine import environment
from phys4d.engine.denormals import flush_denormals
from phys4d.engine.distributed.collectives import full, leave_group, on_all_ranks
from phys4d.engine.distributed.meeting import meet
from phys4d.engine.distributed.mesh import MeshShape, ParallelConfig, mesh_shape
from phys4d.engine.distributed.strategy import Strategy, strategy
from phys4d.engine.distributed.watchdog import MEETING, Timeouts, Watchdog
from phys4d.engine.errors import RankLost, Stopped, UserError
from phys4d.engine.signals import deferred

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)

_UNLIMITED = timedelta(days=365)


class Parallel:
    """Rank, world size, device and mesh of this process; a context manager, which closes it.

    rank, world_size: of this process; 0 of 1 without torchrun.
    device: of this rank.
    waiting: gloo group of all ranks without a time limit, for work whose duration differs between ranks.
    saving: another one, for the thread that writes checkpoints.
    watchdog: ends all ranks if one hangs or is gone; None for one process.

    Attributes:
        config: the table [parallel]. shape: sizes of the mesh.
        data_rank, data_size: which part of a global batch is this rank's; equal within a context group.
        context: the ranks that divide the tokens of this rank's clips; None where each rank holds all of them.
        share: weight, in a sum over all ranks, of a mean over this rank's clips: 1 / world_size.
        strategy: how weights, gradients and optimizer state are divided.
    """

    def __init__(
        self,
        rank: int,
        world_size: int,
        device: torch.device,
        waiting: dist.ProcessGroup | None = None,
        saving: dist.ProcessGroup | None = None,
        watchdog: Watchdog | None = None,
    ) -> None:
        self.rank, self.world_size, self.device = rank, world_size, device
        self.saving = saving
        self._waiting, self._watchdog = waiting, watchdog
        self.timeouts = Timeouts() if watchdog is None else watchdog.timeouts
        self.config = ParallelConfig()
        self.shape = MeshShape(shard=world_size)
        self.context: dist.ProcessGroup | None = None
        self._weights: DeviceMesh | None = None
        self.strategy: Strategy = strategy(self.config, None, device)

    @classmethod
    def alone(cls, device: torch.device | None = None) -> Self:
        """One process without a process group; device: default the CPU."""
        return cls(0, 1, device or torch.device("cpu"))

    @classmethod
    def start(cls, timeouts: Timeouts | None = None) -> Self:
        """Joins the processes that torchrun started (RANK, WORLD_SIZE, LOCAL_RANK); without torchrun, one process
        alone.

        Subnormal numbers are zero until it is closed (`flush_denormals`).
        Each process uses the accelerator of its local rank (CUDA, or another device type that torch supports) and
        torch's communication backend for it; without accelerators, the CPU and gloo. One process alone has no process
        group.

        timeouts: time limits of what the ranks do together; default: those of `Timeouts`.

        Raises UserError if the environment does not say which rank this is and where the ranks meet, or if they have
        not met after ten minutes.
        """
        flush_denormals()
        rank, world_size, local_rank = environment.place()
        device = own_device(rank, local_rank)
        if world_size == 1:
            return cls.alone(device)
        environment.check_meeting_point()
        backend = "gloo"
        if device.type != "cpu":
            backend = f"cpu:gloo,{device.type}:{dist.get_default_backend_for_device(device)}"
        try:
            store, *_ = next(dist.rendezvous("env://", rank, world_size, timeout=timedelta(seconds=MEETING)))
            start = meet(store, rank, world_size, MEETING)
        except (dist.DistError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"rank {rank}: {world_size} processes did not meet within {MEETING:.0f} s ({reason}): start all of "
                "them, or correct WORLD_SIZE, MASTER_ADDR and MASTER_PORT"
            ) from None

        # Its limits replace those of torch, which end a process with an abort or a traceback.
        watchdog = Watchdog(rank, world_size, timeouts or Timeouts(), start)
        store = dist.PrefixStore(f"{start}/default_pg", store)
        with watchdog.at("connecting the ranks (over the network interface GLOO_SOCKET_IFNAME)", MEETING):
            dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=_UNLIMITED)
        waiting, saving = (dist.new_group(backend="gloo", timeout=_UNLIMITED) for _ in range(2))
        parallel = cls(rank, world_size, device, waiting, saving, watchdog)
        parallel.arrange(ParallelConfig())
        return parallel

    def arrange(self, config: ParallelConfig) -> None:
        """Makes the mesh that a run file asks for; a collective. Raises UserError unless it has world_size ranks."""
        shape = mesh_shape(config, self.world_size)
        arranged = self._weights is not None and shape == self.shape
        self.config, self.shape = config, shape
        if self.world_size > 1 and not arranged:
            self._make_mesh(shape)
        self.strategy = strategy(config, self._weights, self.device)

    def _make_mesh(self, shape: MeshShape) -> None:
        kind, sharded = self.device.type, shape.shard * shape.context
        if shape.replicate > 1:
            self._weights = init_device_mesh(kind, (shape.replicate, sharded), mesh_dim_names=("replicate", "weights"))
        else:
            self._weights = init_device_mesh(kind, (sharded,), mesh_dim_names=("weights",))
        self.context = None
        if shape.context > 1:
            groups = init_device_mesh(kind, (shape.data, shape.context), mesh_dim_names=("data", "context"))
            self.context = groups["context"].get_group()

    @property
    def data_rank(self) -> int:
        """Which part of a global batch is this rank's."""
        return self.rank // self.shape.context

    @property
    def data_size(self) -> int:
        """Number of parts of a global batch."""
        return self.shape.data

    @property
    def share(self) -> float:
        """Weight, in a sum over all ranks, of a mean over this rank's clips, which its context group shares."""
        return 1 / self.world_size

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
        """Divides a module's parameters over the ranks as the strategy does; one process alone leaves it as it is.

        Gradients are sums over the ranks. Only `module(...)` gathers weights; calling other methods does not.

        module: all ranks must hold equal weights, or none (on meta).
        blocks: submodules that are gathered one at a time (transformer blocks); the rest is gathered with the root.
        """
        self.strategy.shard(module, blocks)
        return module

    def gathered(self, module: nn.Module) -> AbstractContextManager[None]:
        """Context in which a module's weights stay gathered between evaluations without gradients, if they fit."""
        return self.strategy.gathered(module)

    def local(self, batch: Sequence[T]) -> Sequence[T]:
        """This rank's contiguous part of a global batch. Raises UserError if the batch does not divide evenly."""
        if len(batch) % self.data_size:
            raise UserError(
                f"a global batch of {len(batch)} does not divide over {self.data_size} processes: "
                f"choose a multiple of {self.data_size}, or fewer processes"
            )
        size = len(batch) // self.data_size
        return batch[self.data_rank * size : (self.data_rank + 1) * size]

    def sums(self, rows: Sequence[Mapping[str, float | Tensor]]) -> list[dict[str, float]]:
        """Sums over the ranks of scalars, in rows of equal names, by one all-reduce and one host sync."""
        if not rows or not rows[0]:
            return [{} for _ in rows]
        names = sorted(rows[0])
        scalars = [torch.as_tensor(row[name], dtype=torch.float64) for row in rows for name in names]
        stacked = torch.stack([full(scalar.detach()).to(self.device).reshape(()) for scalar in scalars])
        if self.world_size > 1:
            dist.all_reduce(stacked)
        values = stacked.view(len(rows), len(names)).tolist()
        return [dict(zip(names, row, strict=True)) for row in values]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank; a collective on the host, which does not wait for the GPU."""
        if self.world_size == 1:
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
        if self.world_size == 1:
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
        flush_denormals(False)
        if self._watchdog is not None:
            self._watchdog.stop()
        if self._weights is not None:
            leave_group()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes; raises RankLost in place of the error of a collective whose peer is gone, also if a signal comes."""
        lost = None
        if error is not None and self._watchdog is not None:
            with suppress(Stopped), deferred():  # torchrun sends SIGTERM when a node is gone
                lost = self._watchdog.lost(error)
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
