"""Windowed attention, forward and backward: the launches, and the choice of boxes."""

import functools
import itertools
from typing import Any

import torch
import triton
from torch import Tensor

from phys4d.kernels.attention import flash, hardware, window_kernels
from phys4d.kernels.attention.patterns import Grid, Text, Window, layout
from phys4d.kernels.dispatch import INTERPRETED, aligned_strides, launch

# Kernel -> (padded head dimension up to, cells of a box, options), as flash has it.
_CONFIGS: dict[str, dict[str, list[tuple[int, int, dict[str, int]]]]] = {
    "forward": {
        "blackwell": [
            (64, 128, {"BLOCK_N": 64, "num_warps": 8, "num_stages": 3}),
            (128, 128, {"BLOCK_N": 32, "num_warps": 8, "num_stages": 3}),
            (256, 64, {"BLOCK_N": 32, "num_warps": 8, "num_stages": 2}),
        ],
        "hopper": [
            (64, 128, {"BLOCK_N": 64, "num_warps": 8, "num_stages": 3}),
            (128, 128, {"BLOCK_N": 64, "num_warps": 8, "num_stages": 3}),
            (256, 64, {"BLOCK_N": 32, "num_warps": 8, "num_stages": 2}),
        ],
        "ampere": [
            (64, 128, {"BLOCK_N": 64, "num_warps": 4, "num_stages": 2}),
            (128, 64, {"BLOCK_N": 32, "num_warps": 4, "num_stages": 2}),
            (256, 64, {"BLOCK_N": 32, "num_warps": 8, "num_stages": 2}),
        ],
        "single": [
            (64, 32, {"BLOCK_N": 32, "num_warps": 8, "num_stages": 1}),
            (256, 16, {"BLOCK_N": 16, "num_warps": 8, "num_stages": 1}),
        ],
    },
    "queries": {
        "hopper": [
            (64, 128, {"BLOCK_N": 64, "num_warps": 8, "num_stages": 2}),
            (128, 128, {"BLOCK_N": 64, "num_warps": 8, "num_stages": 2}),
            (160, 64, {"BLOCK_N": 32, "num_warps": 8, "num_stages": 2}),
            (256, 32, {"BLOCK_N": 32, "num_warps": 8, "num_stages": 2}),
        ],
        "ampere": [
            (128, 64, {"BLOCK_N": 32, "num_warps": 4, "num_stages": 2}),
            (256, 32, {"BLOCK_N": 32, "num_warps": 4, "num_stages": 2}),
        ],
        "single": [
            (64, 32, {"BLOCK_N": 32, "num_warps": 8, "num_stages": 1}),
            (256, 16, {"BLOCK_N": 16, "num_warps": 8, "num_stages": 1}),
        ],
    },
    "keys": {
        "hopper": [
            (64, 128, {"BLOCK_N": 64, "num_warps": 8, "num_stages": 2}),
            (128, 128, {"BLOCK_N": 32, "num_warps": 8, "num_stages": 2}),
            (256, 32, {"BLOCK_N": 32, "num_warps": 8, "num_stages": 2}),
        ],
        "blackwell": [
            (128, 64, {"BLOCK_N": 32, "num_warps": 8, "num_stages": 2}),
            (256, 32, {"BLOCK_N": 32, "num_warps": 8, "num_stages": 2}),
        ],
        "ampere": [
            (128, 64, {"BLOCK_N": 64, "num_warps": 8, "num_stages": 2}),
            (256, 32, {"BLOCK_N": 32, "num_warps": 4, "num_stages": 2}),
        ],
        "single": [
            (64, 32, {"BLOCK_N": 32, "num_warps": 8, "num_stages": 1}),
            (256, 16, {"BLOCK_N": 16, "num_warps": 4, "num_stages": 1}),
        ],
    },
}


def config(kernel: str, dim: int, dtype: torch.dtype) -> tuple[int, dict[str, int]]:
    """Cells of a box, and stretch, warps and stages; the same for the same device, head dimension and dtype."""
    if INTERPRETED:
        return 32, {"BLOCK_N": 32}
    channels = sum(hardware.parts(dim, dtype))
    choices = _CONFIGS[kernel][hardware.generation(dtype, _CONFIGS[kernel])]
    cells, options = next((c, o) for limit, c, o in choices if channels <= limit)
    return cells, dict(options)


