"""DeepSpeed's ZeRO as a strategy: stage 2 divides gradients and moments over the ranks, stage 3 the weights, too.

DeepSpeed's optimizers divide, communicate, clip and step, its hooks gather weights, on the process group that is there.
Its launcher, engine, configuration and checkpoints are not used.
"""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import linear

from phys4d.engine.distributed.flat import FlatPart, part_of
from phys4d.engine.distributed.sharded_update import Groups
from phys4d.engine.distributed.sharding import device_memory, fits_rollout, kept_for_backward

# DeepSpeed calls torch's collectives by their old names.
warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)

_HELD = "held by Zero.gathered"
_BUCKET = 50_000_000  # elements of gradients that are reduced, or of weights that are gathered ahead, at once


class Zero:
    """ZeRO over all ranks; see `strategy.Strategy`.

    stage: 2 or 3. device: of this rank.
    """

    def __init__(self, stage: int, device: torch.device) -> None:
        _import(device)
        self._stage, self._device = stage, device

    def shard(self, module: nn.Module, blocks: Sequence[nn.Module]) -> None:
        """Stage 3: keeps this rank's part of each parameter; blocks are gathered whole, the rest layer by layer."""
        for parameter in module.parameters():
            parameter.reduced_by_zero = True  # type: ignore[attr-defined]
        if self._stage == 3:
            _divide(module, self._device)
            _gather_when_called(module, blocks or (module,), self._device)

    def holds(self, parameter: nn.Parameter) -> bool:
        """Whether the parameter is of a module that was given to `shard`."""
        return hasattr(parameter, "reduced_by_zero")

    def gathered(self, module: nn.Module) -> AbstractContextManager[None]:
        """Gathers all parameters of a module once, if they fit; stage 2 has them whole."""
        return _held(module) if self._stage == 3 and fits_rollout(module, self._device) else nullcontext()

    def update(
        self, modules: Sequence[nn.Module], named: Mapping[str, nn.Parameter], groups: Groups, adam: Callable[..., Any],
        betas: tuple[float, float], weight_decay: float,
    ) -> "_ZeroUpdate":  # fmt: skip
        """By torch's AdamW, whatever `adam` is: over this rank's parts, flattened by group."""
        kinds: dict[int, type[_ZeroUpdate]] = {2: _Stage2, 3: _Stage3}
        return kinds[self._stage](modules, named, groups, betas, weight_decay)


def _import(device: torch.device) -> None:
    """Imports DeepSpeed and lets it use torch's process group; its log goes to standard error, errors alone."""
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    os.environ.setdefault("LOCAL_RANK", str(device.index or 0))
    # On a CPU it counts the NUMA nodes by a subprocess at each reduction (accelerator/cpu_accelerator.py:70).
    os.environ.setdefault("LOCAL_SIZE", os.environ.get("LOCAL_WORLD_SIZE", "1"))
    from deepspeed import comm, ops
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)
    for handler in logger.handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(sys.stderr)
    if not comm.is_initialized():
        # On a CPU it would compile operators for shared memory (comm/torch.py:47) and reduce by them instead of gloo.
        ops.__compatible_ops__ = {}
        try:
            comm.init_distributed(auto_mpi_discovery=False, verbose=False)
        finally:
            del ops.__compatible_ops__


def _divide(module: nn.Module, device: torch.device) -> None:
    """Replaces each parameter's data by this rank's part of them, one parameter at a time; those on meta get memory
    without values for that part alone.

    Not by deepspeed.zero.Init(module=...), which refuses meta and sends every weight from rank 0 to all.
    """
    from deepspeed import zero

    init = zero.Init(mem_efficient_linear=False, dtype=torch.float32)  # the dtype of none of these parameters
    made: dict[nn.Parameter, nn.Parameter] = {}
    for layer in module.modules():
        for name, parameter in layer._parameters.items():
            if parameter is None:
                continue
            if parameter not in made:
                made[parameter] = divided = parameter
                if parameter.is_meta:  # pages that nothing is written to take no memory of the host
                    empty = torch.empty_like(parameter, device=device)
                    made[parameter] = divided = nn.Parameter(empty, parameter.requires_grad)
                    divided.reduced_by_zero = True  # type: ignore[attr-defined]
                divided.data = divided.data.to(device)
                init._convert_to_deepspeed_param(divided)
                divided.partition()  # type: ignore[attr-defined]
            layer._parameters[name] = made[parameter]


