"""What a step costs: rates, FLOPs and how far they are from the device's peak, waits for data, memory by kind.

Nothing here waits for the device between log lines.
"""

import math
import resource
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from phys4d.engine.distributed.collectives import local, on_all_ranks
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.run_folder.run import Run
from phys4d.engine.training.flops import FlopCount, device_peak
from phys4d.engine.training.optimizer import Optimizer
from phys4d.engine.training.sample_order import SampleOrder, Uncounted

GIB = 1 << 30


class Wait:
    """Seconds that a thread of this process has waited, for data for example; a context that adds its duration."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._since: float

    def __enter__(self) -> None:
        self._since = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self.seconds += time.perf_counter() - self._since


@dataclass(frozen=True)
class Workload:
    """What a step of a stage works on.

    amounts: how much the steps of this session have worked on so far, over all ranks, by name: {"clips": 8, "tokens":
        65536} after the first; logged per second.
    waited: of this rank, for data.
    model: the module whose parameters take memory; None: the modules of the objective.
    order: of the samples.
    """

    amounts: Callable[[], Mapping[str, float]] = dict
    waited: Wait = field(default_factory=Wait)
    model: nn.Module | None = None
    order: SampleOrder = field(default_factory=Uncounted)


class Telemetry:
    """Measures the steps of one stage in this session.

    FLOPs are counted once for each kind of step (`SampleOrder.kind`), from the second step of the session on (the only
    one, if there is one), in the first of its kind that is not profiled: the first step may do work that later ones do
    not. Such a step takes longer by the host's work of counting.

    stage: name of the stage.
    state: the optimizer, for what a checkpoint holds and the gradients of each group.
    modules: with trained parameters.
    groups: of parameters, as an objective gives them; those of one name count together.
    workload: what a step works on.
    run: run folder, of whose provenance.json the FLOPs become a part.
    parallel: ranks and device.
    steps: number of steps of this session.
    """

    def __init__(
        self,
        stage: str,
        state: Optimizer,
        modules: Iterable[nn.Module],
        groups: Sequence[Mapping[str, Any]],
        workload: Workload,
        run: Run,
        parallel: Parallel,
        steps: int,
    ) -> None:
        self._stage, self._run, self._parallel, self._workload = stage, run, parallel, workload
        self._state = state
        self._modules = list(modules) if workload.model is None else [workload.model]
        names = [group.get("name", str(i)) for i, group in enumerate(groups)]
        self._groups = list(dict.fromkeys(names))
        self._group_of = torch.tensor([self._groups.index(name) for name in names])  # of each group of parameters
        self._norms: list[Tensor] = []  # [groups] of each optimizer step since the last line
        self._before_count = min(1, steps - 1)  # steps
        self._counts: dict[Hashable, FlopCount] = {}  # by kind of step
        self._since: list[Hashable] = []  # kinds of the steps since the last line
        self._peak = device_peak(parallel.device)
        self._flops: dict[Hashable, dict[str, float]] = {}  # means over the ranks
        self._amounts = dict(workload.amounts())
        self._kept: dict[str, int] = {}  # bytes of what has one size throughout the stage
        self._waited = workload.waited.seconds

    def step(self, step: int, *, profiled: bool) -> AbstractContextManager[None]:
        """Context of the next step; step: its number, from 0; profiled: whether its time is recorded."""
        self._before_count -= 1
        self._since.append(kind := self._workload.order.kind(step))
        counts = self._before_count < 0 and kind not in self._counts and not profiled
        return self._counting(kind) if counts else nullcontext()

    @contextmanager
    def _counting(self, kind: Hashable) -> Iterator[None]:
        with FlopCount() as count:
            yield
        self._counts[kind] = count

    def noting(self, optimizer_step: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """`optimizer_step`, behind which the gradient norm of each group is noted, without a host sync.

        optimizer_step: returns the norm of all gradients before clipping.
        """

        def noted(*arguments: Any) -> Tensor:
            norm = optimizer_step(*arguments)
            self._norms.append(norm.reshape(1) if len(self._groups) == 1 else self._group_norms(norm))
            return norm

        return noted

    def _group_norms(self, norm: Tensor) -> Tensor:
        """Norms of the gradients by the name of their group [names], scaled so that together they are `norm`."""
        squares = self._state.update.group_norms().to(norm).square()
        parts = squares.new_zeros(len(self._groups)).index_add_(0, self._group_of.to(squares.device), squares)
        return parts.sqrt() * (norm / squares.sum().sqrt().clamp_min(torch.finfo(squares.dtype).tiny))

    def measured(self, seconds: float, steps: int) -> dict[str, float]:
        """What is logged of the steps since the previous call; a collective.

        seconds: of one step.
        steps: since the previous call.
        """
        amounts, earlier = dict(self._workload.amounts()), self._amounts
        found = {f"speed.{name}": (total - earlier.get(name, 0)) / (steps * seconds) for name, total in amounts.items()}
        waited = self._workload.waited.seconds
        own = {"loader.seconds": (waited - self._waited) / steps}
        self._waited, self._amounts = waited, amounts
        new = [kind for kind in self._counts if kind not in self._flops]
        for i, kind in enumerate(new):
            own |= {f"model {i}": float(self._counts[kind].model), f"hardware {i}": float(self._counts[kind].hardware)}
        means = {name: total / self._parallel.world_size for name, total in _reduced(own, dist.ReduceOp.SUM).items()}
        found |= {"loader.seconds": means["loader.seconds"], "loader.share": means["loader.seconds"] / seconds}
        for i, kind in enumerate(new):
            self._flops[kind] = {name: means[f"{name} {i}"] for name in ("model", "hardware")}
        if new:
            on_all_ranks(self._record)
        kinds, self._since = self._since, []
        if kinds and all(kind in self._flops for kind in kinds):
            found |= self._achieved(kinds, seconds)
        return found | self._gradient_norms() | self._memory()

    def _gradient_norms(self) -> dict[str, float]:
        """Means over the optimizer steps whose gradients were finite."""
        norms = torch.stack(self._norms).tolist() if self._norms else []
        self._norms = []
        of_groups = ([n for n in row if math.isfinite(n)] for row in zip(*norms, strict=True))
        means = [sum(finite) / len(finite) if finite else math.nan for finite in of_groups]
        return {f"grad_norm.{name}": mean for name, mean in zip(self._groups, means, strict=False)}

    def _achieved(self, kinds: Sequence[Hashable], seconds: float) -> dict[str, float]:
        """Rates over steps of these kinds, of so many seconds each."""
        flops = {name: sum(self._flops[kind][name] for kind in kinds) / len(kinds) for name in ("model", "hardware")}
        rates = {name: mean / seconds / 1e12 for name, mean in flops.items()}
        found = {"speed.tflops": rates["model"]}
        if self._peak.tflops is not None:
            found |= {"speed.mfu": rates["model"] / self._peak.tflops}
            found |= {"speed.hfu": rates["hardware"] / self._peak.tflops}
        return found

    def _record(self) -> None:
        """FLOPs of a step, the most of all kinds of steps, and the peak or why there is none, into provenance.json."""
        counted = self._run.recorded("flops_per_step_and_rank") or {}
        most = max(self._flops.values(), key=lambda flops: flops["hardware"])
        peak = {"bf16_tflops": self._peak.tflops, "reason": self._peak.reason}
        self._run.record(flops_per_step_and_rank=counted | {self._stage: most}, peak=peak)

    def _memory(self) -> dict[str, float]:
        """GiB by kind, the largest over the ranks."""
        if not self._kept:
            state = self._state.state()
            weights = (t for module in self._modules for t in (*module.parameters(), *module.buffers()))
            self._kept = {
                "parameters": _size(weights),
                "moments": _size(t for name, t in state.items() if name.startswith("optimizer.")),
                "ema": _size(t for name, t in state.items() if name.startswith("ema.")),
            }
        kinds = self._kept | {"gradients": self._state.update.gradient_bytes()}
        if (peak := _peak_memory(self._parallel.device)) is not None:
            kinds["peak"] = peak
        sizes = {f"memory.{name}": size / GIB for name, size in kinds.items()}
        return _reduced(sizes, dist.ReduceOp.MAX)


def _reduced(values: Mapping[str, float], op: Any) -> dict[str, float]:
    """The values of all ranks, which must have the same names, reduced on the host."""
    reduced = torch.tensor(list(values.values()), dtype=torch.float64)
    if dist.is_initialized():
        dist.all_reduce(reduced, op=op)
    return dict(zip(values, reduced.tolist(), strict=True))


def _size(tensors: Iterable[Tensor]) -> int:
    """Bytes of what this rank holds of the tensors, each counted once."""
    return sum({id(tensor): local(tensor).nbytes for tensor in tensors}.values())


def _peak_memory(device: torch.device) -> int | None:
    """Most bytes that tensors took on an accelerator since the process began, None where its allocator does not count
    them; on the CPU, all that was resident."""
    if device.type == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        return int(torch.accelerator.max_memory_allocated(device))
    except RuntimeError:  # of a device type whose allocator is no DeviceAllocator
        return None
