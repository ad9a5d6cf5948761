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
    array. "intrinsics": fp32 [B, T, 3, 3]. "latents 0", "text 0" and so on: of each clip of a cache, in the dtype of
    the cache, the text without the zeros behind it.

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
        for i, sample in enumerate(samples):
            if isinstance(sample, EncodedSample):
                tensors |= {f"{LATENTS} {i}": sample.latents, f"{TEXT} {i}": sample.text}
        return tensors
    except (TypeError, ValueError, KeyError, IndexError) as error:
        keys = ", ".join(sample.key for sample in samples)
        raise UserError(f"clips {keys}: cannot be put together ({error})") from error
