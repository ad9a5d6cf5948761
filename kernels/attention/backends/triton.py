"""The Triton kernels of this package."""

from torch import Tensor

from phys4d.kernels.attention import hardware, ops, short_rows
from phys4d.kernels.attention.backends.backend import Backend
from phys4d.kernels.attention.backends.sdpa import SDPA
from phys4d.kernels.attention.call import Call
from phys4d.kernels.attention.qk_transform import NO_TRANSFORM, FlatTransform
from phys4d.kernels.attention.tiles import split
from phys4d.kernels.dispatch import triton_runs_on, unsupported_transform
from phys4d.kernels.elementwise.norm_rope import check_norm_rope


def _refusal(call: Call) -> str | None:
    if not triton_runs_on(call.q.device):
        return f"its kernels run on CUDA, the tensors are on {call.q.device.type}"
    if call.q.dtype not in hardware.DTYPES:
        return f"its kernels take bfloat16, float16 and float32, not {call.q.dtype}"
    if not 1 <= call.q.shape[-1] <= 256:
        return f"its kernels take head dimensions up to 256, not {call.q.shape[-1]}"
    if call.factor <= 0:
        return f"its running maximum needs a scale above 0, not {call.factor}"
    if not ops.has_kernel(call.pattern, call.grid):
        return f"it has no kernel for {call.pattern}"
    if call.asymmetric:
        return f"its kernels take values as wide as keys, not {call.v.shape[3]} beside {call.k.shape[3]} channels"
    if call.mask_training:
        return "its kernels give no gradient of a mask"
    if call.pattern.name in ops.OWN_KERNELS and (call.mask is not None or call.grouped):
        wants = "no mask" if call.mask is not None else "as many heads of keys as of queries"
        return f"its kernel of {call.pattern} takes {wants}"
    if (transform := unsupported_transform()) is not None:
        return f"its gradient is that of backward(), {transform} is not supported"
    return None


def _unmeasured(call: Call) -> str | None:
    if not call.q.is_cuda:
        return "interpreted, for tests alone"
    if kernel_name(call) == "short_rows" or SDPA.refusal(call, by_name=False) is not None:
        return None
    rows = call.rows
    if call.one_row or (rows is not None and rows.token_step == 1 and rows.row_step == rows.length):
        return "not measured against torch's for this call"
    return None


def run(call: Call, transform: FlatTransform = NO_TRANSFORM) -> tuple[Tensor, Tensor | None]:
    """out and, where asked for, lse, with the transform that `fused_transform` found applied inside the kernel."""
    out, lse = ops.attention_call(
        call.q, call.k, call.v, *ops.flat_pattern(call.pattern, call.grid, call.text), call.key_lengths, call.mask,
        call.factor, call.return_lse, *transform,
    )  # fmt: skip
    return out, lse if call.return_lse else None


def fuses(call: Call) -> bool:
    """Whether there is a norm or rotation, and the kernel can apply it as it loads q and k.

    It can for short rows, a norm per head, and pairs of neighbouring channels, or of halves of a head whose dimension
    is a power of two.
    """
    norm, rope = call.qk_norm, call.rope
    if (norm is None and rope is None) or call.parts is not None or call.divided:
        return False
    if kernel_name(call) != "short_rows" or (rope is not None and call.text_tokens):
        return False
    if norm is not None and (norm.kind not in ("rms", "layer") or (norm.q_bias is None) != (norm.k_bias is None)):
        return False
    dim = call.q.shape[3]
    return rope is None or rope.layout != "half" or split(dim) == (dim, 0)


def fused_transform(call: Call) -> FlatTransform | None:
    """The operator's arguments where the kernel `fuses` norm and rotation, or where there are none; else None.

    Raises:
        ValueError: a norm or rotation that does not fit the heads.
    """
    norm, rope = call.qk_norm, call.rope
    if norm is None and rope is None:
        return NO_TRANSFORM
    if not fuses(call):
        return None
    grid = call.grid or (1, 1, 1)
    tables, layout = (rope.tables, rope.layout) if rope else ((None, None, None), "")
    if norm is None:
        check_norm_rope(call.q, None, None, None, rope, grid)
        return None, None, None, None, *tables, "", 0.0, layout
    check_norm_rope(call.q, norm.q_weight, norm.q_bias, norm.kind, rope, grid)
    check_norm_rope(call.k, norm.k_weight, norm.k_bias, norm.kind, rope, grid)
    weights = norm.q_weight, norm.k_weight, norm.q_bias, norm.k_bias
    return *weights, *tables, norm.kind, norm.epsilon, layout


def kernel_name(call: Call) -> str:
    """The kernel that serves: "short_rows", "flash", or the name of a pattern with a kernel of its own."""
    if short_rows.serves(call.pattern, call.grid, call.text, call.q.shape, call.k.shape, call.mask):
        return "short_rows"
    return call.pattern.name if call.pattern.name in ops.OWN_KERNELS else "flash"


TRITON = Backend(
    "triton", "this package's kernels: deterministic, no rearrangement, any number of rows", _refusal, run,
    _unmeasured,
)  # fmt: skip
