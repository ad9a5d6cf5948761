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
from torch import Tensor, nn
from torch.nn.functional import linear

from phys4d.engine.distributed.sharded_update import Groups
from phys4d.engine.distributed.sharding import device_memory, fits_rollout, kept_for_backward
from phys4d.engine.distributed.zero_update import BUCKET, Stage2, Stage3, ZeroUpdate

# DeepSpeed calls torch's collectives by their old names.
warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)

_HELD = "held by Zero.gathered"


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
    ) -> ZeroUpdate:  # fmt: skip
        """By torch's AdamW, whatever `adam` is: over this rank's parts, flattened by group."""
        kind = Stage2 if self._stage == 2 else Stage3
        return kind(modules, named, groups, betas, weight_decay)


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
        prefetch_bucket_size=BUCKET,
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
