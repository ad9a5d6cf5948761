"""Attention of fused queries, keys and values, whose gradient is written into one buffer of their layout.

Slicing a fused projection costs nothing forward, but backward torch stacks the three gradients: one more read and
write of them all. Here they never exist apart.
"""

from typing import Any

import torch
from torch import Tensor

from phys4d.kernels.attention import ops
from phys4d.kernels.attention.api import attention, choose
from phys4d.kernels.attention.call import Call
from phys4d.kernels.attention.patterns import Full, Grid, Pattern, Text


def attention_packed(
    qkv: Tensor,
    *,
    grid: Grid | None = None,
    pattern: Pattern = Full(),  # noqa: B008 (frozen)
    text: Text | None = None,
    key_lengths: Tensor | None = None,
    scale: float | None = None,
    return_lse: bool = False,
    backend: str = "auto",
) -> Any:
    """`attention` of the queries, keys and values in qkv [B, S, 3, heads, D], with one gradient of that shape.

    Everything else as `attention`. Backends other than "triton" get slices, and torch stacks their gradients.
    """
    if qkv.ndim != 5 or qkv.shape[2] != 3:
        raise ValueError(f"qkv: expected [B, S, 3, heads, D], got {list(qkv.shape)}")
    if torch.is_autocast_enabled(qkv.device.type):
        qkv = qkv.to(torch.get_autocast_dtype(qkv.device.type))
    q, k, v = qkv.unbind(2)
    asked: dict[str, Any] = {"grid": grid, "pattern": pattern, "text": text, "key_lengths": key_lengths}
    call = Call(q, k, v, **asked, scale=scale, return_lse=return_lse)
    chosen = choose(call, backend).backend
    if chosen != "triton":
        return attention(q, k, v, **asked, scale=scale, return_lse=return_lse, backend=chosen)
    out, lse = _packed(qkv, *ops.flat(pattern, grid, text), key_lengths, call.factor, return_lse)
    return (out, lse) if return_lse else out


@torch.library.custom_op("phys4d::attention_packed", mutates_args=())
def _packed(
    qkv: Tensor, pattern: str, numbers: list[int], grid: list[int], text: int, text_first: bool,
    key_lengths: Tensor | None, scale: float, with_lse: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return ops.attention_op(
        *qkv.unbind(2), pattern, numbers, grid, text, text_first, key_lengths, scale, with_lse
    )  # fmt: skip


@_packed.register_fake
def _(qkv, *rest):  # type: ignore[no-untyped-def]
    return ops.attention_op(*qkv.unbind(2), *rest)


@torch.library.custom_op("phys4d::attention_packed_backward", mutates_args=())
def _packed_backward(
    qkv: Tensor, out: Tensor, lse: Tensor, dout: Tensor, dlse: Tensor | None, pattern: str, numbers: list[int],
    grid: list[int], text: int, text_first: bool, key_lengths: Tensor | None, scale: float,
) -> Tensor:  # fmt: skip
    where = (pattern, numbers, grid, text, text_first, key_lengths, scale)
    if qkv.device.type == "cpu" and not ops.launch.INTERPRETED:
        return torch.stack(ops.attention_backward_op(*qkv.unbind(2), out, lse, dout, dlse, *where), dim=2)
    gradient = torch.empty(qkv.shape, dtype=qkv.dtype, device=qkv.device)
    q, k, v = qkv.unbind(2)
    dq, dk, dv = gradient.unbind(2)
    ops.write_gradients((dq, dk, dv), q, k, v, out, lse, dout, dlse, *where)
    return gradient


@_packed_backward.register_fake
def _(qkv, *rest):  # type: ignore[no-untyped-def]
    return qkv.new_empty(qkv.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    qkv, *where, key_lengths, scale, with_lse = inputs
    ctx.save_for_backward(qkv, *ops.needed(tuple(where), output), key_lengths)
    ctx.where, ctx.scale, ctx.with_lse = where, scale, with_lse


def _backward(ctx: Any, dout: Tensor, dlse: Tensor) -> tuple[Tensor | None, ...]:
    qkv, out, lse, key_lengths = ctx.saved_tensors
    dlse_wanted = dlse if ctx.with_lse else None
    gradient = _packed_backward(qkv, out, lse, dout, dlse_wanted, *ctx.where, key_lengths, ctx.scale)
    return gradient, *[None] * 8


_packed.register_autograd(_backward, setup_context=_setup)
