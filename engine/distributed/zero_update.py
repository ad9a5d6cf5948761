"""The optimizer step under DeepSpeed's ZeRO: its optimizers around torch's AdamW, and what a rank holds of their state.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from phys4d.engine.distributed.flat import FlatPart, part_of
from phys4d.engine.distributed.sharded_update import Groups
from phys4d.engine.distributed.sharding import whole_shape

BUCKET = 50_000_000  # elements of gradients that are reduced, or of weights that are gathered ahead, at once
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class _Place:
    """Where a rank holds a part of a parameter: `count` elements from `at` on in a flattened tensor, the first of which
    is element `start` of the parameter. flat: number of the flattened tensor."""

    flat: int
    at: int
    count: int
    start: int

    def part(self, flat: Tensor, shape: torch.Size) -> FlatPart:
        return FlatPart(flat.detach()[self.at : self.at + self.count], self.start, shape)


class ZeroUpdate(ABC):
    """See `strategy.Update`; parameters as of `strategy.Strategy.update`."""

    def __init__(
        self, modules: Sequence[nn.Module], named: Mapping[str, nn.Parameter], groups: Groups,
        betas: tuple[float, float], weight_decay: float,
    ) -> None:  # fmt: skip
        from deepspeed import comm
        from deepspeed.utils.timer import NoopTimer

        self._device = next(iter(named.values())).device
        self._squares = torch.zeros(len(groups), device=self._device)
        given = [{**group, "params": [named[name] for name in group["params"]]} for group in groups]
        self._adamw = torch.optim.AdamW(given, betas=betas, weight_decay=weight_decay)
        self._zero = self._wrapped(
            modules,
            param_names={parameter: name for name, parameter in named.items()},
            timers=NoopTimer(),
            reduce_bucket_size=min(BUCKET, sum(math.prod(whole_shape(p)) for p in named.values())),
            dp_process_group=comm.get_world_group(),
            communication_data_type=torch.float32,
        )
        flats = self._flats()
        for flat in flats:  # before the first step: every checkpoint has the same names
            moments = {key: torch.zeros_like(flat.detach()) for key in _MOMENTS}
            self._adamw.state[flat] = {"step": torch.zeros((), dtype=torch.float32), **moments}
        self.weights: dict[str, FlatPart] = {}
        self.moments: dict[str, dict[str, Tensor]] = {}
        for name, parameter in named.items():
            place, shape = self._place(parameter), whole_shape(parameter)
            state = self._adamw.state[flats[place.flat]]
            self.weights[name] = place.part(flats[place.flat], shape)
            self.moments[name] = {"step": state["step"], **{key: place.part(state[key], shape) for key in _MOMENTS}}
        self.stepped = {name: part.own for name, part in self.weights.items()}

    def set_rate(self, rate: float) -> None:
        """As of `Update.set_rate`."""
        for group in self._adamw.param_groups:
            group["lr"] = rate * group["lr_scale"]

    def step(self, losses: Sequence[Callable[[], Tensor]], clip_norm: float) -> Tensor:
        """As of `Update.step`; waits for the device. Gradients are summed over the ranks behind each loss: no rank
        holds more of them than its part."""
        zero = self._zero
        zero.clip_grad = clip_norm
        self._begin()
        for number, loss in enumerate(losses):
            zero.clear_backward_seen_flag()
            zero.set_gradient_accumulation_boundary(number == len(losses) - 1)
            value = loss()
            zero.enter_backward()
            value.backward(torch.full_like(value, self._divisor))
            zero.overlapping_partition_gradients_reduce_epilogue()
            zero.backward_epilogue()
            zero.exit_backward()
        self._squares = torch.stack([_square(gradients) for gradients in self._gradients()])
        zero.step()
        return torch.as_tensor(zero._global_grad_norm, dtype=torch.float32, device=self._device).reshape(())

    def group_norms(self) -> Tensor:
        """As of `Update.group_norms`."""
        squares = self._squares.clone()
        dist.all_reduce(squares)
        return squares.sqrt()

    def gradient_bytes(self) -> int:
        """As of `Update.gradient_bytes`."""
        return 0

    _divisor = 1.0
    """By which DeepSpeed divides what it sums."""

    def _begin(self) -> None:  # noqa: B027
        """Before the first loss of a step."""

    @abstractmethod
    def written(self) -> None:
        """As of `Update.written`."""

    @abstractmethod
    def _wrapped(self, modules: Sequence[nn.Module], **options: Any) -> Any:
        """DeepSpeed's optimizer around torch's."""

    @abstractmethod
    def _flats(self) -> list[Tensor]:
        """The flattened tensors that torch's AdamW steps on."""

    @abstractmethod
    def _place(self, parameter: nn.Parameter) -> _Place:
        """Where this rank holds its part of a parameter and of its moments."""

    @abstractmethod
    def _gradients(self) -> list[list[Tensor]]:
        """What this rank holds of the summed gradients, by group."""


