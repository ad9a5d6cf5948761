"""The tensors of a batch of clips before they are on a device."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from phys4d.caches.read import EncodedSample
from phys4d.engine.data.dataset import Sample
from phys4d.engine.errors import UserError

VIDEO, ARRAY, INTRINSICS, LATENTS, TEXT = "video", "array", "intrinsics", "latents", "text"


def on_host(samples: Sequence[Sample]) -> dict[str, Tensor]:
    """The tensors of a batch by name.

    "video": uint8 [B, T, H, W, 3], absent where a decoder left it on a device. "array depth" and so on: of each stored
    array. "intrinsics": fp32 [B, T, 3, 3]. "latents": [B, C, T', H', W'] of a cache, fp32 or bf16. "text 0" and so on:
    tokens of each clip of a cache, without the zeros behind them.

    Raises UserError for clips that cannot be put together.
    """
    try:
        tensors = {
            f"{ARRAY} {name}": torch.from_numpy(np.stack([sample.arrays[name] for sample in samples]))
            for name in samples[0].arrays
        }
        tensors[INTRINSICS] = torch.tensor(np.stack([s.meta["intrinsics"] for s in samples]), dtype=torch.float32)
        if all(isinstance(sample.video, np.ndarray) for sample in samples):
            tensors[VIDEO] = torch.from_numpy(np.stack([sample.video for sample in samples]))
        encoded = [sample for sample in samples if isinstance(sample, EncodedSample)]
        if encoded:
            tensors[LATENTS] = _stacked([sample.latents for sample in encoded])
        return tensors | {f"{TEXT} {i}": sample.text for i, sample in enumerate(encoded)}
    except (TypeError, ValueError, KeyError, IndexError) as error:
        keys = ", ".join(sample.key for sample in samples)
        raise UserError(f"clips {keys}: cannot be put together ({error})") from error


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    """As torch.stack, without torch's threads, which would wait for those of the training thread."""
    if len({part.dtype for part in parts}) > 1:
        parts = [part.float() for part in parts]
    dtype = parts[0].dtype
    return torch.from_numpy(np.stack([part.contiguous().view(torch.uint8).numpy() for part in parts])).view(dtype)
