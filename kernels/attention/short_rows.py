"""Attention over short rows, forward and backward: the launches."""

import torch
import triton
from torch import Tensor

from phys4d.kernels.attention import launch, norm_rope_tiles, short_rows_kernels, tiles
from phys4d.kernels.attention.flash import LOG2E
from phys4d.kernels.attention.patterns import Full, Grid, Pattern, Spatial, Temporal, Text
from phys4d.kernels.attention.preparation import Preparation

LONGEST = 128
_NORMS = {"": norm_rope_tiles.NO_NORM, "rms": norm_rope_tiles.RMS, "layer": norm_rope_tiles.LAYER}
_LARGEST_ROW = 1 << 13  # frames times lanes: what fits into the shared memory of every GPU since sm_80, also backward


def length(pattern: Pattern, grid: Grid | None, text: Text | None, queries: int, keys: int) -> int | None:
    """Tokens of a row, where rows stand alone: places in time, a frame, or a whole sequence; None where they do not."""
    if isinstance(pattern, Full):
        return queries if queries == keys else None
    if grid is None or (text and text[0]):
        return None
    if isinstance(pattern, Temporal):
        return grid[0]
    return grid[1] * grid[2] if isinstance(pattern, Spatial) else None


def serves(pattern: Pattern, grid: Grid | None, text: Text | None, queries: int, keys: int, dim: int) -> bool:
    """Whether rows stand alone and are short: at most 128 tokens (64 of 128 lanes)."""
    tokens = length(pattern, grid, text, queries, keys)
    if tokens is None or not 1 <= tokens <= LONGEST:
        return False
    return triton.next_power_of_2(tokens) * sum(tiles.split(dim)) <= _LARGEST_ROW


def config(tokens: int, dim: int, dtype: torch.dtype, backward: bool, normed: bool = False) -> dict[str, int]:
    """Tile size, padded row and warps: the same for the same device, shape and dtype; `normed`: with norm in loads."""
    pad = max(2, triton.next_power_of_2(tokens))
    if launch.INTERPRETED:
        return {"BLOCK": max(32, pad), "PAD": pad}
    machine = launch.architecture()
    wide = sum(tiles.split(dim)) > 128
    smallest = 64 if machine >= 90 and not wide else 32  # what a tensor core instruction takes
    smallest = 16 if dtype == torch.float32 else smallest
    block = max(smallest, pad)
    crowded = (machine < 90 and block > 32) or (machine >= 100 and pad >= 32) or wide
    crowded = crowded or (normed and sum(tiles.split(dim)) > 80)
    heavy = block > 64 or (backward and crowded)
    return {"BLOCK": block, "PAD": pad, "num_warps": 8 if heavy else 4, "num_stages": 1}


def _causal(pattern: Pattern) -> bool:
    return isinstance(pattern, Temporal) and pattern.causal


def _count(q: Tensor, pattern: Pattern, grid: Grid | None) -> int:
    count = length(pattern, grid, None, q.shape[1], q.shape[1])
    assert count is not None
    return count


