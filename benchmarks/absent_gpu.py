"""What stands in for a GPU that is not here: enough for Triton to compile for it, and to launch nothing on it."""

from typing import Any


class AbsentGpu:
    """A driver of a GPU of a given architecture: kernels compile for it, none runs.

    Attributes:
        launches: how many kernels would have been launched.
    """

    def __init__(self, arch: int) -> None:
        self.arch = arch
        self.launches = 0
        self.utils = self

    def get_current_target(self) -> Any:
        """For which machine kernels are compiled."""
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        """A number of its own for each architecture: what was compiled is kept by it."""
        return self.arch

    def get_current_stream(self, device: int) -> int:
        """One for all."""
        return 0

    def get_device_properties(self, device: int) -> dict[str, int]:
        """Room enough for anything: whether a kernel fits is not asked here."""
        return {"max_shared_mem": 1 << 20}

    def load_binary(self, *binary: Any) -> tuple[int, int, int, int, int]:
        """Module, function, registers, spills, threads at most; loads nothing."""
        return 0, 0, 0, 0, 1024

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        """What Triton calls for a launch."""

        def launch(*args: Any) -> None:
            self.launches += 1

        return launch