class Stage2(ZeroUpdate):
    """ZeRO-2: weights are whole on each rank, and each rank steps a part of each group's, end to end."""

    def _wrapped(self, modules: Sequence[nn.Module], **options: Any) -> Any:
        from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

        sums = {"gradient_average": False, "check_grad_overflow": False}  # an infinite norm says so
        return DeepSpeedZeroOptimizer(self._adamw, optimizer_params={}, **sums, **options)

    def _flats(self) -> list[Tensor]:
        return list(self._zero.single_partition_of_fp32_groups)

    def _place(self, parameter: nn.Parameter) -> _Place:
        found = parameter._hp_mapping  # type: ignore[attr-defined]
        if found is None:  # all of it lies on other ranks
            return _Place(0, 0, 0, 0)
        held, of = found.hp_fragment_address, found.lp_fragment_address
        return _Place(found.param_group_index, held.start, held.numel, of.start)

    def _gradients(self) -> list[list[Tensor]]:
        return [list(self._zero.averaged_gradients[i]) for i in range(len(self._adamw.param_groups))]

    def written(self) -> None:
        """As of `Update.written`: gathers the weights."""
        self._zero.update_lp_params()


class Stage3(ZeroUpdate):
    """ZeRO-3: each rank holds, and steps, a part of each weight."""

    def _wrapped(self, modules: Sequence[nn.Module], **options: Any) -> Any:
        from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3

        hooks = _Offloads([module.zero_offload for module in modules], options["dp_process_group"])

        class Optimizer(DeepSpeedZeroOptimizer_Stage3):
            """Uses the hooks that the modules have instead of giving them others."""

            def initialize_ds_offload(self, **unused: Any) -> _Offloads:
                return hooks

        self._divisor = float(dist.get_world_size())
        return Optimizer(nn.ModuleList(modules), self._adamw, ds_config=None, contiguous_gradients=False, **options)

    def _flats(self) -> list[Tensor]:
        return list(self._zero.fp32_partitioned_groups_flat)

    def _place(self, parameter: nn.Parameter) -> _Place:
        part = part_of(parameter)
        assert part is not None
        flat, at, _ = self._zero.grad_position[self._zero.get_param_id(parameter)]  # with padding
        return _Place(flat, at, len(part.own), part.start)

    def _begin(self) -> None:
        # The first loss overwrites the gradients of the step before of those parameters alone that it reaches.
        self._zero.grad_partitions_flat_buffer.zero_()

    def _gradients(self) -> list[list[Tensor]]:
        found: list[list[Tensor]] = [[] for _ in self._adamw.param_groups]
        for i, gradients in self._zero.averaged_gradients.items():
            found[self._zero.sub_group_to_group_id[i]] += gradients
        return found

    def gradient_bytes(self) -> int:
        """As of `Update.gradient_bytes`: DeepSpeed keeps the memory of this rank's part."""
        return int(self._zero.grad_partitions_flat_buffer.nbytes)

    def written(self) -> None:
        """As of `Update.written`: hands the weights over to what is gathered, where it is not the same memory."""
        self._zero.parameter_offload.partition_all_parameters()
        for held, flat in zip(self._zero.fp16_partitioned_groups_flat, self._flats(), strict=True):
            held.copy_(flat.detach())


class _Offloads:
    """The hooks of several modules as DeepSpeed's optimizer takes those of one."""

    persistent_parameters: tuple[nn.Parameter, ...] = ()

    def __init__(self, offloads: Sequence[Any], group: Any) -> None:
        self._offloads, self.dp_process_group = offloads, group

    def get_param_coordinator(self) -> Any:
        """Of the first module; the optimizer resets a counter of its log there."""
        return self._offloads[0].get_param_coordinator()

    def partition_all_parameters(self) -> None:
        """Releases what is gathered."""
        for offload in self._offloads:
            offload.partition_all_parameters()

    def release_backward_leftovers(self) -> None:
        """Releases what blocks whose inputs have no gradient have kept."""
        for offload in self._offloads:
            offload.release_backward_leftovers()


def _square(gradients: Sequence[Tensor]) -> Tensor:
    norms = torch._foreach_norm([gradient.flatten() for gradient in gradients])
    return torch.stack(list(norms)).square().sum()
