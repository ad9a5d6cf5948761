"""A judge beside the reward, which no policy is trained on: how far off the pixels are that change."""

import torch
from torch import Tensor

from phys4d.rewards.moving_chamfer import changed

CHANGED = 0.1
"""Change of appearance, out of 2, from which on a pixel counts: less than for the reward, so that shadows do."""


@torch.no_grad()
def pixel_error(video: Tensor, truth_video: Tensor) -> Tensor:
    """Root of the mean squared error, [B], of the pixels that have changed since the first frame in either clip.

    It sees neither depth nor motion, hence nothing that heads misread: where the reward rises and this rises with it, a
    policy bends what it is measured by. 0 for clips in which nothing changes.

    video, truth_video: [B, 3, T, H, W] in [-1, 1]; the error is of values from 0 to 1.

    Raises ValueError for other shapes.
    """
    if video.shape != truth_video.shape:
        raise ValueError(f"truth_video: expected shape {list(video.shape)}, got {list(truth_video.shape)}")
    either = (changed(video, CHANGED) | changed(truth_video, CHANGED)).unsqueeze(1)
    squared = (((video - truth_video) / 2).square() * either).sum((1, 2, 3, 4))
    return (squared / (3 * either.sum((1, 2, 3, 4)).clamp_min(1))).sqrt()
