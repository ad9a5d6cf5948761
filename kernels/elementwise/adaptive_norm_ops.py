"""`adaptive_norm` as torch operators: `phys4d::adaptive_norm` and its backward, with fake, autograd and CPU rules."""

from typing import Any

import torch
import triton
from torch import Tensor

from phys4d.kernels.dispatch import (
    INTERPRETED,
    aligned,
    below_autograd,
    contiguous_integers,
    cpu_kernel,
    differentiable_once,
    float32_kernel_serves,
    launch,
    low_overhead_call,
    with_rows,
)
from phys4d.kernels.elementwise import adaptive_norm_kernels as kernels
from phys4d.kernels.elementwise import adaptive_norm_native as native
from phys4d.kernels.elementwise.adaptive_norm_reference import (
    adaptive_norm_backward_reference,
    forward_reference,
)
from phys4d.kernels.elementwise.token_rows import BACKWARD_PROGRAMS, FORWARD_PROGRAMS

WIDEST = 8192  # channels: what a program holds
_KINDS = {"": kernels.NO_NORM, "layer": kernels.LAYER, "rms": kernels.RMS}


def _rows(*tables: Tensor | None) -> int:
    return next((len(table) for table in tables if table is not None), 1)


def _options(width: int) -> dict[str, int]:
    """Eight numbers of a token for each thread."""
    channels = max(32, triton.next_power_of_2(width))
    warps = min(16, max(1, channels // 256))
    return {"CHANNELS": channels, "STAGES": 3} | ({} if INTERPRETED else {"num_warps": warps})


def _strides(tokens: list[Tensor | None], tables: list[Tensor | None]) -> tuple[int, list[int]]:
    """Batch and token strides of tokens and row strides of tables, 0 for those that are None, as `aligned` gives."""
    found = [s for t in tokens for s in (t.stride()[:2] if t is not None else (0, 0))]
    return aligned(found + [t.stride(0) if t is not None else 0 for t in tables])


def _programs(total: int, rows: int, segments: Tensor | None, programs: int) -> tuple[int, int]:
    """How many segments there are, and how many tokens they have at most."""
    if segments is not None:
        return len(segments), 0
    run = total // rows
    length = -(-run // max(1, programs // rows))
    return rows * -(-run // length), length


def forward(
    x: Tensor, y: Tensor | None, gate: Tensor | None, weight: Tensor | None, bias: Tensor | None, scale: Tensor | None,
    shift: Tensor | None, index: Tensor | None, order: Tensor | None, short: Tensor | None, long: Tensor | None,
    begins: Tensor | None, kind: str, epsilon: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The operator: stream (empty without y), out (empty without norm and modulation), and what backward needs.

    index, order, short, long and begins are those of `TokenRows`, whose segments `forward` are short, `backward` long.
    """
    stream, out, stats = _outputs(x, y, scale, shift, kind)
    rows = _rows(gate, scale, shift)
    if not x.numel():
        return stream, out, stats
    if not float32_kernel_serves(x):
        return _by_definition(x, y, gate, weight, bias, scale, shift, index, kind, epsilon)
    total, width = x.shape[0] * x.shape[1], x.shape[2]
    weight, bias = (None if t is None else t.contiguous() for t in (weight, bias))
    order, segments = contiguous_integers(order), contiguous_integers(short)
    programs, length = _programs(total, rows, segments, FORWARD_PROGRAMS)
    align, strides = _strides([x, y], [gate, scale, shift])
    tensors = [
        x if t is None else t for t in (y, stream, out, stats, weight, bias, gate, scale, shift, segments, order)
    ]
    launch(
        kernels.forward, programs, x, *tensors, x.shape[1], total // rows, length, width, epsilon, *strides,
        ALIGN=align, ORDERED=order is not None, NORM=_KINDS[kind], RESIDUAL=y is not None, GATE=gate is not None,
        WEIGHT=weight is not None, BIAS=bias is not None, SCALE=scale is not None, SHIFT=shift is not None,
        OUT=bool(out.numel()), **_options(width),
    )  # fmt: skip
    return stream, out, stats


def _by_definition(
    x: Tensor, y: Tensor | None, gate: Tensor | None, weight: Tensor | None, bias: Tensor | None, scale: Tensor | None,
    shift: Tensor | None, index: Tensor | None, kind: str, epsilon: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """What `forward` gives, in plain torch."""
    stream, out, stats = forward_reference(x, y, gate, weight, bias, scale, shift, index, kind, epsilon)
    empty_stream, empty_out, empty_stats = _outputs(x, y, scale, shift, kind)
    return (
        stream.contiguous() if empty_stream.numel() else empty_stream,
        out.contiguous() if empty_out.numel() else empty_out,
        empty_stats if stats is None else stats,
    )


def _outputs(
    x: Tensor, y: Tensor | None, scale: Tensor | None, shift: Tensor | None, kind: str
) -> tuple[Tensor, Tensor, Tensor]:
    whole = bool(kind) or scale is not None or shift is not None
    exact = torch.promote_types(x.dtype, torch.float32)
    return (
        x.new_empty(x.shape if y is not None else (0,)),
        x.new_empty(x.shape if whole else (0,)),
        x.new_empty((*x.shape[:2], 2) if kind else (0,), dtype=exact),
    )


op = torch.library.custom_op("phys4d::adaptive_norm", forward, mutates_args=())


@op.register_fake
def _(x, y, gate, weight, bias, scale, shift, index, order, short, long, begins, kind, epsilon):  # type: ignore[no-untyped-def]
    return _outputs(x, y, scale, shift, kind)


def backward(
    stream: Tensor, y: Tensor | None, dy_dtype: torch.dtype, gate: Tensor | None, weight: Tensor | None,
    scale: Tensor | None, stats: Tensor, dstream: Tensor | None, dout: Tensor | None, index: Tensor | None,
    order: Tensor | None, long: Tensor | None, begins: Tensor | None, kind: str, rows: int, tables_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x [B, S, C], of y (empty without a gate: it equals that of x), and of the tables [rows, parts, C].

    Args:
        stream: [B, S, C], what was normed.
        y: [B, S, C], given only where the gate's gradient is wanted.
        dstream, dout: gradients of the operator's stream and out; None for none.

    The parts are float32 (float64 for float64): with `tables_gradient` the gradients of the factor weight * (1 + scale)
    and of the offset bias * (1 + scale) + shift, from which those of weight, bias, scale and shift follow; with y that
    of the gate.
    """
    dx, dy, sums = _gradients(stream, y, dy_dtype, gate, dstream, dout, rows, tables_gradient)
    if not dx.numel():
        return dx, dy, sums.zero_()
    if not float32_kernel_serves(dx):
        rest = index, kind, rows, tables_gradient
        return _backward_by_definition(stream, y, dy_dtype, gate, weight, scale, stats, dstream, dout, *rest)
    dstream, dout = (None if t is None else with_rows(t) for t in (dstream, dout))
    weight = None if weight is None else weight.contiguous()
    total, width = dx.shape[0] * dx.shape[1], dx.shape[2]
    order, segments, begins = (contiguous_integers(t) for t in (order, long, begins))
    programs, length = _programs(total, rows, segments, BACKWARD_PROGRAMS)
    align, strides = _strides([stream, y, dstream, dout], [gate, scale])
    partial = sums if programs == rows and order is None else sums.new_empty((programs, *sums.shape[1:]))
    tensors = [dx if t is None else t for t in (y, dstream, dout, dx, dy, stats, partial)]
    tensors += [dx if t is None else t for t in (weight, gate, scale, segments, order)]
    launch(
        kernels.backward, programs, stream, *tensors, dx.shape[1], total // rows, length, width, *strides,
        ALIGN=align, ORDERED=order is not None, NORM=_KINDS[kind], GATE=gate is not None, WEIGHT=weight is not None,
        SCALE=scale is not None, STREAM_GRADIENT=dstream is not None, OUT=dout is not None,
        GATE_GRADIENT=y is not None, TABLES=tables_gradient, **_options(width),
    )  # fmt: skip
    if sums.shape[1] and partial is not sums:
        _collect(partial, sums, programs // rows, begins)
    return dx, dy, sums


def _collect(partial: Tensor, sums: Tensor, each: int, begins: Tensor | None) -> None:
    """Fills sums [rows, parts, C] from the partial sums [segments, parts, C]: a row's begin at `begins` [rows + 1].

    Without `begins` every row has `each` of them.
    """
    width = sums[0].numel()
    channels = min(256, triton.next_power_of_2(width))
    launch(
        kernels.collect, (len(sums), triton.cdiv(width, channels)), partial, partial if begins is None else begins,
        sums, each, width, HEIGHT=16, CHANNELS=channels, ORDERED=begins is not None,
    )  # fmt: skip


def _gradients(
    stream: Tensor, y: Tensor | None, dy_dtype: torch.dtype, gate: Tensor | None, dstream: Tensor | None,
    dout: Tensor | None, rows: int, tables_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    given = dstream if dout is None else dout
    assert given is not None
    parts = 2 * tables_gradient + (y is not None)
    exact = torch.promote_types(given.dtype, torch.float32)
    return (
        given.new_empty(given.shape),
        given.new_empty(given.shape if gate is not None else (0,), dtype=dy_dtype),
        given.new_empty((rows, parts, given.shape[2]), dtype=exact),
    )


def _backward_by_definition(
    stream: Tensor, y: Tensor | None, dy_dtype: torch.dtype, gate: Tensor | None, weight: Tensor | None,
    scale: Tensor | None, stats: Tensor, dstream: Tensor | None, dout: Tensor | None, index: Tensor | None,
    kind: str, rows: int, tables_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """What `backward` gives, in plain torch."""
    dx, dy, sums = adaptive_norm_backward_reference(
        stream, y, gate, weight, scale, stats, dstream, dout, index, kind, rows, tables_gradient
    )
    dx = dx.clone(memory_format=torch.contiguous_format) if dx is dout else dx.contiguous()  # no result is an argument
    return dx, dx.new_empty(0, dtype=dy_dtype) if dy is None else dy.to(dy_dtype).contiguous(), sums


_backward_op = torch.library.custom_op("phys4d::adaptive_norm_backward", backward, mutates_args=())


@_backward_op.register_fake
def _(stream, y, dy_dtype, gate, weight, scale, stats, dstream, dout, *rest):  # type: ignore[no-untyped-def]
    return _gradients(stream, y, dy_dtype, gate, dstream, dout, *rest[-2:])


differentiable_once(_backward_op)
_backward_call = below_autograd(_backward_op)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, y, gate, weight, bias, scale, shift, index, order, _, long, begins, kind, _ = inputs
    stream, _, stats = output
    ctx.set_materialize_grads(False)
    through = y if gate is not None and ctx.needs_input_grad[2] else None
    normed = x if y is None else stream
    ctx.save_for_backward(normed, through, gate, weight, bias, scale, stats, index, order, long, begins)
    whole = bool(kind) or scale is not None or shift is not None
    ctx.rest = kind, whole, _rows(gate, scale, shift), None if y is None else y.dtype
    ctx.dtypes = [None if t is None else t.dtype for t in (gate, weight, bias, scale, shift)]


def _backward(ctx: Any, dstream: Tensor | None, dout: Tensor | None, dstats: Tensor | None) -> tuple[Any, ...]:
    stream, y, gate, weight, bias, scale, stats, *plan = ctx.saved_tensors
    kind, whole, rows, y_dtype = ctx.rest
    dstream, dout = dstream if y_dtype else None, dout if whole else None
    nothing = (None,) * 14
    if dstream is None and dout is None:
        return nothing
    wanted = ctx.needs_input_grad[2:7]
    tables = dout is not None and any(wanted[1:])
    dx, dy, sums = _backward_call(
        stream, y, y_dtype or stream.dtype, gate, weight, scale, stats, dstream, dout, *plan, kind, rows, tables
    )
    if y_dtype is None:
        dy = None
    elif gate is None:
        dy = dx.to(y_dtype)
    found: list[Tensor | None] = [sums[:, -1] if y is not None else None, None, None, None, None]
    if tables:
        found[1:] = _of_factor_and_offset(sums[:, 0], sums[:, 1], weight, bias, scale)
    found = [
        t.to(dtype) if w and t is not None else None for t, w, dtype in zip(found, wanted, ctx.dtypes, strict=True)
    ]
    return dx, dy, *found, *nothing[7:]


def _of_factor_and_offset(
    dfactor: Tensor, doffset: Tensor, weight: Tensor | None, bias: Tensor | None, scale: Tensor | None
) -> list[Tensor | None]:
    """Gradients of weight, bias, scale and shift; of what is not there, None or anything."""
    if scale is None:
        return [*(t[0] if len(t) == 1 else t.sum(0) for t in (dfactor, doffset)), None, doffset]
    dscale = dfactor if weight is None else dfactor * weight
    if bias is not None:
        dscale = dscale + doffset * bias
    if weight is None and bias is None:
        return [None, None, dscale, doffset]
    by = 1 + scale.to(dfactor.dtype)  # with a row for each token as large as many activations
    return [(dfactor * by).sum(0), (doffset * by).sum(0), dscale, doffset]


op.register_autograd(_backward, setup_context=_setup)
call = low_overhead_call(op, _setup, _backward)


@cpu_kernel(op)
def _(x, y, gate, weight, bias, scale, shift, index, order, short, long, begins, kind, epsilon):  # type: ignore[no-untyped-def]
    if native.serves(x, y, gate, weight, bias, scale, shift):
        rows = _rows(gate, scale, shift)
        return native.forward(x, y, gate, weight, bias, scale, shift, index, rows, kind, epsilon)
    return _by_definition(x, y, gate, weight, bias, scale, shift, index, kind, epsilon)


@cpu_kernel(_backward_op)
def _(stream, y, dy_dtype, gate, weight, scale, stats, dstream, dout, index, *rest):  # type: ignore[no-untyped-def]
    given = gate, weight, scale, stats, dstream, dout
    if native.serves(stream, y, *given) and dy_dtype in native.DTYPES:
        return native.backward(stream, y, dy_dtype, *given, *rest)
    return _backward_by_definition(stream, y, dy_dtype, *given, index, *rest[3:])
