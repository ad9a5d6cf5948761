"""Trees of bounding boxes over batches of point clouds, built on the device of the clouds without synchronisation.

Points are sorted along a space-filling curve, so that consecutive points, a leaf, lie close together. A box holds four
leaves, a larger box four boxes, up to the root. The tree is implicit, without pointers: the root is node 0, the
children of node i are 4 i + 1 to 4 i + 4, and all levels but the last are full.

Reason for a tree in place of a grid of cells: depth maps are dense near the camera and sparse far from it, and one
outlier makes the bounding box of a cloud arbitrarily large. A grid then holds all points in few cells; the boxes of
leaves adapt to the points.

All operations are sorts, minima or arithmetic on single elements: the same bits in every run. The tree determines the
speed of a search and never its result.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from phys4d.kernels.geometry.clouds import curve

CHILDREN = 4
LEAF = 8  # points; the native search is compiled for this number
NO_POINT = 2**31 - 1  # an index that no point has


class PointTree(NamedTuple):
    """Trees over clouds [B, N, D], D 3 or 4, without the points that are not valid or not finite.

    points: [B, leaves, D, leaf], the coordinates of each leaf, axis by axis; infinite where there is no point.
    order: int32 [B, leaves, leaf], the index of each point. 0 to N - 1 occur once each; points that are not in the tree
        come last, mixed with numbers from N on, which are padding.
    boxes: [B, groups, 2 D, CHILDREN], for every inner node the minimum coordinates of its children and the negative of
        their maximum; infinite where there is no child.
    first: int32 [B, groups, CHILDREN], the lowest index in each child, 2^31 - 1 where there is none.
    """

    points: Tensor
    order: Tensor
    boxes: Tensor
    first: Tensor


def grow(cloud: Tensor, lengths: Tensor, leaf: int = LEAF) -> PointTree:
    """Trees over the first `lengths` (int64 [B]) points of cloud [B, N, D] (float32 or float64). Memory O(B N).

    Raises:
        ValueError: clouds of 2^31 - 1 points or more.
    """
    if cloud.shape[1] >= NO_POINT:
        raise ValueError(f"cloud: expected fewer than {NO_POINT} points, got {cloud.shape[1]}")
    batch, points, dimensions = cloud.shape
    leaves = max(1, -(-points // (leaf * CHILDREN))) * CHILDREN
    cloud = F.pad(cloud.detach(), (0, 0, 0, leaves * leaf - points), value=torch.nan)
    keys, order = curve.keys(cloud, lengths).sort(dim=1, stable=True)
    cloud = cloud.gather(1, order[..., None].expand(-1, -1, dimensions))
    cloud = torch.where((keys < curve.NOWHERE)[..., None], cloud, torch.inf)
    cloud = cloud.view(batch, leaves, leaf, dimensions).transpose(2, 3).contiguous()
    numbers = order.to(torch.int32).view(batch, leaves, leaf)
    return PointTree(cloud, numbers, *_boxes(cloud, numbers))


def grow_both(x: Tensor, y: Tensor, x_lengths: Tensor, y_lengths: Tensor) -> tuple[PointTree, PointTree]:
    """`grow` for two clouds at once: half the number of kernel launches, which dominate the time for one pair."""
    points = max(x.shape[1], y.shape[1])
    both = torch.cat([F.pad(cloud, (0, 0, 0, points - cloud.shape[1])) for cloud in (x, y)])
    trees = grow(both, torch.cat((x_lengths, y_lengths)))
    return PointTree(*(part[: len(x)] for part in trees)), PointTree(*(part[len(x) :] for part in trees))


def first_leaf_of(leaves: int) -> int:
    """The node number of the first leaf: the number of inner nodes of a tree whose levels are full."""
    return (CHILDREN ** _levels(leaves) - 1) // (CHILDREN - 1)


def _levels(leaves: int) -> int:
    """The number of levels of boxes above `leaves` leaves, at least 1."""
    levels = 1
    while CHILDREN**levels < leaves:
        levels += 1
    return levels


def _boxes(points: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """`boxes` and `first` of a `PointTree`, level by level from the leaves; a maximum is a minimum of negatives."""
    leaves = order.shape[1]
    exists = points < torch.inf
    sides = torch.cat((points.amin(-1), torch.where(exists, -points, torch.inf).amin(-1)), dim=2)
    first = torch.where(exists[:, :, 0], order, NO_POINT).amin(-1)
    all_sides, all_first = [], []
    for level in range(_levels(leaves) - 1, -1, -1):
        all_sides.append(sides.unflatten(1, (-1, CHILDREN)).transpose(2, 3))
        all_first.append(first.unflatten(1, (-1, CHILDREN)))
        sides, first = all_sides[-1].amin(-1), all_first[-1].amin(-1)
        missing = CHILDREN**level - sides.shape[1]
        if missing:
            sides, first = F.pad(sides, (0, 0, 0, missing), value=torch.inf), F.pad(first, (0, missing), value=NO_POINT)
    return torch.cat(all_sides[::-1], dim=1), torch.cat(all_first[::-1], dim=1)
