"""From a call to a kernel: which implementation serves it, how the operator is called, how the kernel is launched.

    arguments.py   checks of a call's tensors: one device, dtypes
    backend.py     native code, Triton or the definition in torch
    constants.py   what is read once in a process: devices, determinism as a compiler can trace them
    interpreter.py Triton's interpreter, and the NumPy it needs
    operator.py    calls of registered operators with little host work; their CPU and autocast rules
    transforms.py  derivatives that operators do not have, refused
    launch.py      launches of Triton kernels on the device of their tensors, strides in units that show their alignment
"""

from phys4d.kernels.dispatch.arguments import (
    FLOATING,
    contiguous_integers,
    expect_dtypes,
    expect_one_device,
    with_rows,
)
from phys4d.kernels.dispatch.backend import (
    Backend,
    choose_backend,
    float32_kernel_serves,
    triton_runs_on,
)
from phys4d.kernels.dispatch.constants import (
    compute_capability,
    constant_for_process,
    constant_while_tracing,
    determinism,
    gpu_name,
    has_autocast,
)
from phys4d.kernels.dispatch.interpreter import INTERPRETED
from phys4d.kernels.dispatch.launch import aligned, aligned_strides, launch, on_device_of
from phys4d.kernels.dispatch.operator import autocast_to_float32, below_autograd, cpu_kernel, low_overhead_call
from phys4d.kernels.dispatch.transforms import differentiable_once, expect_backward_mode, unsupported_transform

__all__ = [
    "FLOATING",
    "INTERPRETED",
    "Backend",
    "aligned",
    "aligned_strides",
    "autocast_to_float32",
    "below_autograd",
    "choose_backend",
    "compute_capability",
    "constant_for_process",
    "constant_while_tracing",
    "contiguous_integers",
    "cpu_kernel",
    "determinism",
    "differentiable_once",
    "expect_backward_mode",
    "expect_dtypes",
    "expect_one_device",
    "float32_kernel_serves",
    "gpu_name",
    "has_autocast",
    "launch",
    "low_overhead_call",
    "on_device_of",
    "triton_runs_on",
    "unsupported_transform",
    "with_rows",
]
