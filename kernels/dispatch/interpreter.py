"""Triton's interpreter: whether this process runs kernels in it, and whether it works with the installed NumPy."""

import re

import numpy as np
import triton


def interpreter_fault(triton_version: str, numpy_version: str) -> str | None:
    """Why the interpreter of this Triton fails with this NumPy, and what to install; None where it works."""

    def release(version: str) -> tuple[int, ...]:
        return tuple(int(part) for part in re.findall(r"\d+", version)[:2])

    if release(triton_version) >= (3, 7) or release(numpy_version) < (2, 4):
        return None
    return (
        f"TRITON_INTERPRET is set, and the interpreter of triton {triton_version} does not work with numpy "
        f'{numpy_version}; install "numpy<2.4", or triton 3.7 or newer'
    )


# Whether this process runs Triton kernels in Triton's interpreter (TRITON_INTERPRET=1): then they serve the CPU.
INTERPRETED = bool(triton.knobs.runtime.interpret)
if INTERPRETED and (_fault := interpreter_fault(triton.__version__, np.__version__)):
    raise ImportError(_fault)
