"""The Triton kernels of this package."""

import torch
from torch import Tensor

from phys4d.kernels.attention import launch, ops, temporal
from phys4d.kernels.attention.backends.backend import Backend
from phys4d.kernels.attention.call import Call
from phys4d.kernels.attention.patterns import Full, Spatial, Window


def _refusal(call: Call) -> str | None:
    if not (call.q.is_cuda or (launch.INTERPRETED and call.q.device.type == "cpu")):
        return f"its kernels run on CUDA, the tensors are on {call.q.device.type}"
    if call.q.dtype not in launch.SUPPORTED:
        return f"its kernels take bfloat16, float16 and float32, not {call.q.dtype}"
    if not 1 <= call.q.shape[-1] <= 256:
        return f"its kernels take head dimensions up to 256, not {call.q.shape[-1]}"
    if call.factor <= 0:
        return f"its running maximum needs a scale above 0, not {call.factor}"
    return None


def _reluctance(call: Call) -> str | None:
    if not call.q.is_cuda:
        return "interpreted, for tests alone"
    if call.return_lse:  # whoever was measured does not return it
        return None
    if isinstance(call.pattern, Full | Spatial) and not torch.are_deterministic_algorithms_enabled():
        return "not measured against torch's on this GPU; deterministic algorithms were not asked for"
    return None


def _run(call: Call) -> tuple[Tensor, Tensor | None]:
    out, lse = ops.attention_op(
        call.q, call.k, call.v, *ops.flat(call.pattern, call.grid, call.text), call.key_lengths, call.factor,
        call.return_lse,
    )  # fmt: skip
    return out, lse if call.return_lse else None


def kernel(call: Call) -> str:
    """Which of the kernels serves."""
    if temporal.serves(call.pattern, call.grid, call.text, call.q.shape[3]):
        return "temporal"
    return "window" if isinstance(call.pattern, Window) else "flash"


TRITON = Backend(
    "triton", "this package's kernels: deterministic, no rearrangement, any number of rows", _refusal, _run, _reluctance
)
