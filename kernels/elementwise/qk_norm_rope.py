"""Norm of queries and keys and their rotation, in one pass, trainable."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import triton
from torch import Tensor

from phys4d.kernels.direct import below_autograd, direct
from phys4d.kernels.elementwise import norm_rope_kernels as kernels
from phys4d.kernels.elementwise.reference import norm_rope_backward_reference, norm_rope_reference
from phys4d.kernels.elementwise.rope import Grid, Rope
from phys4d.kernels.elementwise.serving import INTERPRETED, by_definition

Text = tuple[int, Literal["first", "last"]]
Kind = Literal["rms", "layer", "rms_across_heads"]

_KINDS = {"rms": kernels.RMS, "layer": kernels.LAYER, "rms_across_heads": kernels.RMS_ACROSS_HEADS, "": kernels.NO_NORM}
_PROGRAMS = 1024  # of the backward: each adds up its tokens' weight gradients, in an order that no machine changes
_LARGEST_TILE = 1 << 13  # lanes of one token that a program holds


@dataclass(frozen=True)
class QKNorm:
    """The norm of queries and keys.

    Args:
        kind: "rms" per head (Open-Sora), "layer" per head (CogVideoX), "rms_across_heads" over all heads (Wan).
        q_weight, k_weight: [D], or [heads * D] across heads.
        q_bias, k_bias: of "layer", like the weights.
        epsilon: added to the mean square.
    """

    kind: Kind
    q_weight: Tensor
    k_weight: Tensor
    q_bias: Tensor | None = None
    k_bias: Tensor | None = None
    epsilon: float = 1e-6


def norm_rope(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, kind: Kind | None, epsilon: float, rope: Rope | None,
    grid: Grid, begin: int = 0,
) -> Tensor:  # fmt: skip
    """Norm of every token's heads, then their rotation: one read, one write, float32 between.

    Args:
        x: [B, S, heads, D], any strides with a contiguous last dimension, D even.
        weight, bias: [D], or [heads * D] for "rms_across_heads"; bias for "layer" alone.
        kind: which norm, None for none.
        epsilon: added to the mean square.
        rope: the rotation, None for none.
        grid: (T, H, W) of the video's tokens.
        begin: position among the video's tokens at which token 0 stands; tokens before 0 and beyond the video, which
            are text, are not rotated.

    Returns:
        [B, S, heads, D], contiguous, in x's dtype; differentiable in x, weight and bias.

    Raises:
        ValueError: shapes that do not fit.
    """
    check(x, weight, bias, kind, rope, grid)
    tables = list(rope.tables) if rope else []
    return _call(x, weight, bias, kind or "", epsilon, tables, rope.layout if rope else "", list(grid), begin)


def qk_norm_rope(
    q: Tensor, k: Tensor, norm: QKNorm | None, rope: Rope | None, *,
    grid: Grid, text: Text | None = None, start: int = 0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`norm_rope` of queries and keys [B, S, heads, D], with text before or after the video.

    Args:
        norm, rope, grid: see there.
        text: (n, "first" | "last"): normed, not rotated.
        start: position of token 0 in the whole sequence, where this is a part of it.
    """
    begin = start - (text[0] if text and text[1] == "first" else 0)
    if norm is None:
        return tuple(norm_rope(x, None, None, None, 0.0, rope, grid, begin) for x in (q, k))  # type: ignore[return-value]
    return (
        norm_rope(q, norm.q_weight, norm.q_bias, norm.kind, norm.epsilon, rope, grid, begin),
        norm_rope(k, norm.k_weight, norm.k_bias, norm.kind, norm.epsilon, rope, grid, begin),
    )


