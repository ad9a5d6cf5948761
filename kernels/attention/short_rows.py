"""Attention over short rows, forward and backward: the launches."""

from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from phys4d.kernels.attention import hardware, norm_rope_tiles, short_rows_kernels, tiles
from phys4d.kernels.attention.flash import LOG2E
from phys4d.kernels.attention.patterns import Grid, Pattern, Rows, Text
from phys4d.kernels.attention.qk_transform import QKTransform
from phys4d.kernels.dispatch import INTERPRETED, aligned_strides, launch
from phys4d.kernels.elementwise.norm_rope_ops import float32_table

LONGEST = 128
_NORMS = {"": norm_rope_tiles.NO_NORM, "rms": norm_rope_tiles.RMS, "layer": norm_rope_tiles.LAYER}
_LARGEST_ROW = 1 << 13  # tokens times channels: fits into the shared memory of every GPU since sm_80, also backward


def _rows(pattern: Pattern, grid: Grid | None, tokens: int) -> Rows | None:
    """The rows of a sequence of `tokens` without text: all of it, or the pattern's; None where there are none."""
    if pattern.crosses:
        return pattern.rows((1, 1, tokens))
    return None if grid is None else pattern.rows(grid)


def serves(
    pattern: Pattern, grid: Grid | None, text: Text | None, q: Sequence[int], k: Sequence[int], mask: Tensor | None
) -> bool:
    """Whether the kernel serves: rows that stand alone, of at most 128 tokens (64 where a head has 128 channels).

    q, k: shapes of queries and keys [B, S, heads, D], of equally many heads.
    """
    if q[1] != k[1] or q[2] != k[2] or mask is not None or (not pattern.sees_all and text and text[0]):
        return False
    rows = _rows(pattern, grid, q[1])
    if rows is None or not 1 <= rows.length <= LONGEST:
        return False
    return triton.next_power_of_2(rows.length) * sum(tiles.split(q[3])) <= _LARGEST_ROW


def config(tokens: int, dim: int, dtype: torch.dtype, backward: bool, normed: bool = False) -> dict[str, int]:
    """Tile size, padded row and warps: the same for the same device, shape and dtype; `normed`: with a norm."""
    pad = max(2, triton.next_power_of_2(tokens))
    if INTERPRETED:
        return {"BLOCK": max(32, pad), "PAD": pad}
    machine = hardware.architecture()
    wide = sum(tiles.split(dim)) > 128
    smallest = 64 if machine >= 90 and not wide else 32  # what a tensor core instruction takes
    smallest = 16 if dtype == torch.float32 else smallest
    block = max(smallest, pad)
    crowded = (machine < 90 and block > 32) or (machine >= 100 and pad >= 32) or wide
    crowded = crowded or (normed and sum(tiles.split(dim)) > 80)
    heavy = block > 64 or (backward and crowded)
    return {"BLOCK": block, "PAD": pad, "num_warps": 8 if heavy else 4, "num_stages": 1}


def _layout(
    q: Tensor, pattern: Pattern, grid: Grid | None, backward: bool, normed: bool
) -> tuple[int, tuple[int, ...], bool, dict[str, int]]:
    """How many programs, the kernels' numbers (heads, rows, steps, the video's sizes), causal or not, and options."""
    batch, tokens, heads, dim = q.shape
    rows = _rows(pattern, grid, tokens)
    assert rows is not None
    options = config(rows.length, dim, q.dtype, backward, normed)
    _, height, width = grid or (tokens, 1, 1)
    total = batch * rows.number * heads
    if total >= 1 << 31:
        raise ValueError(f"attention: expected fewer than 2^31 rows, all clips and heads together, got {total}")
    numbers = (heads, rows.number, rows.token_step, rows.row_step, total, rows.length, height * width, width, tokens)
    return triton.cdiv(total, options["BLOCK"] // options["PAD"]), numbers, rows.causal, options


def _transform_arguments(transform: QKTransform, unused: Tensor) -> tuple[list[Tensor], dict[str, int]]:
    """Pointers to weights, biases and tables, and the kernels' options."""
    weights = [weight.contiguous() for weight in transform.weights]
    tables = [float32_table(table) for table in transform.tables]
    pairs = [table.shape[1] for table in tables] or [0, 0, 0]
    options = {
        "NORM": _NORMS[transform.norm], "BIAS": len(weights) == 4, "ROPE": bool(tables),
        "HALF": transform.layout == "half", "TIME": pairs[0], "HEIGHT": pairs[1], "WIDTH": pairs[2],
    }  # fmt: skip
    return [*weights, *[unused] * (4 - len(weights)), *(tables or [unused] * 3)], options


def forward(
    q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, grid: Grid | None, lengths: Tensor | None, scale: float,
    with_lse: bool, transform: QKTransform,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """out [B, S, heads, D] in q's dtype and lse float32 [B, heads, S] (empty without `with_lse`)."""
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = q.new_empty((q.shape[0], q.shape[2], q.shape[1]) if with_lse else (0, 0, 0), dtype=torch.float32)
    programs, shape, causal, options = _layout(q, pattern, grid, False, bool(transform.norm))
    first, rest = tiles.split(q.shape[3])
    pointers, fused = _transform_arguments(transform, q)
    align, strides = aligned_strides(q, k, v, out)
    launch(
        short_rows_kernels.forward, programs,
        q, k, v, out, lse, lengths if lengths is not None else q, *pointers, scale * LOG2E, transform.epsilon, *shape,
        *strides, lse.stride(0), lse.stride(1),
        D=q.shape[3], DA=first, DB=rest, CAUSAL=causal, PADDED=lengths is not None, WITH_LSE=with_lse,
        PRECISION=hardware.precision(q.dtype), ALIGN=align, **fused, **options,
    )  # fmt: skip
    return out, lse


def backward(
    q: Tensor, k: Tensor, v: Tensor, dout: Tensor, dlse: Tensor | None, pattern: Pattern, grid: Grid | None,
    lengths: Tensor | None, scale: float, gradients: tuple[Tensor, Tensor, Tensor], transform: QKTransform,
    weight_gradient: bool,
) -> Tensor:  # fmt: skip
    """Writes the gradients of q, k, v, shaped like them and strided as they come, for dout and dlse.

    Returns, with `weight_gradient`, float32 gradients [2 or 4, D] of the transform's weights, else an empty tensor.
    """
    programs, shape, causal, options = _layout(q, pattern, grid, True, bool(transform.norm))
    first, rest = tiles.split(q.shape[3])
    pointers, fused = _transform_arguments(transform, q)
    align, strides = aligned_strides(q, k, v, dout, *gradients)
    weight_gradient = weight_gradient and bool(transform.weights)
    sums = (programs, len(transform.weights), q.shape[3]) if weight_gradient else (0, 0, 0)
    partial = torch.empty(sums, dtype=torch.float32, device=q.device)
    launch(
        short_rows_kernels.backward, programs,
        q, k, v, dout, dlse if dlse is not None else q, *gradients, partial, lengths if lengths is not None else q,
        *pointers, scale * LOG2E, transform.epsilon, *shape, *strides[:12],
        *(dlse.stride() if dlse is not None else (0, 0, 0)), *strides[12:],
        D=q.shape[3], DA=first, DB=rest, CAUSAL=causal, PADDED=lengths is not None,
        WITH_LSE=dlse is not None, PRECISION=hardware.precision(q.dtype),
        ALIGN=align, WEIGHT_GRADIENT=weight_gradient, **fused, **options,
    )  # fmt: skip
    return partial.sum(0)