def _gather_when_called(module: nn.Module, blocks: Sequence[nn.Module], device: torch.device) -> None:
    """Has each block gather its parameters before its forward and its backward pass, and release them behind."""
    from deepspeed import comm
    from deepspeed.runtime.zero import parameter_offload
    from deepspeed.utils import set_z3_leaf_module
    from deepspeed.utils.timer import NoopTimer

    for block in blocks:
        set_z3_leaf_module(block, True)
    for layer in module.modules():
        if type(layer) is nn.Linear:
            layer.forward = partial(_linear, layer)  # type: ignore[method-assign]
    kept = kept_for_backward(device_memory(device)) // max(p.element_size() for p in module.parameters())  # elements
    module.zero_offload = parameter_offload.DeepSpeedZeRoOffload(  # type: ignore[assignment]
        module,
        NoopTimer(),
        ds_config=None,
        overlap_comm=True,
        prefetch_bucket_size=_BUCKET,
        max_reuse_distance=kept,
        max_live_parameters=kept,
        param_persistence_threshold=0,
        dp_process_group=comm.get_world_group(),
    )
    parameter_offload.FWD_MODULE_STACK.remove(module)  # would keep its weights when a stage is over
    for parameter in module.parameters():
        # DeepSpeed reduces a block's gradients when those of its inputs are there, so before they exist where no input
        # has one (runtime/zero/stage3.py:1540). Each parameter on its own is reduced when its gradient is complete.
        if parameter.requires_grad and hasattr(parameter, "ds_z3_leaf_module"):
            del parameter.ds_z3_leaf_module


class _Linear(torch.autograd.Function):
    """A linear layer whose graph holds the parameter, which is released and gathered again; torch's own holds a view of
    the gathered weight. DeepSpeed's (runtime/zero/linear.py) rounds in bf16 before it adds the bias, and adds in place.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        out = linear(x, weight, bias)
        ctx.save_for_backward(x.to(out.dtype) if weight.requires_grad else None, weight)
        ctx.dtypes = x.dtype, None if bias is None else bias.dtype
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (x, weight), (of_x, of_bias) = ctx.saved_tensors, ctx.dtypes
        rows, (needs_x, needs_weight, needs_bias) = gradient.flatten(0, -2), ctx.needs_input_grad
        return (
            (gradient @ weight.to(gradient.dtype)).to(of_x) if needs_x else None,
            (rows.T @ x.flatten(0, -2)).to(weight.dtype) if needs_weight else None,
            rows.sum(0).to(of_bias) if needs_bias else None,
        )


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    compute: Callable[..., Tensor] = linear if torch.compiler.is_compiling() else _Linear.apply
    return compute(x, layer.weight, layer.bias)


@contextmanager
def _held(module: nn.Module) -> Iterator[None]:
    from deepspeed import zero

    parameters = list(module.parameters())
    with zero.GatheredParameters(parameters):
        for parameter in parameters:  # DeepSpeed releases no parameter that a module uses
            parameter.ds_active_sub_modules.add(_HELD)  # type: ignore[attr-defined]
        try:
            yield
        finally:
            for parameter in parameters:
                parameter.ds_active_sub_modules.discard(_HELD)  # type: ignore[attr-defined]


class _ZeroUpdate:
    """AdamW under ZeRO; see `strategy.Update`. `_zero` is DeepSpeed's optimizer around torch's, `_scale` the gradient
    of a loss."""

    weights: dict[str, FlatPart]
    moments: dict[str, dict[str, Tensor]]
    _zero: Any
    _scale = 1.0

    def __init__(
        self, modules: Sequence[nn.Module], named: Mapping[str, nn.Parameter], groups: Groups,
        betas: tuple[float, float], weight_decay: float,
    ) -> None:  # fmt: skip
        from deepspeed import comm
        from deepspeed.utils.timer import NoopTimer

        self._modules = modules
        given = [{**group, "params": [named[name] for name in group["params"]]} for group in groups]
        self._adamw = torch.optim.AdamW(given, betas=betas, weight_decay=weight_decay)
        self._zero = self._wrap(
            self._adamw,
            param_names={parameter: name for name, parameter in named.items()},
            timers=NoopTimer(),
            contiguous_gradients=self._contiguous,
            reduce_bucket_size=min(_BUCKET, sum(map(_numel, named.values()))),
            dp_process_group=comm.get_world_group(),
            communication_data_type=torch.float32,
        )
        self._squares = torch.zeros(len(groups))
        self.weights, self.moments = {}, {}
        for flat in self._flat():
            moments = {key: torch.zeros_like(flat.detach()) for key in ("exp_avg", "exp_avg_sq")}
            self._adamw.state[flat] = {"step": torch.zeros((), dtype=torch.float32), **moments}
        for name, parameter in named.items():
            self.weights[name], self.moments[name] = self._parts(parameter)
        self.stepped = {name: part.own for name, part in self.weights.items()}

    _contiguous = False

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
            value.backward(torch.full_like(value, self._scale))
            zero.overlapping_partition_gradients_reduce_epilogue()
            zero.backward_epilogue()
            zero.exit_backward()
        self._squares = torch.stack([_square(gradients) for gradients in self._gradients()])
        zero.step()
        return torch.as_tensor(zero._global_grad_norm, dtype=torch.float32).detach().reshape(())

    def group_norms(self) -> Tensor:
        """As of `Update.group_norms`."""
        dist.all_reduce(self._squares)
        return self._squares.sqrt()

    def _begin(self) -> None:
        """Before the first loss of a step."""

    def gradient_bytes(self) -> int:
        """As of `Update.gradient_bytes`."""
        return 0

    def written(self) -> None:
        """As of `Update.written`."""

    def _wrap(self, adamw: torch.optim.AdamW, **options: Any) -> Any:
        """DeepSpeed's optimizer."""
        raise NotImplementedError

    def _flat(self) -> list[Tensor]:
        """The flattened parts that torch's AdamW steps on."""
        raise NotImplementedError

    def _parts(self, parameter: nn.Parameter) -> tuple[FlatPart, dict[str, Tensor]]:
        """What this rank holds of a parameter and of its moments."""
        raise NotImplementedError

    def _gradients(self) -> list[list[Tensor]]:
        """What this rank holds of the summed gradients, by group."""
        raise NotImplementedError


