"""When a module's weights may be read in place of calling it, and when a call may leave the model's own code.

Reading `norm.weight` instead of calling `norm` skips whatever happens in the call: hooks that move weights from another
device or from disk, parametrisations, casts, adapters. So every bypass asks `refusal` on every call, and calls the
module where it gives a reason.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook

Known = Mapping[type[nn.Module], Callable[..., Any]]
PLAIN: frozenset[type] = frozenset((Tensor, nn.Parameter, FakeTensor))
_FLOATING = frozenset((torch.float32, torch.bfloat16, torch.float16, torch.float64))


def known_forwards(*classes: type[nn.Module]) -> Known:
    """Classes whose computation a caller can express, each with its `forward`; without those that are patched."""
    return {kind: kind.forward for kind in classes if kind.forward.__qualname__ == f"{kind.__name__}.forward"}


def plain_class(module: nn.Module) -> type[nn.Module]:
    """The class of a module; the class that was sharded for one that torch.distributed derived (FSDP2, replicate)."""
    kind = type(module)
    while len(kind.__bases__) == 2 and kind.__bases__[0].__module__.startswith("torch.distributed."):
        kind = kind.__bases__[1]
    return kind


def submodule(module: nn.Module, name: str) -> Any:
    """`module.name`, without the host time of nn.Module's attribute access."""
    found = module._modules.get(name)
    return getattr(module, name) if found is None else found


def not_plain(module: Any, known: Known) -> str | None:
    """Why calling this module is more than the forward of one of the known classes; None if it is just that."""
    kind = type(module)
    if known.get(kind) is not getattr(kind, "forward", kind):
        return f"its class is {kind.__name__}" if kind not in known else f"{kind.__name__}.forward was replaced"
    if module.forward != kind.forward.__get__(module):  # a form that torch.compile guards
        return "its forward was replaced"
    own = module.__dict__
    if (
        own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"]
        or _has_any_global_hook()
    ):  # fmt: skip
        return "it has hooks"
    return None


def refusal(module: Any, known: Known, device: torch.device | None) -> str | None:
    """Why this module must be called as it is; None if its parameters may be read instead.

    Args:
        module: of any class.
        known: the classes that the caller can compute itself.
        device: of the activations; None to leave it unchecked.
    """
    why = not_plain(module, known)
    if why is not None:
        return why
    parameters = module.__dict__["_parameters"]
    if "weight" not in parameters and module.__dict__.get("weight", module) is not None:
        return "its weight is not a parameter"
    for parameter in parameters.values():
        if parameter is not None and (
            type(parameter) not in PLAIN
            or parameter.dtype not in _FLOATING
            or (device is not None and parameter.device != device)
        ):
            return f"it holds a {type(parameter).__name__} of {parameter.dtype} on {parameter.device}"
    return None


def unfit(*tensors: Any) -> str | None:
    """Why a call with these tensors (None for absent ones) is for the model's own code; None if it is not."""
    for tensor in tensors:
        if tensor is not None and (type(tensor) not in PLAIN or tensor.is_meta or tensor.dtype not in _FLOATING):
            return f"tensors on {tensor.device} that are {type(tensor).__name__} of {tensor.dtype}"
    if not torch.compiler.is_compiling() and (
        forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()
    ):
        return "a transform of torch.func or forward-mode differentiation"
    return None


def mask_refusal(mask: Any, queries: Tensor, heads: int, keys: int) -> str | None:
    """Why `attention` cannot take this mask of scores; None if it can, or if there is none.

    Args:
        mask: bool or floating, [B or 1, heads or 1, S or 1, keys].
        queries: tokens [B, S, C].
        heads, keys: numbers of heads and of keys.
    """
    if mask is None:
        return None
    if type(mask) not in PLAIN or mask.is_meta or (mask.dtype != torch.bool and mask.dtype not in _FLOATING):
        return f"a mask on {mask.device} that is a {type(mask).__name__} of {mask.dtype}"
    fits = mask.ndim == 4 and mask.shape[3] == keys and mask.device == queries.device
    wanted = queries.shape[0], heads, queries.shape[1]
    if not fits or any(size not in (1, full) for size, full in zip(mask.shape, wanted, strict=False)):
        return f"a mask {list(mask.shape)} on {mask.device} for {heads} heads, {queries.shape[1]} queries, {keys} keys"
    return None
