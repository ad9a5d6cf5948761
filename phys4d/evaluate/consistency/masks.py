"""Masks of objects against the true ones, in the image: PISA's trajectory error, Chamfer distance and IoU.

Source: PISA (Li et al. 2025), vision-x-nyu/pisa-experiments, `utils/metrics.py`. Distances are divided by sqrt(2) times
the longer side of the image. All functions return one value for each clip, float64 [B], NaN where there is nothing to
compare.
"""

import torch
from torch import Tensor

from phys4d.evaluate.consistency.averages import masked_mean, mean_where_known
from phys4d.kernels.geometry import chamfer


def trajectory_error(masks: Tensor, truth: Tensor) -> Tensor:
    """PISA's trajectory L2: mean over objects, frames and both axes of |centroid - centroid*| / (sqrt(2) size).

    A mean of absolute components, as its program computes; objects and frames without pixels on either side are left
    out.

    masks, truth: bool [B, K, T, H, W], K objects.
    """
    centres, true_centres = _centres(masks), _centres(truth)
    return mean_where_known((centres - true_centres).abs()) / _size(masks)


def mask_chamfer(masks: Tensor, truth: Tensor) -> Tensor:
    """PISA's Chamfer distance of masks: mean over objects and frames of the symmetric sum of mean nearest distances of
    pixels / (sqrt(2) size). Objects and frames without pixels on either side are left out.

    masks, truth: bool [B, K, T, H, W].
    """
    (x, n), (y, m) = _pixels(masks), _pixels(truth)
    each = chamfer(x, y, x_lengths=n, y_lengths=m).view(len(masks), -1)
    return masked_mean(each, ((n > 0) & (m > 0)).view_as(each)) / _size(masks)


def mask_iou(masks: Tensor, truth: Tensor) -> Tensor:
    """PISA's IoU: mean over objects and frames of |A and B| / |A or B|; 1 where both are empty.

    Its program compares each frame's masks of all objects together, once for each object; this compares object by
    object. With one object they are the same.

    masks, truth: bool [B, K, T, H, W].
    """
    both, either = ((masks & truth).sum(dim=(-1, -2)).double(), (masks | truth).sum(dim=(-1, -2)).double())
    return mean_where_known(torch.where(either > 0, both / either.clamp_min(1), 1))


def area_error(masks: Tensor, depth: Tensor, truth: Tensor, truth_depth: Tensor, intrinsics: Tensor) -> Tensor:
    """How far the visible area of each object is from the true one: mean over objects and frames of |A / A* - 1|.

    A is the sum over the object's pixels of z^2 / (fx fy), in square metres: an object that dissolves or grows changes
    it, one that only comes nearer does not. Frames in which the true object is not seen are left out.

    masks, truth: bool [B, K, T, H, W].
    depth, truth_depth: [B, T, H, W], metres.
    intrinsics: [B, T, 3, 3], pixels.
    """
    pixel = 1 / (intrinsics[..., 0, 0] * intrinsics[..., 1, 1]).double()
    area, true_area = (
        torch.where(mask, z[:, None].double().square(), 0).sum(dim=(-1, -2)) * pixel[:, None]
        for mask, z in ((masks, depth), (truth, truth_depth))
    )
    there = true_area > 0
    return masked_mean((area / torch.where(there, true_area, 1) - 1).abs(), there)


def followed(pixels: Tensor, valid: Tensor, chosen: Tensor, height: int, width: int) -> Tensor:
    """The pixels that the chosen tracks are in, frame by frame: bool [T, H, W].

    pixels: [T, N, 2], (u, v) with pixel centres at i + 0.5.
    valid: bool [T, N].
    chosen: bool [N].
    height, width: of the image.
    """
    pixels, valid = pixels[:, chosen], valid[:, chosen]  # few of all
    at = pixels[..., 1].long() * width + pixels[..., 0].long()
    mask = torch.zeros(len(pixels), height * width, dtype=torch.int32)
    mask.scatter_add_(1, torch.where(valid, at, 0), valid.int())
    return (mask > 0).view(-1, height, width)


def _size(masks: Tensor) -> float:
    return float(2**0.5 * max(masks.shape[-2:]))


def _centres(masks: Tensor) -> Tensor:
    """(row, column) of the centroid, float64 [B, K, T, 2], NaN for an empty mask."""
    count = masks.sum(dim=(-1, -2)).double()
    row, column = (torch.arange(size, dtype=torch.float64) for size in masks.shape[-2:])
    sums = (masks.sum(dim=-1).double() @ row, masks.sum(dim=-2).double() @ column)
    return torch.stack([total / count for total in sums], dim=-1)


def _pixels(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels of each mask as points (row, column, 0), [B * K * T, N, 3], and their number."""
    flat = masks.flatten(0, 2).flatten(1)
    count = flat.sum(dim=1)
    mask, pixel = flat.nonzero(as_tuple=True)
    place = torch.arange(len(mask)) - (count.cumsum(0) - count)[mask]  # of a pixel among those of its mask
    points = torch.zeros(len(flat), max(1, int(count.max())), 3, dtype=torch.float64)
    points[mask, place, 0] = (pixel // masks.shape[-1]).double()
    points[mask, place, 1] = (pixel % masks.shape[-1]).double()
    return points, count
