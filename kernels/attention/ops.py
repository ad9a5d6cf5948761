"""The kernels as torch operators: `phys4d::attention` and its backward, with fake, autograd, autocast and CPU rules.

An operator takes flat arguments; `attention` makes them from a call and knows what may be served.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from phys4d.kernels.attention import flash, short_rows, window
from phys4d.kernels.attention.patterns import PATTERNS, Grid, Pattern, Text
from phys4d.kernels.attention.qk_transform import QKTransform
from phys4d.kernels.attention.reference import attention_backward_reference, attention_reference
from phys4d.kernels.dispatch import (
    below_autograd,
    contiguous_integers,
    cpu_kernel,
    differentiable_once,
    low_overhead_call,
    on_device_of,
    with_rows,
)

# Kernels of patterns whose keys form no rows, by the pattern's name. All others are served by `flash` and `short_rows`.
OWN_KERNELS: dict[str, Any] = {"window": window}


def has_kernel(pattern: Pattern, grid: Grid | None) -> bool:
    """Whether a Triton kernel of this package computes the pattern."""
    if pattern.crosses or pattern.name in OWN_KERNELS:
        return True
    return grid is not None and pattern.rows(grid) is not None


def flat_pattern(pattern: Pattern, grid: Grid | None, text: Text | None) -> tuple[str, list[int], int, bool]:
    """The operator's arguments for a pattern: its name, its sizes, text tokens, whether text is first.

    Sizes are those of the grid, 0 without, then the pattern's numbers: a list that is never empty, since an empty one
    arrives as None from a package of AOTInductor.
    """
    number, first = (text[0], text[1] == "first") if text else (0, False)
    return pattern.name, [*(grid or (0, 0, 0)), *pattern.numbers], number, first


def pattern_of(name: str, sizes: list[int], text: int, text_first: bool) -> tuple[Pattern, Grid | None, Text | None]:
    """Pattern, grid and text of the operator's arguments."""
    time, height, width, *numbers = sizes
    pattern = PATTERNS[name].from_numbers(numbers)
    return pattern, (time, height, width) if time else None, (text, "first" if text_first else "last") if text else None


