"""Work on the latent frames of clips in chunks, recomputed in the backward pass: exact, and bounded in memory."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

PIXELS = 1 << 21  # of the video frames of a chunk: one latent frame of 4 x 704 x 740, or all of a small clip


def in_chunks(function: Callable[..., Tensor], inputs: Sequence[Tensor], begins: bool, pixels: int) -> Tensor:
    """function(*inputs, begins), computed in chunks of clips and latent frames where these have many pixels.

    What a chunk keeps for its backward pass is its inputs alone; the rest is computed again there, chunk by chunk. A
    clip that fits into one chunk is computed as without this function.

    function: from parts of `inputs`, and whether they begin with a clip's first latent frame, to a tensor [B, ...],
    whose second dimension is in the order of latent frames, each of which must depend on its own inputs alone.
    inputs: tensors [B, T', ...], one entry per clip and latent frame. begins: whether the first entries are those of
    the first latent frame. pixels: of the video frames in one latent frame.
    """
    clips, frames = inputs[0].shape[:2]
    size = max(1, PIXELS // pixels)
    if clips * frames <= size:
        return function(*inputs, begins)
    done = []
    for clip in zip(*(tensor.split(1) for tensor in inputs), strict=True):
        parts = enumerate(zip(*(tensor.split(size, 1) for tensor in clip), strict=True))
        done.append(joined([recomputed(function, *part, begins and k == 0) for k, part in parts], 1))
    return joined(done, 0)


def recomputed(function: Callable[..., Tensor], *inputs: Tensor | bool) -> Tensor:
    """function(*inputs), whose inner results are computed again in the backward pass, if there is one."""
    result: Tensor = checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
    return result


def joined(parts: list[Tensor], dim: int) -> Tensor:
    """Concatenation; a single part is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)
