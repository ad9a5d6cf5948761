"""Attention of fused queries, keys and values, whose gradient is written into one buffer of their layout.

Slicing a fused projection costs nothing forward, but backward torch stacks the three gradients: one more read and
write of them all. Here the three gradients are written into one tensor.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from phys4d.kernels.attention import ops
from phys4d.kernels.attention.api import attention, choose
from phys4d.kernels.attention.backends import triton
from phys4d.kernels.attention.call import Call, autocast_dtype, lengths_of
from phys4d.kernels.attention.flops import Shape, backward_flops, forward_flops
from phys4d.kernels.attention.patterns import Full, Grid, Pattern, Text
from phys4d.kernels.attention.qk_transform import QKTransform
from phys4d.kernels.dispatch import (
    below_autograd,
    cpu_kernel,
    differentiable_once,
    expect_one_device,
    low_overhead_call,
)
from phys4d.kernels.elementwise import QKNorm, Rope


def attention_packed(
    qkv: Tensor,
    *,
    grid: Grid | None = None,
    pattern: Pattern = Full(),  # noqa: B008 (frozen)
    text: Text | None = None,
    key_lengths: Tensor | Sequence[int] | None = None,
    mask: Tensor | None = None,
    qk_norm: QKNorm | None = None,
    rope: Rope | None = None,
    scale: float | None = None,
    return_lse: bool = False,
    backend: str = "auto",
) -> Any:
    """`attention` of queries, keys and values that are parts of one tensor, with one gradient of its shape.

    Args:
        qkv: [B, S, 3, heads, D], with a contiguous last dimension: queries, keys, values.
        grid, pattern, text, key_lengths, mask, qk_norm, rope, scale, return_lse, backend: as `attention`.
            Other backends than "triton", and a norm or rotation that its kernel cannot apply
            (`explain(...).fused_transform`), compute on slices, and torch stacks their gradients.

    Returns:
        out [B, S, heads, D], and with `return_lse` lse [B, heads, S], as `attention`.

    Raises:
        ValueError: qkv of another shape; what `attention` refuses.
    """
    if qkv.ndim != 5 or qkv.shape[2] != 3:
        raise ValueError(f"qkv: expected [B, S, 3, heads, D], got {list(qkv.shape)}")
    key_lengths = lengths_of(key_lengths, qkv)
    expect_one_device("attention_packed", qkv=qkv, key_lengths=key_lengths, mask=mask)
    if (lower := autocast_dtype(qkv.device)) is not None:
        qkv = qkv.to(lower)
    q, k, v = qkv.unbind(2)
    asked: dict[str, Any] = {"grid": grid, "pattern": pattern, "text": text, "key_lengths": key_lengths}
    asked |= {"mask": mask, "scale": scale, "return_lse": return_lse}
    call = Call(q, k, v, **asked, qk_norm=qk_norm, rope=rope)
    chosen = choose(call, backend).backend
    transform = triton.fused_transform(call) if chosen == "triton" else None
    if transform is None:
        return attention(q, k, v, **asked, qk_norm=qk_norm, rope=rope, backend=chosen)
    out, lse = _call(
        qkv, *ops.flat_pattern(pattern, grid, text), key_lengths, mask, call.factor, return_lse, *transform
    )  # fmt: skip
    return (out, lse) if return_lse else out


@torch.library.custom_op("phys4d::attention_packed", mutates_args=())
def _packed(
    qkv: Tensor, pattern: str, sizes: list[int], text: int, text_first: bool,
    key_lengths: Tensor | None, mask: Tensor | None, scale: float, with_lse: bool,
    q_weight: Tensor | None, k_weight: Tensor | None, q_bias: Tensor | None, k_bias: Tensor | None,
    time: Tensor | None, height: Tensor | None, width: Tensor | None, norm: str, epsilon: float, layout: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    q, k, v = qkv.unbind(2)
    return ops.forward(
        q, k, v, pattern, sizes, text, text_first, key_lengths, mask, scale, with_lse,
        q_weight, k_weight, q_bias, k_bias, time, height, width, norm, epsilon, layout,
    )  # fmt: skip


@_packed.register_fake
def _(qkv, *rest):  # type: ignore[no-untyped-def]
    return ops.attention_op(*qkv.unbind(2), *rest)


@torch.library.custom_op("phys4d::attention_packed_backward", mutates_args=())
def _packed_backward(
    qkv: Tensor, out: Tensor, lse: Tensor, dout: Tensor, dlse: Tensor | None, pattern: str, sizes: list[int],
    text: int, text_first: bool, key_lengths: Tensor | None, mask: Tensor | None, scale: float,
    q_weight: Tensor | None, k_weight: Tensor | None, q_bias: Tensor | None, k_bias: Tensor | None,
    time: Tensor | None, height: Tensor | None, width: Tensor | None, norm: str, epsilon: float, layout: str,
    weight_gradient: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    where = (pattern, sizes, text, text_first, key_lengths, mask, scale)
    transform = QKTransform(q_weight, k_weight, q_bias, k_bias, time, height, width, norm, epsilon, layout)
    gradient = torch.empty(qkv.shape, dtype=qkv.dtype, device=qkv.device)
    dq, dk, dv = gradient.unbind(2)
    q, k, v = qkv.unbind(2)
    dweights = ops.write_gradients(
        (dq, dk, dv), q, k, v, out, lse, dout, dlse, *where, transform, weight_gradient
    )  # fmt: skip
    return gradient, dweights


@_packed_backward.register_fake
def _(qkv, *rest):  # type: ignore[no-untyped-def]
    return qkv.new_empty(qkv.shape), ops.empty_weight_gradients(qkv, *rest)


differentiable_once(_packed_backward)
_backward_call = below_autograd(_packed_backward)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ops.keep(ctx, inputs[:1], inputs[1:], output)


def _backward(ctx: Any, dout: Tensor, dlse: Tensor) -> tuple[Any, ...]:
    gradients, others = ops.gradients_of(ctx, _backward_call, 1, dout, dlse)
    return (*gradients, *others)


_packed.register_autograd(_backward, setup_context=_setup)
_call = low_overhead_call(_packed, _setup, _backward)


@cpu_kernel(_packed)
def _(qkv, *rest):  # type: ignore[no-untyped-def]
    return ops.attention_op(*qkv.unbind(2), *rest)


@cpu_kernel(_packed_backward)
def _(qkv, *rest):  # type: ignore[no-untyped-def]
    *gradients, dweights = ops.attention_backward_op(*qkv.unbind(2), *rest)
    return torch.stack(gradients, dim=2), dweights


@register_flop_formula(torch.ops.phys4d.attention_packed)
def _(qkv: Shape, *rest: Any, out_shape: Any = None) -> int:
    one = (*qkv[:2], *qkv[3:])
    return forward_flops(one, one, one, *rest[:4])


@register_flop_formula(torch.ops.phys4d.attention_packed_backward)
def _(qkv: Shape, *rest: Any, out_shape: Any = None) -> int:
    one = (*qkv[:2], *qkv[3:])
    return backward_flops(one, one, one, *rest[:8])
