"""FLOPs of a training step, counted while it runs, and the peak that they are compared with.

A step has two numbers. *Hardware* FLOPs are all that is executed. *Model* FLOPs are those that the step needs however
it is run: every forward evaluation, and the gradients that autograd computes: of trained weights, and of the
activations behind them, also through frozen layers; none of frozen weights. What activation checkpointing evaluates
again is no part of them, and attention's backward counts twice its forward: as executed it is 2.5 times, since its
kernels compute the scores again (Dao et al. 2023, FlashAttention-2, section 4.1). Model FLOPs over the peak are the MFU
(Chowdhery et al. 2022, PaLM, appendix B), hardware FLOPs the HFU.

Products of matrices and convolutions count, as in torch.utils.flop_counter, whose formulas are used; operators of other
packages register more.
"""

import re
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_CPU_ATTENTION = {  # operators without a formula of torch's -> the operator of the same arguments that has one
    "aten::_scaled_dot_product_flash_attention_for_cpu": "_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": "_scaled_dot_product_flash_attention_backward",
}
_ATTENTION_BACKWARD = re.compile("attention.*backward")

PEAKS = {
    r"A100": 312.0,
    r"H100 PCIe": 756.0,
    r"(H100|H200) NVL": 835.0,
    r"H100|H200": 989.0,
    r"B200": 2250.0,
}
"""Dense bf16 TFLOP/s by a pattern of torch's device name, the first that fits. Data sheets of NVIDIA: A100 (2021),
H100 (2023: SXM 1,979, NVL 1,671 and PCIe 1,513 with sparsity, half without), H200 (2024: SXM as H100 SXM, NVL as H100
NVL), HGX B200 (2024: 4.5 PFLOP/s with sparsity, half without)."""


class Peak(NamedTuple):
    """tflops: dense bf16 TFLOP/s of one device, None where it is not known; reason: where it is from, or why not."""

    tflops: float | None
    reason: str


def peak_of(name: str) -> Peak:
    """The peak of a device by torch's name of it ("NVIDIA H100 80GB HBM3"), or by its type where it has none."""
    for pattern, tflops in PEAKS.items():
        if re.search(rf"\b({pattern})\b", name):
            return Peak(tflops, f"dense bf16 of {name} by NVIDIA's data sheet")
    return Peak(None, f"no dense bf16 peak is known of {name}: neither MFU nor HFU is logged")


def device_peak(device: torch.device) -> Peak:
    """The peak of a device of this process."""
    return peak_of(torch.cuda.get_device_name(device) if device.type == "cuda" else device.type)


class FlopCount(TorchDispatchMode):
    """Context that counts the FLOPs of what this process executes in it, backward passes included.

    It changes no result. Compiled functions run compiled: what they hand to libraries and operators is counted,
    products in a compiler's own kernels (max_autotune) are not, and what a compiler computes again in backward under a
    memory budget counts as a gradient. Tensors may be without data (meta, fake).

    model, hardware: FLOPs so far.
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.model = self.hardware = 0

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """That compiled functions run as compiled, where torch would otherwise run them eagerly."""
        return True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        formula = formula_of(func)
        if formula is None and torch.is_inference_mode_enabled() and isinstance(func, torch._ops.OpOverload):
            with self:  # in inference mode, composite operators arrive whole
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        out = func(*args, **kwargs)
        if formula is not None:
            flops = int(formula(*args, **kwargs, out_val=out))
            self.hardware += flops
            self.model += model_flops(func, flops)
        return out


def name_of(func: Any) -> str:
    """An operator's name without its overload, such as "aten::mm"."""
    operator = getattr(func, "_overloadpacket", func)
    return str(getattr(operator, "_qualified_op_name", operator))


def formula_of(func: Any) -> Any:
    """The formula of an operator's FLOPs, called with its arguments and `out_val`; None where it has none."""
    formula = flop_registry.get(getattr(func, "_overloadpacket", func))
    if formula is None and (name := name_of(func)) in _CPU_ATTENTION:
        formula = flop_registry[getattr(torch.ops.aten, _CPU_ATTENTION[name])]
    return formula


def model_flops(func: Any, flops: int) -> int:
    """What of the FLOPs of an operator that runs here counts as model FLOPs."""
    if _recomputed():
        return 0
    return flops * 4 // 5 if _ATTENTION_BACKWARD.search(name_of(func)) else flops


def _recomputed() -> bool:
    """Whether this runs in a backward pass and is a forward evaluation: autograd's own work records no gradients, and
    checkpointing keeps what it evaluates again by hooks on saved tensors."""
    if torch._C._current_graph_task_id() == -1:
        return False
    return torch.is_grad_enabled() or torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
