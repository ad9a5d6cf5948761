"""The kernels as torch operators: `phys4d::attention` and its backward, with fake, autograd, autocast and CPU rules.

An operator takes flat arguments; `attention` makes them from a call and knows what may be served.
"""

from typing import Any

import torch
from torch import Tensor

from phys4d.kernels.attention import flash, launch, temporal, window
from phys4d.kernels.attention.patterns import Full, Grid, Pattern, Spatial, Temporal, Text, Window
from phys4d.kernels.attention.reference import attention_backward_reference, attention_reference

_NAMES = {Full: "full", Spatial: "spatial", Temporal: "temporal", Window: "window"}


def flat(pattern: Pattern, grid: Grid | None, text: Text | None) -> tuple[str, list[int], list[int], int, bool]:
    """The operator's arguments for a pattern: its name, its numbers, the grid, text tokens, whether text is first."""
    numbers: list[int] = []
    if isinstance(pattern, Temporal):
        numbers = [int(pattern.causal)]
    elif isinstance(pattern, Window):
        numbers = [pattern.t, pattern.h, pattern.w]
    return _NAMES[type(pattern)], numbers, list(grid or ()), text[0] if text else 0, bool(text and text[1] == "first")


def _pattern(name: str, numbers: list[int]) -> Pattern:
    if name == "temporal":
        return Temporal(causal=bool(numbers[0]))
    if name == "window":
        return Window(*numbers)
    return Full() if name == "full" else Spatial()


def _arranged(
    name: str, numbers: list[int], grid: list[int], text: int, text_first: bool
) -> tuple[Pattern, Grid | None, Text | None]:
    sizes: Any = tuple(grid)
    return _pattern(name, numbers), sizes or None, (text, "first" if text_first else "last") if text else None


def forward(
    q: Tensor, k: Tensor, v: Tensor, pattern: str, numbers: list[int], grid: list[int], text: int, text_first: bool,
    key_lengths: Tensor | None, scale: float, with_lse: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """out [B, S_q, heads, D] and lse float32 [B, heads, S_q]; `with_lse` false leaves lse to the kernel's needs."""
    kind, sizes, words = _arranged(pattern, numbers, grid, text, text_first)
    if temporal.serves(kind, sizes, words, q.shape[3]):
        assert isinstance(kind, Temporal) and sizes is not None
        return temporal.forward(q, k, v, kind, sizes, key_lengths, scale, with_lse)
    if isinstance(kind, Window):
        assert sizes is not None
        return window.forward(q, k, v, kind, sizes, words, key_lengths, scale)
    return flash.forward(q, k, v, kind, sizes, words, key_lengths, scale)


attention_op = torch.library.custom_op("phys4d::attention", forward, mutates_args=())


@attention_op.register_fake
def _(q, k, v, pattern, numbers, grid, text, text_first, key_lengths, scale, with_lse):  # type: ignore[no-untyped-def]
    kind, sizes, words = _arranged(pattern, numbers, grid, text, text_first)
    kept = with_lse or not temporal.serves(kind, sizes, words, q.shape[3])
    lse = q.new_empty((q.shape[0], q.shape[2], q.shape[1]) if kept else (0, 0, 0), dtype=torch.float32)
    return q.new_empty(q.shape), lse


def backward(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, dout: Tensor, dlse: Tensor | None,
    pattern: str, numbers: list[int], grid: list[int], text: int, text_first: bool, key_lengths: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """dq, dk, dv, contiguous; out and lse are not read where the temporal kernel serves."""
    dq, dk, dv = (torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (q, k, v))
    write_gradients(
        (dq, dk, dv), q, k, v, out, lse, dout, dlse, pattern, numbers, grid, text, text_first, key_lengths, scale
    )  # fmt: skip
    return dq, dk, dv


def write_gradients(
    gradients: tuple[Tensor, Tensor, Tensor], q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, dout: Tensor,
    dlse: Tensor | None, pattern: str, numbers: list[int], grid: list[int], text: int, text_first: bool,
    key_lengths: Tensor | None, scale: float,
) -> None:  # fmt: skip
    """Fills gradients shaped like q, k, v, with whatever strides they have."""
    kind, sizes, words = _arranged(pattern, numbers, grid, text, text_first)
    if dout.stride(-1) != 1:
        dout = dout.contiguous()
    if temporal.serves(kind, sizes, words, q.shape[3]):
        assert isinstance(kind, Temporal) and sizes is not None
        temporal.backward(q, k, v, dout, dlse, kind, sizes, key_lengths, scale, gradients)
    elif isinstance(kind, Window):
        assert sizes is not None
        window.backward(q, k, v, out, lse, dout, dlse, kind, sizes, words, key_lengths, scale, gradients)
    else:
        flash.backward(q, k, v, out, lse, dout, dlse, kind, sizes, words, key_lengths, scale, gradients)


attention_backward_op = torch.library.custom_op("phys4d::attention_backward", backward, mutates_args=())


@attention_backward_op.register_fake
def _(q, k, v, out, lse, dout, dlse, pattern, numbers, grid, text, text_first, key_lengths, scale):  # type: ignore[no-untyped-def]
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def needed(where: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """What backward needs of out and lse: empty tensors where the temporal kernel serves, which needs neither."""
    empty = output[0].new_empty(0)
    return (empty, empty) if temporal.serves(*_arranged(*where), output[0].shape[3]) else output


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, *where, key_lengths, scale, with_lse = inputs
    kept = needed(tuple(where), output)
    ctx.save_for_backward(q, k, v, *kept, key_lengths)
    ctx.where, ctx.scale, ctx.with_lse = where, scale, with_lse


def _backward(ctx: Any, dout: Tensor, dlse: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, out, lse, key_lengths = ctx.saved_tensors
    gradients = attention_backward_op(
        q, k, v, out, lse, dout, dlse if ctx.with_lse else None, *ctx.where, key_lengths, ctx.scale
    )
    return (*gradients, *[None] * 8)


attention_op.register_autograd(_backward, setup_context=_setup)


if not launch.INTERPRETED:  # without the interpreter no kernel runs on a CPU: there the operators are their definition

    @attention_op.register_kernel("cpu")
    def _(q, k, v, pattern, numbers, grid, text, text_first, key_lengths, scale, with_lse):  # type: ignore[no-untyped-def]
        kind, sizes, words = _arranged(pattern, numbers, grid, text, text_first)
        out, lse = attention_reference(
            q, k, v, grid=sizes, pattern=kind, text=words, key_lengths=key_lengths, scale=scale
        )  # fmt: skip
        kept = with_lse or not temporal.serves(kind, sizes, words, q.shape[3])
        return out.contiguous(), lse.float() if kept else lse.new_empty(0, 0, 0, dtype=torch.float32)

    @attention_backward_op.register_kernel("cpu")
    def _(q, k, v, out, lse, dout, dlse, pattern, numbers, grid, text, text_first, key_lengths, scale):  # type: ignore[no-untyped-def]
        kind, sizes, words = _arranged(pattern, numbers, grid, text, text_first)
        asked: dict[str, Any] = {
            "grid": sizes, "pattern": kind, "text": words, "key_lengths": key_lengths, "scale": scale,
        }  # fmt: skip
        if not out.numel():  # the temporal kernel keeps neither
            out, lse = attention_reference(q, k, v, **asked)
        found = attention_backward_reference(q, k, v, out, lse, dout, dlse, **asked)
        return tuple(t.contiguous() for t in found)
