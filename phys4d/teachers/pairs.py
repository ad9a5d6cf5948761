"""A network of optical flow over pairs of frames: in batches, and small frames enlarged for it."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST = 128
"""Pixels of the shortest side that RAFT and its kin take: an eighth of it is halved three times."""


def enlargement(size: tuple[int, int]) -> float:
    """How much larger the frames are that the network sees, at least 1. size: height and width of the clip."""
    return max(1.0, SMALLEST / min(size))


def over_pairs(
    network: Callable[[Tensor, Tensor], Tensor],
    first: Sequence[np.ndarray],
    second: Sequence[np.ndarray],
    batch: int,
    device: torch.device,
) -> Tensor:
    """What a network gives for each pair of frames, in the pixels of the clip.

    Args:
        network: takes both frames of N pairs, float32 [N, 3, H', W'] in [-1, 1], sides at least 128, and gives
            [N, C, H', W'], of which the first two channels are the flow in pixels.
        first, second: frames uint8 [H, W, 3] RGB, as many of both and at least one.
        batch: pairs that the network takes at once.
        device: of the network.

    Returns float32 [N, C, H, W] on the CPU; channels after the flow are as the network gives them, but for their size.
    """
    height, width = first[0].shape[:2]
    scale, parts = enlargement((height, width)), []
    seen = [max(SMALLEST, round(side * scale)) if scale > 1 else side for side in (height, width)]
    for start in range(0, len(first), batch):
        pairs = (_seen(np.stack(frames[start : start + batch]), seen, device) for frames in (first, second))
        found = network(*pairs)
        if seen != [height, width]:
            found = F.interpolate(found, (height, width), mode="bilinear", align_corners=False, antialias=True)
            found[:, :2] *= found.new_tensor([width / seen[1], height / seen[0]]).view(1, 2, 1, 1)
        parts.append(found.cpu())
    return torch.cat(parts)


def _seen(frames: np.ndarray, size: Sequence[int], device: torch.device) -> Tensor:
    rgb = torch.from_numpy(frames).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    if [*rgb.shape[2:]] == [*size]:
        return rgb
    return F.interpolate(rgb, size, mode="bilinear", align_corners=False)
