"""torch's FlexAttention, compiled and never otherwise: any pattern as a block mask."""

import functools
import itertools
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from phys4d.kernels.attention.backends.backend import Backend
from phys4d.kernels.attention.backends.flash_attn import generation_refusal
from phys4d.kernels.attention.call import Call
from phys4d.kernels.attention.patterns import Cells, Grid, Pattern, Text, layout
from phys4d.kernels.dispatch import compute_capability, constant_while_tracing

_NUMBERS = itertools.count()
Mask = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def mask_mod(pattern: Pattern, grid: Grid | None, text: Text | None) -> Mask:
    """The pattern as a function of (clip, head, query, key) indices into the sequence; without grid of one row."""
    if grid is None:
        assert pattern.crosses and not pattern.sees_all
        return lambda b, h, q, k: k <= q
    cells, _, start, _ = layout(grid, text)
    _, height, width = grid

    def coordinates(cell: Tensor) -> Cells:
        return cell // (height * width), cell % (height * width) // width, cell % width

    def mask(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        q, k = q - start, k - start
        text_token = (q < 0) | (q >= cells) | (k < 0) | (k >= cells)
        return pattern.sees(grid, coordinates(q), coordinates(k)) | text_token

    return mask


def _fused(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, compiled, and never run in any other way; inside of a compiled function it is part of that.

    torch.compile runs a function as it stands where it is switched off or has compiled too many variants of it. Then
    FlexAttention would keep every score in memory: here that is an error. Variants are counted for every call of
    `_fused` on its own, since torch counts them by code object.
    """
    if torch.compiler.is_compiling():
        return function

    def compiled_alone(*args: Any, **options: Any) -> Any:
        if not torch.compiler.is_compiling():
            raise RuntimeError(f"{function.__name__} was not compiled: unfused it would keep every score in memory")
        return function(*args, **options)

    compiled_alone.__code__ = compiled_alone.__code__.replace(co_name=f"fused_{next(_NUMBERS)}")
    return torch.compile(compiled_alone, dynamic=False, fullgraph=True)  # type: ignore[no-any-return]


@functools.lru_cache(maxsize=32)
def _block_mask(
    pattern: Pattern, grid: Grid | None, text: Text | None, queries: int, keys: int, device: torch.device,
    block: tuple[int, int],
) -> Any:  # fmt: skip
    from torch.nn.attention.flex_attention import create_block_mask

    make = _fused(create_block_mask)
    return make(mask_mod(pattern, grid, text), None, None, queries, keys, device=device, BLOCK_SIZE=block)


@functools.lru_cache(maxsize=64)
def _flex_attention(*shape: Any) -> Callable[..., Any]:
    """FlexAttention, compiled for calls of one shape."""
    from torch.nn.attention.flex_attention import flex_attention

    return _fused(flex_attention)


@constant_while_tracing
def _compiler_off() -> bool:
    import torch._dynamo

    return torch._dynamo.config.disable or os.environ.get("TORCHDYNAMO_DISABLE", "0") == "1"


def _limits(call: Call) -> str | None:
    if call.key_lengths is not None:
        return "key_lengths would make a new block mask for every call"
    if call.mask is not None:
        return "a mask would be compiled in for every call"
    wanted = call.return_lse or any(t.requires_grad for t in (call.q, call.k, call.v))  # also where none is recorded
    if wanted and not call.q.is_cuda:
        return "FlexAttention has neither backward nor log-sum-exp outside of CUDA"
    if call.q.dtype == torch.float64:
        return "FlexAttention does not take float64"
    if call.q.is_cuda and (dim := min(call.q.shape[-1], call.v.shape[-1])) < 16:
        return f"FlexAttention takes head dimensions from 16 on, not {dim}"
    if _compiler_off():
        return "torch.compile is switched off: FlexAttention unfused would keep every score in memory"
    return None


def _flash_limits(call: Call) -> str | None:
    if not call.q.is_cuda:
        return f"FlexAttention's FLASH kernels run on CUDA, the tensors are on {call.q.device.type}"
    if call.q.dtype not in (torch.bfloat16, torch.float16):
        return f"FlexAttention's FLASH kernels take bfloat16 and float16, not {call.q.dtype}"
    if call.asymmetric:
        return f"FlexAttention's FLASH kernels take values as wide as keys, not {call.v.shape[3]} channels"
    if call.return_lse:
        return "the log-sum-exp of FlexAttention's FLASH kernels is not differentiable"
    reason = _limits(call) or generation_refusal(call, "flash-attn-4")
    if reason is not None:
        return reason
    if compute_capability(call.q.device.index) >= 120:
        return "FlexAttention's FLASH kernels do not run on compute capability 12.x"
    return None


def _flash_varies(call: Call) -> str | None:
    """With a block mask it could be deterministic from compute capability 10.0 and torch 2.13 on, with metadata."""
    return "the backward of FlexAttention's FLASH kernels is not deterministic" if call.training else None


def _run(call: Call, kernels: str | None = None) -> tuple[Tensor, Tensor | None]:
    """The call by FlexAttention; kernels: its option BACKEND, None for what it takes itself."""
    mask = None
    if not call.pattern.sees_all:
        grid = None if call.one_row else call.grid
        tall = kernels == "FLASH" and compute_capability(call.q.device.index) >= 100  # two tiles of queries at once
        block = (256 if tall else 128, 128)
        sizes = call.q.shape[1], call.k.shape[1]
        mask = _block_mask(call.pattern, grid, call.text if grid else None, *sizes, call.q.device, block)
    q, k, v = (t.transpose(1, 2) for t in (call.q, call.k, call.v))
    options = {"BACKEND": kernels} if kernels is not None else None
    attend = _flex_attention(call.pattern, call.grid, call.text, q.shape, v.shape, k.shape, q.dtype, kernels)
    found = attend(
        q, k, v, block_mask=mask, scale=call.scale, enable_gqa=bool(call.grouped), return_lse=call.return_lse,
        kernel_options=options,
    )  # fmt: skip
    out, lse = found if call.return_lse else (found, None)
    return out.transpose(1, 2), lse


FLEX = Backend(
    "flex", "torch FlexAttention, compiled", _limits, _run, lambda call: "it compiles for every new shape",
    dispatched=False,
)  # fmt: skip
FLEX_FLASH = Backend(
    "flex-flash", "torch FlexAttention, compiled, by the kernels of flash-attn-4", _flash_limits,
    functools.partial(_run, kernels="FLASH"), lambda call: "it compiles for every new shape", _flash_varies,
    dispatched=False,
)  # fmt: skip
