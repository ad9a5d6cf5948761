"""What a token should say: the mean of the labels under it."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

ARRAYS = ("depth", "motion", "depth_valid", "flow_valid")
"""The stored arrays that a probe reads."""


class Targets(NamedTuple):
    """Labels of the tokens of clips, in (T', H', W') order.

    values: float [B, tokens, 3]: mean of log depth (depth in metres), then of du and dv in pixels per frame.
    known: bool [B, tokens]: at least half of the token's pixels have a valid depth, and at least half a valid flow.
    """

    values: Tensor
    known: Tensor


def token_targets(arrays: Mapping[str, Tensor], stride: tuple[int, int, int]) -> Targets:
    """The targets of clips.

    arrays: depth [B, T, H, W] in metres, motion [B, 2 or 3, T-1, H, W], and bool masks depth_valid [B, T, H, W],
        flow_valid [B, T-1, H, W].
    stride: (frames, rows, columns) of pixels under one token. The first token frame holds one video frame; the last
        video frame has no motion.
    """
    depth_valid, flow_valid = arrays["depth_valid"].bool(), arrays["flow_valid"].bool()
    log_depth = torch.where(depth_valid, arrays["depth"].float(), 1.0).log()
    there = torch.ones_like(depth_valid)
    depth, depth_known = _means(log_depth[:, None], depth_valid, there, stride, 0)
    motion, motion_known = _means(arrays["motion"][:, :2].float(), flow_valid, there[:, 1:], stride, 1)
    return Targets(torch.cat([depth, motion], -1), depth_known & motion_known)


def _means(
    values: Tensor, valid: Tensor, there: Tensor, stride: tuple[int, int, int], after: int
) -> tuple[Tensor, Tensor]:
    """Means [B, tokens, C] of values [B, C, T, H, W] where they are valid, and where at least half of those there are;
    after: frames that are missing at the end."""
    known = _cells(valid[:, None].float(), stride, after)
    total = _cells(torch.where(valid[:, None], values, 0), stride, after)
    share = known / _cells(there[:, None].float(), stride, after)
    return (total / known.clamp_min(1)).flatten(2).mT, (share >= 0.5).flatten(1)


def _cells(values: Tensor, stride: tuple[int, int, int], after: int) -> Tensor:
    """Sums of [B, C, T, H, W] over the pixels of each token: [B, C, T', H', W']."""
    whole = F.pad(values, (0, 0, 0, 0, stride[0] - 1, after))
    st, sh, sw = stride
    return whole.unflatten(2, (-1, st)).unflatten(4, (-1, sh)).unflatten(6, (-1, sw)).sum((3, 5, 7))
