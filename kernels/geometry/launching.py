"""Starting the Triton kernels of point clouds."""

from typing import Any


def launch(kernel: Any, programs: int, *args: Any, num_warps: int = 4, **options: Any) -> None:
    """Starts so many programs, if any, with products and sums rounded apart, as on the CPU.

    Raises:
        ValueError: more programs than a grid holds.
    """
    if programs >= 1 << 31:
        raise ValueError(f"{programs} programs of {kernel.__name__}: at most {(1 << 31) - 1}")
    if programs:
        kernel[(programs,)](*args, num_warps=num_warps, enable_fp_fusion=False, **options)
