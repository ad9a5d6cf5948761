"""A Triton driver for a GPU that this machine does not have: kernels compile for it, and no kernel runs."""

from typing import Any


class CompileOnlyDriver:
    """Takes the place of Triton's CUDA driver, for a GPU of compute capability `arch` (90 for 9.0).

    Attributes:
        launches: the number of kernel launches so far, each of which did nothing.
    """

    def __init__(self, arch: int) -> None:
        self.arch = arch
        self.launches = 0
        self.utils = self

    def get_current_target(self) -> Any:
        """The GPU that kernels are compiled for, with 32 threads a warp."""
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        """A device index that differs by architecture: Triton keeps compiled kernels by this index."""
        return self.arch

    def get_current_stream(self, device: int) -> int:
        """The default stream."""
        return 0

    def get_device_properties(self, device: int) -> dict[str, int]:
        """1 MiB of shared memory, so that every kernel loads; `machine_code` checks the true limit."""
        return {"max_shared_mem": 1 << 20}

    def load_binary(self, *binary: Any) -> tuple[int, int, int, int, int]:
        """Module, function, registers, spills and the maximum of threads per block; loads nothing."""
        return 0, 0, 0, 0, 1024

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        """The function that Triton calls for a launch; it counts the call."""

        def launch(*args: Any) -> None:
            self.launches += 1

        return launch
