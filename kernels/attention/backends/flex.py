"""torch's FlexAttention, compiled: any pattern as a block mask."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from phys4d.kernels.attention.backends.backend import Backend
from phys4d.kernels.attention.call import Call
from phys4d.kernels.attention.patterns import Cells, Grid, Pattern, Text, layout

Mask = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def mask_mod(pattern: Pattern, grid: Grid, text: Text | None) -> Mask:
    """The pattern as a function of (clip, head, query, key) indices into the sequence."""
    cells, _, start, _ = layout(grid, text)
    _, height, width = grid

    def coordinates(cell: Tensor) -> Cells:
        return cell // (height * width), cell % (height * width) // width, cell % width

    def mask(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        q, k = q - start, k - start
        text_token = (q < 0) | (q >= cells) | (k < 0) | (k >= cells)
        return pattern.sees(grid, coordinates(q), coordinates(k)) | text_token

    return mask


@functools.lru_cache(maxsize=32)
def _block_mask(pattern: Pattern, grid: Grid, text: Text | None, count: int, device: torch.device) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    make = torch.compile(create_block_mask)  # uncompiled it holds the whole mask
    return make(mask_mod(pattern, grid, text), None, None, count, count, device=device)


@functools.cache
def _compiled() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def _refusal(call: Call) -> str | None:
    if call.key_lengths is not None:
        return "key_lengths would make a new block mask for every call"
    if (call.training or call.return_lse) and not call.q.is_cuda:
        return "FlexAttention has neither backward nor log-sum-exp outside of CUDA"
    if call.q.dtype == torch.float64:
        return "FlexAttention does not take float64"
    return None


def _run(call: Call) -> tuple[Tensor, Tensor | None]:
    mask = None
    if not call.pattern.sees_all:
        assert call.grid is not None
        mask = _block_mask(call.pattern, call.grid, call.text, call.q.shape[1], call.q.device)
    q, k, v = (t.transpose(1, 2) for t in (call.q, call.k, call.v))
    found = _compiled()(q, k, v, block_mask=mask, scale=call.scale, return_lse=call.return_lse)
    out, lse = found if call.return_lse else (found, None)
    return out.transpose(1, 2), lse


FLEX = Backend(
    "flex", "torch FlexAttention, compiled", _refusal, _run, lambda call: "it compiles for every new shape"
)
