"""Flash attention over rows of tokens, forward and backward: the launches."""

from typing import Any

import torch
import triton
from torch import Tensor

from phys4d.kernels.attention import flash_backward, flash_forward, hardware
from phys4d.kernels.attention.patterns import Grid, Pattern, Text
from phys4d.kernels.attention.row_launches import RowLaunch, launches
from phys4d.kernels.dispatch import INTERPRETED, aligned_strides, launch

LOG2E = 1.4426950408889634

# Kernel -> generation of GPUs -> (padded head dimension up to, options), for 16-bit numbers; "single" is float32, whose
# exact products run outside of the tensor cores, in small tiles. Chosen by registers, spills and shared memory of the
# machine code.
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
        "single": [
            (64, {"BLOCK_M": 32, "BLOCK_N": 32, "num_warps": 8, "num_stages": 1}),
            (256, {"BLOCK_M": 16, "BLOCK_N": 16, "num_warps": 8, "num_stages": 1}),
        ],
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
        "single": [
            (64, {"BLOCK_M": 32, "BLOCK_N": 32, "num_warps": 8, "num_stages": 1}),
            (256, {"BLOCK_M": 16, "BLOCK_N": 16, "num_warps": 8, "num_stages": 1}),
        ],
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
        "single": [
            (64, {"BLOCK_M": 32, "BLOCK_N": 32, "num_warps": 8, "num_stages": 1}),
            (256, {"BLOCK_M": 16, "BLOCK_N": 16, "num_warps": 4, "num_stages": 1}),
        ],
    },
}


def config(kernel: str, dim: int, dtype: torch.dtype) -> dict[str, int]:
    """Tile sizes, warps and stages of a kernel; the same for the same device, head dimension and dtype."""
    if INTERPRETED:
        return {"BLOCK_M": 32, "BLOCK_N": 32}
    channels = sum(hardware.parts(dim, dtype))
    choices = _CONFIGS[kernel][hardware.generation(dtype, _CONFIGS[kernel])]
    return dict(next(options for limit, options in choices if channels <= limit))


def _constants(
    place: RowLaunch, padded: bool, q: Tensor, k: Tensor, mask: Tensor | None, align: int
) -> dict[str, Any]:
    first, rest = hardware.parts(q.shape[3], q.dtype)
    return {
        "D": q.shape[3], "DA": first, "DB": rest, "SHARED": place.shared.length > 0, "CAUSAL": place.own.causal,
        "PADDED": padded, "PRECISION": hardware.precision(q.dtype), "ALIGN": align,
        "GROUP": q.shape[2] // k.shape[2], "BIASED": mask is not None,
    }  # fmt: skip


def _where(place: RowLaunch) -> tuple[int, ...]:
    own, shared, other = place.own, place.shared, place.other
    return (
        own.first, own.row_step, own.token_step, own.length, shared.first, shared.length,
        other.first, other.row_step, other.token_step, other.length,
    )  # fmt: skip


def _mask_arguments(mask: Tensor | None, q: Tensor, k: Tensor) -> tuple[Tensor | None, tuple[int, ...]]:
    """A mask as the kernels read it, bytes or floating, and its strides along clips, heads, queries and keys."""
    if mask is None:
        return None, (0, 0, 0, 0)
    if mask.dtype in (torch.bool, torch.float64):
        mask = mask.view(torch.uint8) if mask.dtype == torch.bool else mask.float()
    return mask, mask.expand(q.shape[0], q.shape[2], q.shape[1], k.shape[1]).stride()


def _programs(x: Tensor, place: RowLaunch, block: int) -> int:
    return x.shape[0] * x.shape[2] * place.own.number * triton.cdiv(place.own.length, block)