def check(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, kind: str | None, rope: Rope | None, grid: Grid
) -> None:
    """ValueError unless x, the norm `kind` with its weight and bias, and the rotation fit each other."""
    if x.ndim != 4 or x.shape[3] % 2 or (x.stride(3) != 1 and x.shape[3] > 1) or not x.is_floating_point():
        raise ValueError(
            "norm_rope: expected floating [B, S, heads, D] with an even, contiguous D, "
            f"got {x.dtype} {list(x.shape)} with strides {x.stride()}"
        )
    heads, dim = x.shape[2:]
    if kind is not None:
        if kind not in _KINDS:
            raise ValueError(f"qk_norm: expected rms, layer or rms_across_heads, got {kind!r}")
        expected = heads * dim if kind == "rms_across_heads" else dim
        for name, tensor in (("weight", weight), ("bias", bias)):
            if tensor is None and name == "bias":
                continue
            if tensor is None or tensor.shape != (expected,) or tensor.stride() != (1,):
                got = None if tensor is None else list(tensor.shape)
                raise ValueError(f"qk_norm {kind}: expected a contiguous {name} [{expected}], got {got}")
        if bias is not None and kind != "layer":
            raise ValueError(f"qk_norm {kind}: has no bias")
    if rope is not None:
        for axis, table, size in zip(("time", "height", "width"), rope.tables, grid, strict=True):
            if table.shape[1] and table.shape[0] < size:
                raise ValueError(f"rope: the {axis} table has {table.shape[0]} positions, the grid has {size}")
            if table.device != x.device:
                raise ValueError(f"rope: the {axis} table is on {table.device}, the tokens are on {x.device}")
        if 2 * rope.pairs > dim or (rope.layout == "half" and 2 * rope.pairs != dim):
            raise ValueError(f"rope: {rope.pairs} pairs ({rope.layout}) do not fit heads of {dim} lanes")


