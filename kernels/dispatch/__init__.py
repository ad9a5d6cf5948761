"""From a call to a kernel: which implementation serves it, how the operator is called, how the kernel is launched.

    backend.py   native code, Triton or the definition in torch; Triton's interpreter
    constants.py what is read once in a process: devices, determinism as a compiler can trace them
    operator.py  calls of registered operators with little host work; their CPU and autocast rules
    launch.py    launches of Triton kernels, strides in units that show their alignment
"""

from phys4d.kernels.dispatch.backend import (
    INTERPRETED,
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
from phys4d.kernels.dispatch.launch import aligned, aligned_strides, launch
from phys4d.kernels.dispatch.operator import autocast_to_float32, below_autograd, cpu_kernel, low_overhead_call

__all__ = [
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
    "cpu_kernel",
    "determinism",
    "float32_kernel_serves",
    "gpu_name",
    "has_autocast",
    "launch",
    "low_overhead_call",
    "triton_runs_on",
]