def forward(
    q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, grid: Grid | None, text: Text | None, lengths: Tensor | None,
    mask: Tensor | None, scale: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """out [B, S_q, heads, D] in q's dtype and lse float32 [B, heads, S_q]; without rows, of the text alone."""
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty((q.shape[0], q.shape[2], q.shape[1]), dtype=torch.float32, device=q.device)
    options = config("forward", q.shape[3], q.dtype)
    mask, mask_strides = _mask_arguments(mask, q, k)
    align, strides = aligned_strides(q, k, v, out)
    for place in launches(pattern, grid, text, q.shape[1], k.shape[1])[0]:
        tma = hardware.descriptors(place, q.shape[3], k, v)
        launch(
            flash_forward.forward, _programs(q, place, options["BLOCK_M"]),
            q, k, v, *hardware.streams(tma, q.shape[3], options["BLOCK_N"], k, v), out, lse,
            lengths if lengths is not None else lse, mask if mask is not None else lse,
            scale * LOG2E, q.shape[2], place.own.number, *_where(place),
            *strides, lse.stride(0), lse.stride(1), *mask_strides,
            TMA=tma, **_constants(place, lengths is not None, q, k, mask, align), **options,
        )  # fmt: skip
    return out, lse


def backward(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, dout: Tensor, dlse: Tensor | None,
    pattern: Pattern, grid: Grid | None, text: Text | None, lengths: Tensor | None,
    mask: Tensor | None, scale: float, gradients: tuple[Tensor, Tensor, Tensor],
) -> Tensor:  # fmt: skip
    """Writes the gradients of q, k, v, shaped like them and strided as they come, for dout and dlse.

    Returns delta, float32 [B, heads, S_q]: sum of out dout, minus dlse.
    """
    dq, dk, dv = gradients
    clips, count, heads, dim = q.shape
    delta = torch.empty((clips, heads, count), dtype=torch.float32, device=q.device)
    first, rest = hardware.parts(dim, q.dtype)
    block = 32
    align, strides = aligned_strides(out, dout)
    launch(
        flash_backward.delta, clips * heads * triton.cdiv(count, block),
        out, dout, dlse if dlse is not None else delta, delta, heads, count, *strides,
        *(dlse.stride() if dlse is not None else (0, 0, 0)),
        BLOCK=block, D=dim, DA=first, DB=rest, WITH_LSE=dlse is not None,
        ALIGN=align, num_warps=4,
    )  # fmt: skip
    over_queries, over_keys = launches(pattern, grid, text, count, k.shape[1])
    padding = lengths if lengths is not None else delta
    mask, mask_strides = _mask_arguments(mask, q, k)
    seen = mask if mask is not None else delta
    options = config("queries", dim, q.dtype)
    align, strides = aligned_strides(q, k, v, dout, dq)
    for place in over_queries:
        tma = hardware.descriptors(place, dim, k, v)
        launch(
            flash_backward.queries, _programs(q, place, options["BLOCK_M"]),
            q, k, v, *hardware.streams(tma, dim, options["BLOCK_N"], k, v), dout, lse, delta, dq, padding,
            seen, scale * LOG2E, heads, place.own.number, *_where(place),
            *strides, delta.stride(0), delta.stride(1), *mask_strides,
            TMA=tma, **_constants(place, lengths is not None, q, k, mask, align), **options,
        )  # fmt: skip
    options = config("keys", dim, q.dtype)
    align, strides = aligned_strides(q, k, v, dout, dk, dv)
    for place in over_keys:
        tma = hardware.descriptors(place, dim, q, dout)
        launch(
            flash_backward.keys, _programs(k, place, options["BLOCK_N"]),
            q, k, v, dout, *hardware.streams(tma, dim, options["BLOCK_M"], q, dout), lse, delta, dk, dv, padding,
            seen, scale * LOG2E, k.shape[2], place.own.number, *_where(place),
            *strides, delta.stride(0), delta.stride(1), *mask_strides,
            TMA=tma, **_constants(place, lengths is not None, q, k, mask, align), **options,
        )  # fmt: skip
    return delta