def _launch_options(x: Tensor) -> dict[str, int]:
    heads, dim = x.shape[2:]
    options = {"HEADS": triton.next_power_of_2(heads), "PAIRS": max(8, triton.next_power_of_2(dim // 2))}
    lanes = 2 * options["HEADS"] * options["PAIRS"]
    if lanes > _LARGEST_TILE:
        raise ValueError(f"norm_rope: {heads} heads of {dim} lanes are more than a program holds ({_LARGEST_TILE})")
    return options if INTERPRETED else options | {"num_warps": 4 if lanes <= 4096 else 8}


def _strides(*tensors: Tensor) -> tuple[int, list[int]]:
    """The largest power of two, at most 16, that divides all batch, token and head strides, and they in units of it."""
    found = [stride for tensor in tensors for stride in tensor.stride()[:3]]
    align = math.gcd(16, *found)
    return align, [stride // align for stride in found]


def _rope_arguments(x: Tensor, tables: list[Tensor], grid: list[int]) -> tuple[list[Any], list[int]]:
    pointers = [table.to(torch.float32).contiguous() for table in tables] or [x, x, x]
    pairs = [table.shape[1] for table in tables] or [0, 0, 0]
    return pointers, [grid[1] * grid[2], grid[2], grid[0] * grid[1] * grid[2], *pairs]


def rope_of(layout: str, tables: list[Tensor]) -> Rope | None:
    """The rotation of an operator's flat arguments; None without tables."""
    return Rope((tables[0], tables[1], tables[2]), "half" if layout == "half" else "interleaved") if tables else None


def _by_definition(
    x: Tensor, dy: Tensor, weight: Tensor | None, bias: Tensor | None, kind: str, epsilon: float, tables: list[Tensor],
    layout: str, grid: list[int], begin: int, weight_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """What `backward` gives, in plain torch."""
    rope = rope_of(layout, tables)
    sizes: Any = tuple(grid)
    dx, *rest = norm_rope_backward_reference(x, dy, weight, bias, kind, epsilon, rope, sizes, begin)
    exact = torch.promote_types(dy.dtype, torch.float32)
    wanted = weight_gradient and weight is not None
    dweight, dbias = (t if wanted and t is not None else dx.new_empty(0, dtype=exact) for t in rest)
    return dx, dweight, dbias


def forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, kind: str, epsilon: float, tables: list[Tensor], layout: str,
    grid: list[int], begin: int,
) -> Tensor:  # fmt: skip
    """The operator: `norm_rope` with flat arguments; float64 by its definition, the kernel works in float32."""
    if by_definition(x):
        sizes: Any = tuple(grid)
        return norm_rope_reference(
            x, weight, bias, kind, epsilon, rope_of(layout, tables), sizes, begin
        ).contiguous()  # fmt: skip
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if not y.numel():
        return y
    pointers, (cells, width, tokens, *pairs) = _rope_arguments(x, tables, grid)
    align, strides = _strides(x)
    kernels.forward[(x.shape[0] * x.shape[1],)](
        x, y, weight if weight is not None else x, bias if bias is not None else x, *pointers,
        x.shape[1], x.shape[2], epsilon, begin, cells, width, tokens, *pairs, *strides,
        ALIGN=align, D=x.shape[3], HALF=layout == "half", NORM=_KINDS[kind], BIAS=bias is not None, ROPE=bool(tables),
        **_launch_options(x),
    )  # fmt: skip
    return y


_op = torch.library.custom_op("phys4d::norm_rope", forward, mutates_args=())


@_op.register_fake
def _(x, weight, bias, kind, epsilon, tables, layout, grid, begin):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape)


def backward(
    x: Tensor, dy: Tensor, weight: Tensor | None, bias: Tensor | None, kind: str, epsilon: float, tables: list[Tensor],
    layout: str, grid: list[int], begin: int, weight_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """dx, and, with `weight_gradient`, gradients of weight and bias (else, or where there is none: empty).

    These two are float32, float64 for float64, which is by the definition.
    """
    if by_definition(dy):
        return _by_definition(x, dy, weight, bias, kind, epsilon, tables, layout, grid, begin, weight_gradient)
    if dy.stride(3) != 1:
        dy = dy.contiguous()
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
        pointers, (cells, width, tokens, *pairs) = _rope_arguments(dy, tables, grid)
        align, strides = _strides(x, dy)
        kernels.backward[(programs,)](
            x, dy, dx, weight if weight is not None else dy, *partial, *pointers,
            dy.shape[1], total, programs, dy.shape[2], epsilon, begin, cells, width, tokens, *pairs,
            *strides, ALIGN=align, D=dy.shape[3], HALF=layout == "half", NORM=_KINDS[kind], BIAS=bias is not None,
            ROPE=bool(tables), WEIGHT_GRADIENT=weight_gradient, **_launch_options(dy),
        )  # fmt: skip
    exact = torch.promote_types(dy.dtype, torch.float32)
    return dx, partial[0].sum(0).to(exact), partial[1].sum(0).to(exact)


_backward_op = torch.library.custom_op("phys4d::norm_rope_backward", backward, mutates_args=())


@_backward_op.register_fake
def _(x, dy, weight, bias, kind, epsilon, tables, layout, grid, begin, weight_gradient):  # type: ignore[no-untyped-def]
    sizes = [t.shape[0] if weight_gradient and weight is not None and t is not None else 0 for t in (weight, bias)]
    exact = torch.promote_types(dy.dtype, torch.float32)
    return dy.new_empty(dy.shape), *(dy.new_empty(size, dtype=exact) for size in sizes)


_backward_call = below_autograd(_backward_op)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, kind, epsilon, tables, layout, grid, begin = inputs
    ctx.save_for_backward(x if kind else x.new_empty(0, 0, 0, 0), weight, bias, *tables)
    ctx.rest = kind, epsilon, layout, grid, begin


def _backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    x, weight, bias, *tables = ctx.saved_tensors
    kind, epsilon, layout, grid, begin = ctx.rest
    wanted = weight is not None and any(ctx.needs_input_grad[1:3])
    dx, dweight, dbias = _backward_call(x, dy, weight, bias, kind, epsilon, tables, layout, grid, begin, wanted)
    return (
        dx,
        dweight.to(weight.dtype) if wanted else None,
        dbias.to(bias.dtype) if wanted and bias is not None else None,
        None,
        None,
        [None] * len(tables),
        None,
        None,
        None,
    )


_op.register_autograd(_backward, setup_context=_setup)
_call = direct(_op, _setup, _backward)


if not INTERPRETED:

    @_op.register_kernel("cpu")
    def _(x, weight, bias, kind, epsilon, tables, layout, grid, begin):  # type: ignore[no-untyped-def]
        rope = rope_of(layout, tables)
        return norm_rope_reference(x, weight, bias, kind, epsilon, rope, grid, begin).contiguous()

    _backward_op.register_kernel("cpu")(_by_definition)
