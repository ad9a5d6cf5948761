"""What holds for a whole process: read once, and a constant for torch.compile, which cannot trace the reading."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch

F = TypeVar("F", bound=Callable[..., Any])


def constant_while_tracing(function: F) -> F:
    """Decorates a function of plain arguments that a compiler runs while it traces, to take its result as a constant.

    As `torch.compiler.assume_constant_result`, which would import the compiler.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def constant_for_process(function: F) -> F:
    """Decorates a function of plain arguments whose result holds for the process.

    It runs once for equal arguments. A compiler takes the result, which must be plain data or a function, as a
    constant: properties of a device, files and packages that may be absent cannot be traced.
    """
    once = functools.cache(function)

    def known(*args: Any) -> Any:
        return once(*args)

    known.__name__, known.__doc__ = function.__name__, function.__doc__
    known.forget = once.cache_clear  # type: ignore[attr-defined]  # for tests, which put another device in its place
    return constant_while_tracing(known)  # type: ignore[return-value]


@constant_for_process
def gpu_name(index: int) -> str:
    """The name of a CUDA device, for example "NVIDIA H200"."""
    return torch.cuda.get_device_name(index)


@constant_for_process
def compute_capability(index: int) -> int:
    """The compute capability of a CUDA device as a number: 90 for Hopper."""
    major, minor = torch.cuda.get_device_capability(index)
    return 10 * major + minor


@constant_for_process
def has_autocast(device_type: str) -> bool:
    """Whether there is autocast for devices of this type."""
    return torch.amp.is_autocast_available(device_type)


@constant_while_tracing
def _warns_only() -> bool:
    return torch.is_deterministic_algorithms_warn_only_enabled()


def determinism() -> str:
    """What `torch.use_deterministic_algorithms` was called for: "off", "warn" or "required".

    A compiled graph is made anew where either of its settings changes.
    """
    if not torch.are_deterministic_algorithms_enabled():
        return "off"
    return "warn" if _warns_only() else "required"