@functools.lru_cache(maxsize=256)
def box(grid: Grid, window: tuple[int, int, int], cells: int, stretch: int) -> tuple[int, int, int]:
    """The box (BT, BH, BW) of `cells` cells, powers of two, whose programs meet the fewest stretches of keys."""

    def spans(size: int, width: int, side: int) -> list[int]:
        """What the windows of each side cover together, along one axis."""

        def begin(i: int) -> int:
            return min(max(i - width // 2, 0), size - width)

        return [begin(min(i + side, size) - 1) + width - begin(i) for i in range(0, size, side)]

    def cost(sides: tuple[int, int, int]) -> int:
        deep, down, across = (
            spans(size, width, side) for size, width, side in zip(grid, window, sides, strict=True)
        )
        return sum(deep) * sum(-(-h * w // stretch) for h, w in itertools.product(down, across))

    powers = [1 << i for i in range(cells.bit_length())]
    return min(
        ((t, h, cells // (t * h)) for t in powers for h in powers if t * h <= cells),
        key=lambda sides: (cost(sides), sides[0], sides[1]),
    )


def _launch(
    kernel: Any, name: str, q: Tensor, pattern: Window, grid: Grid, text: Text | None, lengths: Tensor | None,
    scale: float, tensors: tuple[Tensor, ...], strided: tuple[Tensor, ...], rows: tuple[int, int],
) -> None:  # fmt: skip
    cells, options = config(name, q.shape[3], q.dtype)
    windows = (pattern.t, pattern.h, pattern.w)
    sides = box(grid, windows, cells, options["BLOCK_N"])
    _, text_tokens, video_start, text_start = layout(grid, text)
    align, strides = aligned_strides(*strided)
    boxes = 1
    for size, side in zip(grid, sides, strict=True):
        boxes *= triton.cdiv(size, side)
    first, rest = hardware.parts(q.shape[3], q.dtype)
    launch(
        kernel, q.shape[0] * q.shape[2] * boxes,
        *tensors, lengths if lengths is not None else q, scale * flash.LOG2E, q.shape[2], *grid, *windows,
        video_start, text_start, text_tokens, *strides, *rows,
        BT=sides[0], BH=sides[1], BW=sides[2], D=q.shape[3], DA=first, DB=rest, SHARED=text_tokens > 0,
        PADDED=lengths is not None, PRECISION=hardware.precision(q.dtype), ALIGN=align, **options,
    )  # fmt: skip


def forward(
    q: Tensor, k: Tensor, v: Tensor, pattern: Window, grid: Grid, text: Text | None, lengths: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """out [B, S, heads, D] in q's dtype and lse float32 [B, heads, S]."""
    out, lse = flash.forward(q, k, v, pattern, grid, text, lengths, None, scale)
    tensors = (q, k, v, out)
    _launch(
        window_kernels.forward, "forward", q, pattern, grid, text, lengths, scale, (*tensors, lse), tensors,
        (lse.stride(0), lse.stride(1)),
    )  # fmt: skip
    return out, lse


def backward(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, dout: Tensor, dlse: Tensor | None, pattern: Window,
    grid: Grid, text: Text | None, lengths: Tensor | None, scale: float, gradients: tuple[Tensor, Tensor, Tensor],
) -> None:  # fmt: skip
    """Writes the gradients of q, k, v, shaped like them and strided as they come, for dout and dlse."""
    dq, dk, dv = gradients
    delta = flash.backward(q, k, v, out, lse, dout, dlse, pattern, grid, text, lengths, None, scale, gradients)
    rows = (delta.stride(0), delta.stride(1))
    _launch(
        window_kernels.queries, "queries", q, pattern, grid, text, lengths, scale,
        (q, k, v, dout, lse, delta, dq), (q, k, v, dout, dq), rows,
    )  # fmt: skip
    _launch(
        window_kernels.keys, "keys", q, pattern, grid, text, lengths, scale,
        (q, k, v, dout, lse, delta, dk, dv), (q, k, v, dout, dk, dv), rows,
    )  # fmt: skip