def _rows(q: Tensor, pattern: Pattern, grid: Grid | None, block: int, pad: int) -> tuple[int, tuple[int, ...]]:
    """How many programs, and the kernels' numbers: heads, where rows and their tokens stand, the video's sizes."""
    batch, tokens, heads, _ = q.shape
    time, height, width = grid or (tokens, 1, 1)
    others, step, other_step, count = 1, 1, 0, tokens
    if isinstance(pattern, Temporal):
        others, step, other_step, count = height * width, height * width, 1, time
    elif isinstance(pattern, Spatial):
        others, step, other_step, count = time, 1, height * width, height * width
    rows = batch * others * heads
    numbers = (heads, others, step, other_step, rows, count, height * width, width, tokens)
    return triton.cdiv(rows, block // pad), numbers


def _prepare(preparation: Preparation, unused: Tensor) -> tuple[list[Tensor], dict[str, int]]:
    """Pointers to weights, biases and tables, and the kernels' options."""
    weights = [weight.contiguous() for weight in preparation.weights]
    tables = [table.to(torch.float32).contiguous() for table in preparation.tables]
    pairs = [table.shape[1] for table in tables] or [0, 0, 0]
    options = {
        "NORM": _NORMS[preparation.norm], "BIAS": len(weights) == 4, "ROPE": bool(tables),
        "HALF": preparation.layout == "half", "TIME": pairs[0], "HEIGHT": pairs[1], "WIDTH": pairs[2],
    }  # fmt: skip
    return [*weights, *[unused] * (4 - len(weights)), *(tables or [unused] * 3)], options


def forward(
    q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, grid: Grid | None, lengths: Tensor | None, scale: float,
    with_lse: bool, preparation: Preparation,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """out [B, S, heads, D] in q's dtype and lse float32 [B, heads, S] (empty without `with_lse`)."""
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = q.new_empty((q.shape[0], q.shape[2], q.shape[1]) if with_lse else (0, 0, 0), dtype=torch.float32)
    options = config(_count(q, pattern, grid), q.shape[3], q.dtype, False, bool(preparation.norm))
    programs, shape = _rows(q, pattern, grid, options["BLOCK"], options["PAD"])
    first, rest = tiles.split(q.shape[3])
    pointers, prepared = _prepare(preparation, q)
    launch.run(
        short_rows_kernels.forward, programs,
        q, k, v, out, lse, lengths if lengths is not None else q, *pointers, scale * LOG2E, preparation.epsilon, *shape,
        *launch.strides(q, k, v, out), lse.stride(0), lse.stride(1),
        D=q.shape[3], DA=first, DB=rest, CAUSAL=_causal(pattern), PADDED=lengths is not None, WITH_LSE=with_lse,
        PRECISION=launch.precision(q.dtype), ALIGN=launch.alignment(q, k, v, out), **prepared, **options,
    )  # fmt: skip
    return out, lse


def backward(
    q: Tensor, k: Tensor, v: Tensor, dout: Tensor, dlse: Tensor | None, pattern: Pattern, grid: Grid | None,
    lengths: Tensor | None, scale: float, gradients: tuple[Tensor, Tensor, Tensor], preparation: Preparation,
    weight_gradient: bool,
) -> Tensor:  # fmt: skip
    """Writes the gradients of q, k, v, shaped like them and strided as they come, for dout and dlse.

    Returns, with `weight_gradient`, float32 gradients [2 or 4, D] of the preparation's weights, else an empty tensor.
    """
    options = config(_count(q, pattern, grid), q.shape[3], q.dtype, True, bool(preparation.norm))
    programs, shape = _rows(q, pattern, grid, options["BLOCK"], options["PAD"])
    first, rest = tiles.split(q.shape[3])
    pointers, prepared = _prepare(preparation, q)
    strides = launch.strides(q, k, v, dout, *gradients)
    weight_gradient = weight_gradient and bool(preparation.weights)
    sums = (programs, len(preparation.weights), q.shape[3]) if weight_gradient else (0, 0, 0)
    partial = torch.empty(sums, dtype=torch.float32, device=q.device)
    launch.run(
        short_rows_kernels.backward, programs,
        q, k, v, dout, dlse if dlse is not None else q, *gradients, partial, lengths if lengths is not None else q,
        *pointers, scale * LOG2E, preparation.epsilon, *shape, *strides[:12],
        *(dlse.stride() if dlse is not None else (0, 0, 0)), *strides[12:],
        D=q.shape[3], DA=first, DB=rest, CAUSAL=_causal(pattern), PADDED=lengths is not None,
        WITH_LSE=dlse is not None, PRECISION=launch.precision(q.dtype),
        ALIGN=launch.alignment(q, k, v, dout, *gradients), WEIGHT_GRADIENT=weight_gradient, **prepared, **options,
    )  # fmt: skip
    return partial.sum(0)
