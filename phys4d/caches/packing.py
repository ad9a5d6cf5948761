"""Tensors of a cache as bytes: one safetensors buffer each, in bf16 where that loses nothing or is asked for."""

from collections.abc import Sequence

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from phys4d.caches.card import Dtype

LATENTS, TEXT = "latents", "text"
"""Names of a clip's members, and of the tensor in each."""
NO_CAPTION = "no-caption.safetensors"
"""The file with the tokens of an empty caption, which stand for none in guidance; a `TEXT`."""


def packed(name: str, values: Tensor, dtype: Dtype) -> bytes:
    """A tensor of fp32 on any device as a safetensors buffer of the CPU.

    name: of the tensor. dtype: "fp32" stores bf16 only where every value is one (tokens of a text encoder in bf16).

    ValueError for values that are not finite.
    """
    values = values.detach().cpu().contiguous()
    if not torch.isfinite(values).all():
        raise ValueError(f"its {name} are not finite")
    rounded = values.bfloat16()
    exact = torch.equal(rounded.float().view(torch.int32), values.view(torch.int32))
    return safetensors.torch.save({name: rounded if exact or dtype == "bf16" else values})


def unpacked(name: str, data: bytes) -> Tensor:
    """The tensor in such a buffer, fp32 or bf16. ValueError where there is none."""
    try:
        tensors = safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"is no safetensors buffer ({' '.join(str(error).split())})") from None
    if tensors.keys() != {name}:
        raise ValueError(f"holds {', '.join(sorted(tensors)) or 'no tensor'}, expected {name}")
    if tensors[name].dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"is {tensors[name].dtype}, expected float32 or bfloat16")
    return tensors[name]


def trimmed(tokens: Tensor) -> Tensor:
    """Tokens [L, D] without the zeros behind the last one: [n, D]."""
    used = tokens.view(torch.int32).any(dim=1).nonzero()
    return tokens[: int(used[-1]) + 1 if len(used) else 0]


def stacked(parts: Sequence[Tensor], shape: Sequence[int], device: torch.device | str) -> Tensor:
    """fp32 [len(parts), *shape] on a device; a part with fewer rows than `shape` has zeros behind them (`trimmed`).

    parts: fp32 or bf16 on the CPU, of which only their own bytes are copied to the device.
    """
    whole = torch.zeros(len(parts), *shape, device=device)
    for row, part in zip(whole, parts, strict=True):
        row[: len(part)] = part.to(device)
    return whole
