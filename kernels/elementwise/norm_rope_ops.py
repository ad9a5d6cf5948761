"""`norm_rope` as torch operators: `phys4d::norm_rope` and its backward, with fake, autograd and CPU rules."""

from typing import Any

import torch
import triton
from torch import Tensor

from phys4d.kernels.dispatch import (
    INTERPRETED,
    aligned_strides,
    below_autograd,
    cpu_kernel,
    differentiable_once,
    float32_kernel_serves,
    launch,
    low_overhead_call,
    with_rows,
)
from phys4d.kernels.elementwise import norm_rope_kernels as kernels
from phys4d.kernels.elementwise import norm_rope_native as native
from phys4d.kernels.elementwise.norm_rope_reference import norm_rope_backward_reference, norm_rope_reference
from phys4d.kernels.elementwise.rope import Rope

_KINDS = {"rms": kernels.RMS, "layer": kernels.LAYER, "rms_across_heads": kernels.RMS_ACROSS_HEADS, "": kernels.NO_NORM}
# Programs of the backward, each of which adds up the weight gradients of its tokens: the same on every GPU, so that the
# order of sums is, too.
_PROGRAMS = 1024
_LARGEST_TILE = 1 << 13  # channels of one token, all heads together, that a program holds


def _launch_options(x: Tensor) -> dict[str, int]:
    heads, dim = x.shape[2:]
    options = {"HEADS": triton.next_power_of_2(heads), "PAIRS": max(8, triton.next_power_of_2(dim // 2))}
    channels = 2 * options["HEADS"] * options["PAIRS"]
    if channels > _LARGEST_TILE:
        raise ValueError(f"norm_rope: {heads} heads of {dim} channels are more than a program holds ({_LARGEST_TILE})")
    return options if INTERPRETED else options | {"num_warps": 4 if channels <= 4096 else 8}


def _rope_arguments(x: Tensor, tables: list[Tensor], grid: list[int]) -> tuple[list[Any], list[int]]:
    pointers = [float32_table(table) for table in tables] or [x, x, x]
    pairs = [table.shape[1] for table in tables] or [0, 0, 0]
    return pointers, [grid[1] * grid[2], grid[2], grid[0] * grid[1] * grid[2], *pairs]


def float32_table(table: Tensor) -> Tensor:
    """A table of angles as kernels read it: contiguous float32, the table itself where it is that already."""
    fits = table.dtype == torch.float32 and table.is_contiguous()
    return table if fits else table.to(torch.float32).contiguous()


def tables_of(time: Tensor | None, height: Tensor | None, width: Tensor | None) -> list[Tensor]:
    """The tables of an operator's flat arguments: three, or none."""
    return [] if time is None or height is None or width is None else [time, height, width]


def rope_of(layout: str, time: Tensor | None, height: Tensor | None, width: Tensor | None) -> Rope | None:
    """The rotation of an operator's flat arguments; None without tables."""
    if time is None or height is None or width is None:
        return None
    return Rope((time, height, width), "half" if layout == "half" else "interleaved")


def _by_definition(
    x: Tensor, dy: Tensor, weight: Tensor | None, bias: Tensor | None, kind: str, epsilon: float, time: Tensor | None,
    height: Tensor | None, width: Tensor | None, layout: str, grid: list[int], begin: int, weight_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """What `backward` gives, in plain torch."""
    rope = rope_of(layout, time, height, width)
    sizes: Any = tuple(grid)
    dx, *rest = norm_rope_backward_reference(x, dy, weight, bias, kind, epsilon, rope, sizes, begin)
    dx = dx.clone() if dx is dy else dx  # no result is an argument
    exact = torch.promote_types(dy.dtype, torch.float32)
    wanted = weight_gradient and weight is not None
    dweight, dbias = (t if wanted and t is not None else dx.new_empty(0, dtype=exact) for t in rest)
    return dx, dweight, dbias


def _defined(x: Tensor, *rest: Any) -> Tensor:
    """What `forward` gives, in plain torch."""
    y = norm_rope_reference(x, *rest).contiguous()
    return y.clone() if y is x else y  # no result is an argument


def forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, kind: str, epsilon: float, time: Tensor | None,
    height: Tensor | None, width: Tensor | None, layout: str, grid: list[int], begin: int,
) -> Tensor:  # fmt: skip
    """The operator: `norm_rope` with flat arguments; float64 by its definition, the kernel works in float32."""
    if not float32_kernel_serves(x):
        sizes: Any = tuple(grid)
        rope = rope_of(layout, time, height, width)
        return _defined(x, weight, bias, kind, epsilon, rope, sizes, begin)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if not y.numel():
        return y
    weight, bias = (None if t is None else t.contiguous() for t in (weight, bias))
    tables = tables_of(time, height, width)
    pointers, (cells, across, count, *pairs) = _rope_arguments(x, tables, grid)
    align, strides = aligned_strides(x)
    launch(
        kernels.forward, x.shape[0] * x.shape[1], x, y,
        weight if weight is not None else x, bias if bias is not None else x, *pointers,
        x.shape[1], x.shape[2], epsilon, begin, cells, across, count, *pairs, *strides,
        ALIGN=align, D=x.shape[3], HALF=layout == "half", NORM=_KINDS[kind], BIAS=bias is not None, ROPE=bool(tables),
        **_launch_options(x),
    )  # fmt: skip
    return y


_op = torch.library.custom_op("phys4d::norm_rope", forward, mutates_args=())


@_op.register_fake
def _(x, weight, bias, kind, epsilon, time, height, width, layout, grid, begin):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape)


def backward(
    x: Tensor, dy: Tensor, weight: Tensor | None, bias: Tensor | None, kind: str, epsilon: float, time: Tensor | None,
    height: Tensor | None, width: Tensor | None, layout: str, grid: list[int], begin: int, weight_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """dx, and, with `weight_gradient`, gradients of weight and bias (else, or where there is none: empty).

    These two are float32, float64 for float64, which is by the definition.
    """
    if not float32_kernel_serves(dy):
        rest = kind, epsilon, time, height, width, layout, grid, begin, weight_gradient
        return _by_definition(x, dy, weight, bias, *rest)
    dy, weight = with_rows(dy), None if weight is None else weight.contiguous()
    dx = torch.empty(dy.shape, dtype=dy.dtype, device=dy.device)
    total = dy.shape[0] * dy.shape[1]
    programs = min(_PROGRAMS, total)
    weight_gradient = weight_gradient and weight is not None
    partial = [
        torch.empty((programs, t.shape[0]) if weight_gradient and t is not None else (0, 0),
                    dtype=torch.float32, device=dy.device)
        for t in (weight, bias)
    ]  # fmt: skip
    if dx.numel():
        tables = tables_of(time, height, width)
        pointers, (cells, across, count, *pairs) = _rope_arguments(dy, tables, grid)
        align, strides = aligned_strides(x, dy)
        launch(
            kernels.backward, programs, x, dy, dx, weight if weight is not None else dy, *partial, *pointers,
            dy.shape[1], total, programs, dy.shape[2], epsilon, begin, cells, across, count, *pairs,
            *strides, ALIGN=align, D=dy.shape[3], HALF=layout == "half", NORM=_KINDS[kind], BIAS=bias is not None,
            ROPE=bool(tables), WEIGHT_GRADIENT=weight_gradient, **_launch_options(dy),
        )  # fmt: skip
    exact = torch.promote_types(dy.dtype, torch.float32)
    return dx, partial[0].sum(0).to(exact), partial[1].sum(0).to(exact)


_backward_op = torch.library.custom_op("phys4d::norm_rope_backward", backward, mutates_args=())


@_backward_op.register_fake
def _(x, dy, weight, bias, kind, epsilon, time, height, width, layout, grid, begin, weight_gradient):  # type: ignore[no-untyped-def]
    sizes = [t.shape[0] if weight_gradient and weight is not None and t is not None else 0 for t in (weight, bias)]
    exact = torch.promote_types(dy.dtype, torch.float32)
    return dy.new_empty(dy.shape), *(dy.new_empty(size, dtype=exact) for size in sizes)


differentiable_once(_backward_op)
_backward_call = below_autograd(_backward_op)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, kind, epsilon, time, height, width, layout, grid, begin = inputs
    ctx.save_for_backward(x if kind else x.new_empty(0, 0, 0, 0), weight, bias, time, height, width)
    ctx.rest = kind, epsilon, layout, grid, begin


def _backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    x, weight, bias, time, height, width = ctx.saved_tensors
    kind, epsilon, layout, grid, begin = ctx.rest
    wanted = weight is not None and any(ctx.needs_input_grad[1:3])
    rest = kind, epsilon, time, height, width, layout, grid, begin, wanted
    dx, dweight, dbias = _backward_call(x, dy, weight, bias, *rest)
    return (
        dx,
        dweight.to(weight.dtype) if wanted else None,
        dbias.to(bias.dtype) if wanted and bias is not None else None,
        *(None,) * 8,
    )


_op.register_autograd(_backward, setup_context=_setup)
call = low_overhead_call(_op, _setup, _backward)


@cpu_kernel(_op)
def _(x, weight, bias, kind, epsilon, time, height, width, layout, grid, begin):  # type: ignore[no-untyped-def]
    if native.serves(x):
        return native.forward(x, weight, bias, kind, epsilon, [time, height, width], layout, grid, begin)
    return _defined(x, weight, bias, kind, epsilon, rope_of(layout, time, height, width), grid, begin)


@cpu_kernel(_backward_op)
def _(x, dy, weight, bias, kind, epsilon, time, height, width, layout, grid, begin, weight_gradient):  # type: ignore[no-untyped-def]
    if native.serves(dy):
        tables, wanted = [time, height, width], weight_gradient and weight is not None
        return native.backward(x, dy, weight, bias, kind, epsilon, tables, layout, grid, begin, wanted)
    rest = kind, epsilon, time, height, width, layout, grid, begin, weight_gradient
    return _by_definition(x, dy, weight, bias, *rest)
