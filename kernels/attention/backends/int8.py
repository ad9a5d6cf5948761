"""Scores from int8 products, for calls without a gradient: faster where int8 is, with an error of its own."""

from torch import Tensor

from phys4d.kernels.attention import int8
from phys4d.kernels.attention.backends.backend import Backend
from phys4d.kernels.attention.call import Call
from phys4d.kernels.dispatch import unsupported_transform

APPROXIMATE = "it rounds queries and keys to int8, and serves only where it is asked for by name"


def _limits(call: Call) -> str | None:
    if call.q.device.type not in ("cuda", "cpu"):
        return f"its kernels run on CUDA, its definition on the CPU; the tensors are on {call.q.device.type}"
    if call.q.dtype not in int8.DTYPES:
        return f"it takes bfloat16 and float16, not {call.q.dtype}"
    if not call.one_row or call.causal:
        return f"it computes Full(), not {call.pattern}"
    if call.mask is not None:
        return "it takes no mask but key_lengths"
    if call.asymmetric:
        return f"it takes values as wide as keys, not {call.v.shape[3]} beside {call.k.shape[3]} channels"
    if call.q.shape[3] not in int8.DIMS:
        return f"it takes heads of {' and '.join(map(str, int8.DIMS))} channels, not {call.q.shape[3]}"
    if call.return_lse:
        return "it gives no log-sum-exp"
    if (transform := unsupported_transform()) is not None:
        return f"it has no gradient, {transform} is not supported"
    if call.training:
        return "it has no gradient: call it under torch.no_grad(), or take another backend for training"
    return None


def _run(call: Call) -> tuple[Tensor, None]:
    return int8.int8_call(call.q, call.k, call.v, call.key_lengths, call.factor), None


INT8 = Backend("int8", "scores from int8 products, an approximation", _limits, _run, approximate=APPROXIMATE)
