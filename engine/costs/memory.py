"""Counts of memory, on real tensors, or on torch's fake ones, which have shapes and no values.

What an operator takes inside, for as long as it runs, is not seen.
"""

import gc
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode


class Peak(TorchDispatchMode):
    """Counts the bytes of all storages that operators allocate in this mode, until they are freed.

    known: tensors whose storages do not count. live: bytes that exist; most: the maximum of `live` so far.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.live = self.most = 0
        self.seen = weakref.WeakKeyDictionary[Any, Any]()
        for tensor in known:
            self.seen[tensor.untyped_storage()] = None

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in tensors_in(made):
            self.count(tensor)
        return made

    def count(self, tensor: Tensor) -> None:
        """Counts the storage of a tensor, unless it is known."""
        storage = tensor.untyped_storage()
        if storage in self.seen:
            return
        size = storage.nbytes()
        self.seen[storage] = weakref.finalize(storage, self._gone, size)
        self.add(size)

    def add(self, size: int) -> None:
        """Bytes that exist from here on."""
        self.live += size
        self.most = max(self.most, self.live)

    def leave_out(self, tensor: Tensor) -> None:
        """From here on the storage of a tensor does not count."""
        storage = tensor.untyped_storage()
        gone = self.seen.get(storage)
        self.seen[storage] = None
        if gone is not None:
            gone()

    def _gone(self, size: int) -> None:
        self.live -= size


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Tensors among an operator's inputs or outputs, which are tensors, other values, and lists or tuples of these."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors_in(part)


class Moved(TorchDispatchMode):
    """Sums the bytes of inputs and outputs of every operator that is no view."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        self.bytes += moved_bytes(function, args, kwargs, made)
        return made


def moved_bytes(function: Any, args: Any, kwargs: Any, made: Any) -> int:
    """Bytes of an operator's inputs and outputs, 0 of a view.

    function: the operator. args, kwargs: its inputs. made: its result.
    """
    outputs, inputs = list(tensors_in(made)), [*tensors_in(args), *tensors_in(list((kwargs or {}).values()))]
    known = {t.untyped_storage()._cdata for t in inputs}
    if function._schema.is_mutable or any(t.untyped_storage()._cdata not in known for t in outputs):
        return sum(t.numel() * t.element_size() for t in (*inputs, *outputs))
    return 0


class Kept(torch.autograd.graph.saved_tensors_hooks):
    """Bytes of all storages that autograd keeps while it is on, beyond those of `given`."""

    def __init__(self, given: list[Tensor]) -> None:
        self.seen = weakref.WeakKeyDictionary[Any, None]((tensor.untyped_storage(), None) for tensor in given)
        self.bytes = 0
        super().__init__(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage not in self.seen:
            self.seen[storage] = None
            self.bytes += storage.nbytes()
        return tensor


@contextmanager
def uncollected() -> Iterator[None]:
    """Without garbage collection, whose moment would otherwise change the count of objects in reference cycles."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def without_values(module: nn.Module, mode: FakeTensorMode) -> None:
    """Replaces every parameter and buffer of a module, on meta or real, by one of `mode` that takes no memory."""
    with mode:
        for part in module.modules():
            for name, parameter in part._parameters.items():
                if parameter is not None:
                    fake = torch.empty(parameter.shape, dtype=parameter.dtype)
                    part._parameters[name] = nn.Parameter(fake, requires_grad=parameter.requires_grad)
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
