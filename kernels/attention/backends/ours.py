"""The Triton kernels of this package."""

import torch
from torch import Tensor

from phys4d.kernels.attention import launch, ops, short_rows
from phys4d.kernels.attention.backends.backend import Backend
from phys4d.kernels.attention.call import Call
from phys4d.kernels.attention.patterns import Full, Spatial, Window
from phys4d.kernels.attention.preparation import NONE, Flat
from phys4d.kernels.attention.tiles import split
from phys4d.kernels.elementwise import QKNorm, Rope
from phys4d.kernels.elementwise.qk_norm_rope import check


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
    long = isinstance(call.pattern, Full | Spatial) and kernel(call) != "short rows"
    if long and not torch.are_deterministic_algorithms_enabled():
        return "not measured against torch's on this GPU; deterministic algorithms were not asked for"
    return None


def run(call: Call, preparation: Flat = NONE) -> tuple[Tensor, Tensor | None]:
    """out and, where asked for, lse, after what `fused` found to be done in the loads."""
    out, lse = ops.attention_call(
        call.q, call.k, call.v, *ops.flat(call.pattern, call.grid, call.text), call.key_lengths, call.factor,
        call.return_lse, *preparation,
    )  # fmt: skip
    return out, lse if call.return_lse else None


def fused(call: Call, norm: QKNorm | None, rope: Rope | None) -> Flat | None:
    """The operator's arguments where this package's kernel norms and rotates in its loads; None where it cannot.

    It can for short rows, a norm per head, and pairs of neighbouring lanes, or of halves of a head that is a
    power of two.

    Raises:
        ValueError: a norm or rotation that does not fit the heads.
    """
    if norm is None and rope is None:
        return NONE
    if call.parts is not None or kernel(call) != "short rows" or (rope is not None and call.words):
        return None
    if norm is not None and (norm.kind not in ("rms", "layer") or (norm.q_bias is None) != (norm.k_bias is None)):
        return None
    dim = call.q.shape[3]
    if rope is not None and rope.layout == "half" and split(dim) != (dim, 0):
        return None
    grid = call.grid or (1, 1, 1)
    tables, layout = (list(rope.tables), rope.layout) if rope else ([], "")
    if norm is None:
        check(call.q, None, None, None, rope, grid)
        return None, None, None, None, tables, "", 0.0, layout
    check(call.q, norm.q_weight, norm.q_bias, norm.kind, rope, grid)
    check(call.k, norm.k_weight, norm.k_bias, norm.kind, rope, grid)
    given = norm.q_weight, norm.k_weight, norm.q_bias, norm.k_bias
    return *given, tables, norm.kind, norm.epsilon, layout


def kernel(call: Call) -> str:
    """Which of the kernels serves."""
    if short_rows.serves(call.pattern, call.grid, call.text, call.q.shape[1], call.k.shape[1], call.q.shape[3]):
        return "short rows"
    return "window" if isinstance(call.pattern, Window) else "flash"


TRITON = Backend(
    "triton", "this package's kernels: deterministic, no rearrangement, any number of rows", _refusal, run, _reluctance
)
