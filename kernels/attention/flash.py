"""Flash attention over rows of tokens, forward and backward: the launches."""

from typing import Any

import torch
import triton
from torch import Tensor

from phys4d.kernels.attention import flash_backward, flash_forward, launch, tiles
from phys4d.kernels.attention.patterns import Grid, Pattern, Temporal, Text
from phys4d.kernels.attention.rows import Launch, launches

LOG2E = 1.4426950408889634

# Kernel -> generation of GPUs -> (lanes up to, options), for 16-bit numbers; "single" is float32, whose exact products
# run outside of the tensor cores, in small tiles. Chosen by registers, spills and shared memory of the machine code.
_CONFIGS: dict[str, dict[str, list[tuple[int, dict[str, int]]]]] = {
    "forward": {
        "hopper": [
            (64, {"BLOCK_M": 128, "BLOCK_N": 128, "num_warps": 8, "num_stages": 3}),
            (128, {"BLOCK_M": 128, "BLOCK_N": 64, "num_warps": 8, "num_stages": 3}),
            (256, {"BLOCK_M": 128, "BLOCK_N": 32, "num_warps": 8, "num_stages": 2}),
        ],
        "ampere": [
            (64, {"BLOCK_M": 128, "BLOCK_N": 64, "num_warps": 8, "num_stages": 3}),
            (128, {"BLOCK_M": 128, "BLOCK_N": 32, "num_warps": 8, "num_stages": 3}),
            (256, {"BLOCK_M": 64, "BLOCK_N": 32, "num_warps": 4, "num_stages": 2}),
        ],
        "single": [(256, {"BLOCK_M": 32, "BLOCK_N": 32, "num_warps": 4, "num_stages": 1})],
    },
    "queries": {
        "blackwell": [
            (96, {"BLOCK_M": 128, "BLOCK_N": 64, "num_warps": 8, "num_stages": 2}),
            (128, {"BLOCK_M": 128, "BLOCK_N": 32, "num_warps": 8, "num_stages": 2}),
            (256, {"BLOCK_M": 64, "BLOCK_N": 32, "num_warps": 8, "num_stages": 2}),
        ],
        "hopper": [
            (64, {"BLOCK_M": 128, "BLOCK_N": 64, "num_warps": 8, "num_stages": 3}),
            (128, {"BLOCK_M": 128, "BLOCK_N": 64, "num_warps": 8, "num_stages": 2}),
            (160, {"BLOCK_M": 64, "BLOCK_N": 32, "num_warps": 8, "num_stages": 2}),
            (256, {"BLOCK_M": 32, "BLOCK_N": 32, "num_warps": 8, "num_stages": 2}),
        ],
        "ampere": [
            (64, {"BLOCK_M": 128, "BLOCK_N": 64, "num_warps": 8, "num_stages": 2}),
            (96, {"BLOCK_M": 128, "BLOCK_N": 32, "num_warps": 8, "num_stages": 2}),
            (128, {"BLOCK_M": 64, "BLOCK_N": 32, "num_warps": 4, "num_stages": 2}),
            (256, {"BLOCK_M": 32, "BLOCK_N": 32, "num_warps": 4, "num_stages": 2}),
        ],
        "single": [(256, {"BLOCK_M": 32, "BLOCK_N": 32, "num_warps": 4, "num_stages": 1})],
    },
    "keys": {
        "hopper": [
            (64, {"BLOCK_M": 64, "BLOCK_N": 128, "num_warps": 8, "num_stages": 3}),
            (128, {"BLOCK_M": 32, "BLOCK_N": 128, "num_warps": 8, "num_stages": 3}),
            (160, {"BLOCK_M": 32, "BLOCK_N": 64, "num_warps": 8, "num_stages": 2}),
            (256, {"BLOCK_M": 32, "BLOCK_N": 32, "num_warps": 8, "num_stages": 2}),
        ],
        "ampere": [
            (64, {"BLOCK_M": 32, "BLOCK_N": 128, "num_warps": 8, "num_stages": 2}),
            (96, {"BLOCK_M": 32, "BLOCK_N": 64, "num_warps": 8, "num_stages": 2}),
            (128, {"BLOCK_M": 64, "BLOCK_N": 64, "num_warps": 8, "num_stages": 2}),
            (256, {"BLOCK_M": 32, "BLOCK_N": 32, "num_warps": 4, "num_stages": 2}),
        ],
        "single": [(256, {"BLOCK_M": 32, "BLOCK_N": 32, "num_warps": 4, "num_stages": 1})],
    },
}


def config(kernel: str, dim: int, dtype: torch.dtype) -> dict[str, int]:
    """Tile sizes, warps and stages of a kernel; the same for the same device, head dimension and dtype."""
    if launch.INTERPRETED:
        return {"BLOCK_M": 32, "BLOCK_N": 32}
    lanes = sum(tiles.split(dim))
    choices = _CONFIGS[kernel][launch.generation(dtype, _CONFIGS[kernel])]
    return dict(next(options for limit, options in choices if lanes <= limit))