class _Stage2(_ZeroUpdate):
    _contiguous = True  # where it is not, each rank reduces all gradients whole

    def _wrap(self, adamw: torch.optim.AdamW, **options: Any) -> Any:
        from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

        return DeepSpeedZeroOptimizer(
            adamw, optimizer_params={}, gradient_average=False, check_grad_overflow=False, **options
        )

    def _flat(self) -> list[Tensor]:
        return list(self._zero.single_partition_of_fp32_groups)

    def _parts(self, parameter: nn.Parameter) -> tuple[FlatPart, dict[str, Tensor]]:
        found = parameter._hp_mapping  # type: ignore[attr-defined]
        if found is None:
            empty = FlatPart(parameter.detach().new_empty(0), 0, parameter.shape)
            return empty, {"step": self._adamw.state[self._flat()[0]]["step"], "exp_avg": empty, "exp_avg_sq": empty}
        state = self._adamw.state[self._flat()[found.param_group_index]]
        start, (at, count) = found.lp_fragment_address.start, _address(found.hp_fragment_address)

        def part(flat: Tensor) -> FlatPart:
            return FlatPart(flat.detach()[at : at + count], start, parameter.shape)

        moments = {key: part(state[key]) for key in ("exp_avg", "exp_avg_sq")}
        return part(self._flat()[found.param_group_index]), {"step": state["step"], **moments}

    def _gradients(self) -> list[list[Tensor]]:
        return [list(self._zero.averaged_gradients[i]) for i in range(len(self._adamw.param_groups))]

    def written(self) -> None:
        """As of `Update.written`: gathers the weights."""
        self._zero.update_lp_params()


class _Stage3(_ZeroUpdate):
    def _wrap(self, adamw: torch.optim.AdamW, **options: Any) -> Any:
        from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3

        offloads = [module.zero_offload for module in self._modules]

        class Optimizer(DeepSpeedZeroOptimizer_Stage3):
            """Uses the hooks that are there instead of others."""

            def initialize_ds_offload(self, **unused: Any) -> "_Offloads":
                return _Offloads(offloads, options["dp_process_group"])

        self._scale = float(dist.get_world_size())  # DeepSpeed divides by it
        return Optimizer(nn.ModuleList(self._modules), adamw, ds_config=None, **options)

    def _flat(self) -> list[Tensor]:
        return list(self._zero.fp32_partitioned_groups_flat)

    def _parts(self, parameter: nn.Parameter) -> tuple[FlatPart, dict[str, Tensor]]:
        held = part_of(parameter)
        assert held is not None
        position = self._zero.grad_position[self._zero.get_param_id(parameter)]
        flat = self._flat()[position[0]]

        def part(flat: Tensor) -> FlatPart:
            return FlatPart(flat.detach()[position[1] :][: len(held.own)], held.start, held.shape)

        state = self._adamw.state[flat]
        moments = {key: part(state[key]) for key in ("exp_avg", "exp_avg_sq")}
        return part(flat), {"step": state["step"], **moments}

    def _begin(self) -> None:
        # The first loss overwrites the gradients of the step before only of parameters that it reaches.
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
        """As of `Update.written`: hands the weights over to what is gathered."""
        self._zero.parameter_offload.partition_all_parameters()
        for held, flat in zip(self._zero.fp16_partitioned_groups_flat, self._flat(), strict=True):
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


def _numel(parameter: nn.Parameter) -> int:
    part = part_of(parameter)
    return parameter.numel() if part is None else part.numel()


def _square(gradients: Sequence[Tensor]) -> Tensor:
    norms = torch._foreach_norm([gradient.flatten() for gradient in gradients])
    return torch.stack(list(norms)).square().sum()


def _address(fragment: Any) -> tuple[int, int]:
    return fragment.start, fragment.numel
