"""Which tensors the Triton kernels of this folder serve; all others are computed by torch's own operators."""

import triton
from torch import Tensor

INTERPRETED = bool(triton.knobs.runtime.interpret)


def by_definition(tensor: Tensor) -> bool:
    """Whether torch's operators compute on this tensor: in float64 (the kernels work in float32), and on devices other
    than CUDA; on the CPU only while Triton does not interpret. Tensors without data (meta) reach the kernels: they are
    launched with them where they are only compiled (`benchmarks/launches.py`)."""
    served = tensor.is_cuda or tensor.is_meta or (tensor.device.type == "cpu" and INTERPRETED)
    return not served or tensor.element_size() == 8
