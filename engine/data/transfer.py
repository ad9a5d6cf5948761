"""Copies the tensors of a batch to a device ahead of their use: from pinned memory, on a stream of its own."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Copied:
    """Tensors on their way to a device. tensors: there. stream, done: of the copies, None where there was nothing to
    wait for."""

    tensors: dict[str, Tensor]
    stream: torch.cuda.Stream | None = None
    done: torch.cuda.Event | None = None

    def ready(self) -> dict[str, Tensor]:
        """The tensors, to be used on the current stream of their device, which waits for the copies; the host does
        not."""
        if self.stream is not None and self.done is not None:
            current = torch.cuda.current_stream(self.stream.device)
            current.wait_event(self.done)
            for tensor in self.tensors.values():
                tensor.record_stream(current)  # their memory is not used anew before what runs there is done
        return self.tensors


class Transfer:
    """Copies to one device. device: where to; on any but a CUDA device tensors are copied by the calling thread."""

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    def start(self, tensors: Mapping[str, Tensor]) -> Copied:
        """Begins to copy tensors of the host; from any thread."""
        if self._stream is None:
            return Copied({name: tensor.to(self.device) for name, tensor in tensors.items()})
        pinned = {name: tensor.pin_memory() for name, tensor in tensors.items()}
        with torch.cuda.device(self.device), torch.cuda.stream(self._stream):
            copies = {name: tensor.to(self.device, non_blocking=True) for name, tensor in pinned.items()}
            done = self._stream.record_event()
        return Copied(copies, self._stream, done)