def forward(
    q: Tensor, k: Tensor, v: Tensor, pattern: str, sizes: list[int], text: int, text_first: bool,
    key_lengths: Tensor | None, mask: Tensor | None, scale: float, with_lse: bool,
    q_weight: Tensor | None, k_weight: Tensor | None, q_bias: Tensor | None, k_bias: Tensor | None,
    time: Tensor | None, height: Tensor | None, width: Tensor | None, norm: str, epsilon: float, layout: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """out [B, S_q, heads, D_v] and lse float32 [B, heads, S_q]; `with_lse` false leaves lse to the kernel's needs.

    q_weight and what follows are a `QKTransform`, which only the kernel of short rows takes.
    """
    kind, grid, text_place = pattern_of(pattern, sizes, text, text_first)
    lengths = contiguous_integers(key_lengths)
    with on_device_of(q):  # the options depend on the GPU
        if short_rows.serves(kind, grid, text_place, q.shape, k.shape, mask):
            transform = QKTransform(q_weight, k_weight, q_bias, k_bias, time, height, width, norm, epsilon, layout)
            return short_rows.forward(q, k, v, kind, grid, lengths, scale, with_lse, transform)
        assert q_weight is None and time is None, "no other kernel norms or rotates"
        if pattern in OWN_KERNELS:
            assert mask is None and q.shape[2] == k.shape[2], "patterns' own kernels take neither"
            return OWN_KERNELS[pattern].forward(q, k, v, kind, grid, text_place, lengths, scale)
        return flash.forward(q, k, v, kind, grid, text_place, lengths, mask, scale)


attention_op = torch.library.custom_op("phys4d::attention", forward, mutates_args=())


@attention_op.register_fake
def _(q, k, v, pattern, sizes, text, text_first, key_lengths, mask, scale, with_lse, *transform):  # type: ignore[no-untyped-def]
    kind, grid, text_place = pattern_of(pattern, sizes, text, text_first)
    kept = with_lse or not short_rows.serves(kind, grid, text_place, q.shape, k.shape, mask)
    lse = q.new_empty((q.shape[0], q.shape[2], q.shape[1]) if kept else (0, 0, 0), dtype=torch.float32)
    return q.new_empty((*q.shape[:3], v.shape[3])), lse


def backward(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, dout: Tensor, dlse: Tensor | None,
    pattern: str, sizes: list[int], text: int, text_first: bool, key_lengths: Tensor | None,
    mask: Tensor | None, scale: float,
    q_weight: Tensor | None, k_weight: Tensor | None, q_bias: Tensor | None, k_bias: Tensor | None,
    time: Tensor | None, height: Tensor | None, width: Tensor | None, norm: str, epsilon: float, layout: str,
    weight_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """dq, dk, dv, contiguous, and, with `weight_gradient`, float32 gradients [2 or 4, D] of the weights, else empty.

    out and lse are not read where the kernel of short rows serves.
    """
    dq, dk, dv = (torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (q, k, v))
    dweights = write_gradients(
        (dq, dk, dv), q, k, v, out, lse, dout, dlse, pattern, sizes, text, text_first, key_lengths, mask, scale,
        QKTransform(q_weight, k_weight, q_bias, k_bias, time, height, width, norm, epsilon, layout), weight_gradient,
    )  # fmt: skip
    return dq, dk, dv, dweights


def write_gradients(
    gradients: tuple[Tensor, Tensor, Tensor], q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, dout: Tensor,
    dlse: Tensor | None, pattern: str, sizes: list[int], text: int, text_first: bool,
    key_lengths: Tensor | None, mask: Tensor | None, scale: float, transform: QKTransform, weight_gradient: bool,
) -> Tensor:  # fmt: skip
    """Fills gradients shaped like q, k, v, with whatever strides they have; returns those of the weights."""
    kind, grid, text_place = pattern_of(pattern, sizes, text, text_first)
    dout, lengths = with_rows(dout), contiguous_integers(key_lengths)
    part = kind.sees_all and lse.numel() > 0  # out and lse may be over more keys than these
    with on_device_of(q):
        if not part and short_rows.serves(kind, grid, text_place, q.shape, k.shape, mask):
            return short_rows.backward(
                q, k, v, dout, dlse, kind, grid, lengths, scale, gradients, transform, weight_gradient
            )
        out, lse = with_rows(out), lse.contiguous()
        if 0 in dout.stride():  # an expanded gradient, which TMA does not take
            dout = dout.contiguous()
        given = q, k, v, out, lse, dout, dlse, kind, grid, text_place, lengths
        if pattern in OWN_KERNELS:
            OWN_KERNELS[pattern].backward(*given, scale, gradients)
        else:
            flash.backward(*given, mask, scale, gradients)
    return q.new_empty((0, 0), dtype=torch.float32)


attention_backward_op = torch.library.custom_op("phys4d::attention_backward", backward, mutates_args=())


@attention_backward_op.register_fake
def _(q, k, v, *rest):  # type: ignore[no-untyped-def]
    return *(t.new_empty(t.shape) for t in (q, k, v)), empty_weight_gradients(q, *rest)


differentiable_once(attention_backward_op)
attention_backward_call = below_autograd(attention_backward_op)


def empty_weight_gradients(like: Tensor, *arguments: Any) -> Tensor:
    """Room for the gradients of weights, on the device of a tensor [..., D], from a backward operator's arguments."""
    *transform, wanted = arguments[-11:]
    count = len(QKTransform(*transform).weights) if wanted else 0
    return like.new_empty((count, like.shape[-1]) if count else (0, 0), dtype=torch.float32)


def _needed(
    where: Sequence[Any], q: Tensor, k: Tensor, mask: Tensor | None, output: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """What backward needs of out and lse: empty tensors where the kernel of short rows serves, which needs neither."""
    empty = output[0].new_empty(0)
    return (empty, empty) if short_rows.serves(*pattern_of(*where), q.shape, k.shape, mask) else output


def keep(ctx: Any, tensors: tuple[Tensor, ...], rest: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """Saves for `gradients_of`: tensors, and of the operator's other arguments (from `pattern` on) what they need.

    tensors: q, k, v, or the one tensor [B, S, 3, heads, D] of all.
    """
    *where, key_lengths, mask, scale, with_lse = rest[:8]
    *kept, norm, epsilon, layout = rest[8:]
    if mask is not None and mask.requires_grad:
        raise RuntimeError("phys4d::attention: gives no gradient of the mask, detach it or take backend sdpa")
    q, k = tensors[:2] if len(tensors) > 1 else tensors[0].unbind(2)[:2]
    ctx.save_for_backward(*tensors, *_needed(where, q, k, mask, output), key_lengths, mask, *kept)
    ctx.rest = where, scale, with_lse, (norm, epsilon, layout)


def gradients_of(
    ctx: Any, operator: Any, first: int, dout: Tensor, dlse: Tensor
) -> tuple[list[Tensor], tuple[Any, ...]]:
    """What `operator` makes of what `keep` saved: gradients of the `first` tensors, and of the arguments after them."""
    where, scale, with_lse, rest = ctx.rest
    *saved, out, lse, key_lengths, mask = ctx.saved_tensors[: first + 4]
    *weights, time, height, width = ctx.saved_tensors[first + 4 :]
    wanted = any(ctx.needs_input_grad[first + 8 : first + 12])  # weights follow the eight numbers of the call
    *gradients, dweights = operator(
        *saved, out, lse, dout, dlse if with_lse else None, *where, key_lengths, mask, scale, *weights,
        time, height, width, *rest, wanted,
    )  # fmt: skip
    rows = iter(dweights)
    found = [next(rows).to(weight.dtype) if wanted and weight is not None else None for weight in weights]
    return gradients, (*(None,) * 8, *found, *(None,) * 6)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    keep(ctx, inputs[:3], inputs[3:], output)


def _backward(ctx: Any, dout: Tensor, dlse: Tensor) -> tuple[Any, ...]:
    gradients, others = gradients_of(ctx, attention_backward_call, 3, dout, dlse)
    return (*gradients, *others)


attention_op.register_autograd(_backward, setup_context=_setup)
attention_call = low_overhead_call(attention_op, _setup, _backward)


@cpu_kernel(attention_op)
def _(q, k, v, pattern, sizes, text, text_first, key_lengths, mask, scale, with_lse, *rest):  # type: ignore[no-untyped-def]
    kind, grid, text_place = pattern_of(pattern, sizes, text, text_first)
    kept = with_lse or not short_rows.serves(kind, grid, text_place, q.shape, k.shape, mask)
    q, k = QKTransform(*rest).apply(q, k, grid)
    out, lse = attention_reference(
        q, k, v, grid=grid, pattern=kind, text=text_place, key_lengths=key_lengths, mask=mask, scale=scale
    )  # fmt: skip
    return out.contiguous(), lse.float() if kept else lse.new_empty(0, 0, 0, dtype=torch.float32)


@cpu_kernel(attention_backward_op)
def _(q, k, v, out, lse, dout, dlse, pattern, sizes, text, text_first, key_lengths, mask, scale, *rest):  # type: ignore[no-untyped-def]
    kind, grid, text_place = pattern_of(pattern, sizes, text, text_first)
    *flat_transform, weight_gradient = rest
    transform = QKTransform(*flat_transform)
    asked: dict[str, Any] = {
        "grid": grid, "pattern": kind, "text": text_place, "key_lengths": key_lengths, "mask": mask, "scale": scale,
    }  # fmt: skip
    ready = *transform.apply(q, k, grid), v
    if not out.numel():  # the kernel of short rows keeps neither
        out, lse = attention_reference(*ready, **asked)
    dq, dk, dv = attention_backward_reference(*ready, out, lse, dout, dlse, **asked)
    dq, dk, dweights = transform.gradients(q, k, dq, dk, grid, weight_gradient)
    return dq.contiguous(), dk.contiguous(), dv.contiguous(), dweights