def _fixed(place: Launch, causal: bool, padded: bool, q: Tensor, *tensors: Tensor) -> dict[str, Any]:
    first, rest = tiles.split(q.shape[3])
    return {
        "D": q.shape[3], "DA": first, "DB": rest, "SHARED": place.shared.count > 0,
        "CAUSAL": causal and place.own.row == 1, "PADDED": padded, "PRECISION": launch.precision(q.dtype),
        "ALIGN": launch.alignment(q, *tensors),
    }  # fmt: skip


def _where(place: Launch) -> tuple[int, ...]:
    own, shared, other = place.own, place.shared, place.other
    return (
        own.first, own.row, own.step, own.count, shared.first, shared.count,
        other.first, other.row, other.step, other.count,
    )  # fmt: skip


def _programs(q: Tensor, place: Launch, block: int) -> int:
    return q.shape[0] * q.shape[2] * place.own.rows * triton.cdiv(place.own.count, block)


def forward(
    q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, grid: Grid | None, text: Text | None, lengths: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """out [B, S_q, heads, D] in q's dtype and lse float32 [B, heads, S_q]; of a `Window` the text's alone."""
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty((q.shape[0], q.shape[2], q.shape[1]), dtype=torch.float32, device=q.device)
    options = config("forward", q.shape[3], q.dtype)
    causal = isinstance(pattern, Temporal) and pattern.causal
    for place in launches(pattern, grid, text, q.shape[1], k.shape[1])[0]:
        tma = launch.descriptors(place, q.shape[3], k, v)
        launch.run(
            flash_forward.forward, _programs(q, place, options["BLOCK_M"]),
            q, k, v, *launch.streams(tma, q.shape[3], options["BLOCK_N"], k, v), out, lse,
            lengths if lengths is not None else lse,
            scale * LOG2E, q.shape[2], place.own.rows, *_where(place),
            *launch.strides(q, k, v, out), lse.stride(0), lse.stride(1),
            TMA=tma, **_fixed(place, causal, lengths is not None, q, k, v, out), **options,
        )  # fmt: skip
    return out, lse


def backward(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, dout: Tensor, dlse: Tensor | None,
    pattern: Pattern, grid: Grid | None, text: Text | None, lengths: Tensor | None, scale: float,
    gradients: tuple[Tensor, Tensor, Tensor],
) -> Tensor:  # fmt: skip
    """Writes the gradients of q, k, v, shaped like them and strided as they come, for dout and dlse.

    Returns delta, float32 [B, heads, S_q]: sum of out dout, minus dlse.
    """
    dq, dk, dv = gradients
    clips, count, heads, dim = q.shape
    delta = torch.empty((clips, heads, count), dtype=torch.float32, device=q.device)
    first, rest = tiles.split(dim)
    block = 32
    launch.run(
        flash_backward.delta, clips * heads * triton.cdiv(count, block),
        out, dout, dlse if dlse is not None else delta, delta, heads, count, *launch.strides(out, dout),
        *(dlse.stride() if dlse is not None else (0, 0, 0)),
        BLOCK=block, D=dim, DA=first, DB=rest, WITH_LSE=dlse is not None,
        ALIGN=launch.alignment(out, dout), num_warps=4,
    )  # fmt: skip
    causal = isinstance(pattern, Temporal) and pattern.causal
    over_queries, over_keys = launches(pattern, grid, text, count, k.shape[1])
    padding = lengths if lengths is not None else delta
    options = config("queries", dim, q.dtype)
    for place in over_queries:
        tma = launch.descriptors(place, dim, k, v)
        launch.run(
            flash_backward.queries, _programs(q, place, options["BLOCK_M"]),
            q, k, v, *launch.streams(tma, dim, options["BLOCK_N"], k, v), dout, lse, delta, dq, padding,
            scale * LOG2E, heads, place.own.rows, *_where(place),
            *launch.strides(q, k, v, dout, dq), delta.stride(0), delta.stride(1),
            TMA=tma, **_fixed(place, causal, lengths is not None, q, k, v, dout, dq), **options,
        )  # fmt: skip
    options = config("keys", dim, q.dtype)
    for place in over_keys:
        tma = launch.descriptors(place, dim, q, dout)
        launch.run(
            flash_backward.keys, _programs(q, place, options["BLOCK_N"]),
            q, k, v, dout, *launch.streams(tma, dim, options["BLOCK_M"], q, dout), lse, delta, dk, dv, padding,
            scale * LOG2E, heads, place.own.rows, *_where(place),
            *launch.strides(q, k, v, dout, dk, dv), delta.stride(0), delta.stride(1),
            TMA=tma, **_fixed(place, causal, lengths is not None, q, k, v, dout, dk, dv), **options,
        )  # fmt: skip
    return delta
