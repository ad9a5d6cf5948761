"""Triton kernels under test: on a GPU where there is one, else in Triton's interpreter.

The interpreter is chosen when a kernel is defined, so tests that need it run in a process of their own, started with
TRITON_INTERPRET=1 (`make test` does so), and machine code is looked at in another.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import triton
from torch import Tensor
from torch._subclasses import FakeTensorMode

INTERPRETED = bool(triton.knobs.runtime.interpret)


def _exact_bfloat16() -> None:
    """Makes the interpreter's bfloat16 right: it keeps the bits as integers and multiplies, adds and sums those."""
    import triton.language as tl
    from triton.runtime import interpreter

    handle, builder = interpreter.TensorHandle, interpreter.InterpreterBuilder
    reduction = interpreter.ReduceScanOpInterface

    def widened(bits: np.ndarray) -> np.ndarray:
        return (np.ascontiguousarray(bits).astype(np.uint32) << 16).view(np.float32)

    def rounded(numbers: np.ndarray) -> np.ndarray:  # to nearest even
        numbers = np.ascontiguousarray(numbers, dtype=np.float32)
        bits = numbers.view(np.uint32)
        near = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
        return np.where(np.isnan(numbers), np.uint16(0x7FC0), near).astype(np.uint16)

    def is_bfloat16(x: object) -> bool:
        return isinstance(x, handle) and x.dtype.scalar == tl.bfloat16

    def wide(x):
        return handle(widened(x.data), tl.float32) if is_bfloat16(x) else x

    cast, binary, unary, dot = builder.cast_impl, builder.binary_op, builder.unary_op, builder.create_dot
    reduce = reduction.apply

    def cast_impl(self, source, target):
        before, after = source.dtype.scalar, target.scalar
        if before == tl.bfloat16 and after != tl.bfloat16:
            return wide(source) if after == tl.float32 else cast(self, wide(source), target)
        if after == tl.bfloat16 and before != tl.bfloat16:
            return handle(rounded(source.data.astype(np.float32)), tl.bfloat16)
        return cast(self, source, target)

    def binary_op(self, x, y, operation):
        if not (is_bfloat16(x) or is_bfloat16(y)):
            return binary(self, x, y, operation)
        result = operation(wide(x).data, wide(y).data)
        return handle(result, tl.int1) if result.dtype == bool else handle(rounded(result), tl.bfloat16)

    def unary_op(self, x, operation):
        if is_bfloat16(x) and operation is not np.abs:
            return handle(rounded(operation(widened(x.data))), tl.bfloat16)
        return unary(self, x, operation)

    def create_dot(self, x, y, accumulator, precision, terms):
        return dot(self, wide(x), wide(y), accumulator, precision, terms)

    def apply(self, given):
        if isinstance(given, tuple):
            given = tuple(
                tl.core.tensor(wide(x.handle), tl.block_type(tl.float32, [int(n) for n in x.shape]))
                if x.dtype == tl.bfloat16
                else x
                for x in given
            )
        return reduce(self, given)

    builder.get_bf16 = lambda self, value: handle(rounded(np.array([value], np.float32)), tl.bfloat16)
    builder.cast_impl, builder.binary_op = cast_impl, binary_op
    builder.unary_op, builder.create_dot = unary_op, create_dot
    reduction.apply = apply


if INTERPRETED:
    _exact_bfloat16()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if INTERPRETED or torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("interpreted"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device, and not started with TRITON_INTERPRET=1"))


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where kernels run."""
    return torch.device("cpu" if INTERPRETED else "cuda")


@pytest.fixture(scope="module")
def h200() -> Iterator[Callable[..., Tensor]]:
    """A stand-in for an H200: makes tensors of zeros without data on it, for what is decided before anything runs."""
    from phys4d.kernels.attention import measured
    from phys4d.kernels.dispatch import constants

    def make(*sizes: int, dtype: torch.dtype = torch.bfloat16, requires_grad: bool = False) -> Tensor:
        with FakeTensorMode():
            return torch.zeros(sizes, dtype=dtype, device="cuda:0").requires_grad_(requires_grad)

    known = (constants.gpu_name, constants.compute_capability, measured.table_of)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "get_device_name", lambda device=None: "NVIDIA H200")
        patch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
        for function in known:
            function.forget()
        yield make
    for function in known:
        function.forget()


@pytest.fixture
def deterministic() -> Iterator[Callable[[str], None]]:
    """Sets torch's deterministic algorithms to "off", "warn" or "required", until the test ends."""
    yield lambda level: torch.use_deterministic_algorithms(level != "off", warn_only=level == "warn")
    torch.use_deterministic_algorithms(False)
