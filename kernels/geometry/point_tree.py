"""Trees of boxes over batches of point clouds, made by torch on the clouds' own device without waiting for it.

Points are sorted along a space-filling curve (Morton's), so that so many in a row, a leaf, lie close together; four
leaves are held in a box, four boxes in a larger one, up to a root. The tree is implicit: the children of node i are
4 i + 1 to 4 i + 4, the root is node 0, all levels are full but the last, and whoever walks needs no pointers.

Why a tree and not a grid of cells: depth maps are dense near the camera and thin far away, and one wild point makes the
box around a cloud arbitrarily large. A grid then holds everything in few cells. Boxes of leaves follow the points. The
curve could suffer likewise, since it divides the range of the coordinates evenly; so it is drawn not through the
coordinates but through where they rank among a sample of their cloud, and evenly only between two of that.

Everything is a sort, a minimum or arithmetic on single elements: the same bits in every run. Which tree is made decides
how fast a search is, never what it finds.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

CHILDREN = 4
LEAF = 8  # points; what the native search is compiled for
NOBODY = 2**31 - 1  # an index that no point has
_SAMPLE, _RANGES = 4096, 256  # points of a cloud that are ranked; ranges of equally many of them that an axis is cut to
_BITS = {3: 21, 4: 15}  # of an axis in a key of 63 bits


class PointTree(NamedTuple):
    """Trees over clouds [B, N, D], D 3 or 4; of points that are not finite, or do not count, they know nothing.

    points: [B, leaves, D, leaf], each leaf's coordinates axis by axis; infinite where there is no point.
    order: int32 [B, leaves, leaf], which point that is, or would be; 0 to N - 1 occur once each, beside numbers from N
        on.
    boxes: [B, groups, 2 D, CHILDREN], of every inner node the children's least coordinates and the negatives of their
        greatest; infinite where there is no child.
    first: int32 [B, groups, CHILDREN], the lowest index inside each child, 2^31 - 1 where there is none.
    """

    points: Tensor
    order: Tensor
    boxes: Tensor
    first: Tensor


def grow(cloud: Tensor, lengths: Tensor, leaf: int = LEAF) -> PointTree:
    """Trees over cloud [B, N, D] (float32 or float64), of which the first lengths, int64 [B], count. Memory O(B N).

    Raises:
        ValueError: clouds of 2^31 - 1 points or more.
    """
    if cloud.shape[1] >= NOBODY:
        raise ValueError(f"cloud: expected fewer than {NOBODY} points, got {cloud.shape[1]}")
    batch, points, dimensions = cloud.shape
    leaves = max(1, -(-points // (leaf * CHILDREN))) * CHILDREN
    cloud = F.pad(cloud.detach(), (0, 0, 0, leaves * leaf - points), value=torch.nan)
    counted = torch.arange(leaves * leaf, device=cloud.device) < lengths[:, None]
    usable = cloud.isfinite().all(dim=-1) & counted
    order = torch.where(usable, _keys(cloud, usable, lengths), 2**63 - 1).sort(dim=1, stable=True).indices
    cloud = torch.where(usable[..., None], cloud, torch.inf)
    cloud = cloud.gather(1, order[..., None].expand(-1, -1, dimensions))
    cloud = cloud.view(batch, leaves, leaf, dimensions).transpose(2, 3).contiguous()
    numbers = order.to(torch.int32).view(batch, leaves, leaf)
    return PointTree(cloud, numbers, *_boxes(cloud, numbers))


def grow_both(x: Tensor, y: Tensor, x_lengths: Tensor, y_lengths: Tensor) -> tuple[PointTree, PointTree]:
    """`grow` for two clouds at once: half as many operations to start, which for one pair is what takes the time."""
    points = max(x.shape[1], y.shape[1])
    both = torch.cat([F.pad(cloud, (0, 0, 0, points - cloud.shape[1])) for cloud in (x, y)])
    trees = grow(both, torch.cat((x_lengths, y_lengths)))
    return PointTree(*(part[: len(x)] for part in trees)), PointTree(*(part[len(x) :] for part in trees))


def first_leaf_of(leaves: int) -> int:
    """The number of the first leaf among the nodes, which is how many there are above it where levels are full."""
    return (CHILDREN ** _levels(leaves) - 1) // (CHILDREN - 1)


def _levels(leaves: int) -> int:
    """Levels of boxes above so many leaves, at least 1."""
    levels = 1
    while CHILDREN**levels < leaves:
        levels += 1
    return levels


def _boxes(points: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """PointTree's boxes and first, level by level from the leaves up; of negatives too the least is sought."""
    batch, leaves = order.shape[:2]
    exists = points < torch.inf
    sides = torch.cat((points.amin(-1), torch.where(exists, -points, torch.inf).amin(-1)), dim=2)
    first = torch.where(exists[:, :, 0], order, NOBODY).amin(-1)
    all_sides, all_first = [], []
    for level in range(_levels(leaves) - 1, -1, -1):
        all_sides.append(sides.unflatten(1, (-1, CHILDREN)).transpose(2, 3))
        all_first.append(first.unflatten(1, (-1, CHILDREN)))
        sides, first = all_sides[-1].amin(-1), all_first[-1].amin(-1)
        missing = CHILDREN**level - sides.shape[1]
        if missing:
            sides, first = F.pad(sides, (0, 0, 0, missing), value=torch.inf), F.pad(first, (0, missing), value=NOBODY)
    return torch.cat(all_sides[::-1], dim=1), torch.cat(all_first[::-1], dim=1)


def _keys(cloud: Tensor, usable: Tensor, lengths: Tensor) -> Tensor:
    """The places on the curve, int64 [B, N], of the usable points of cloud [B, N, D]; anything for the others.

    An axis is cut into ranges that hold equally many of a sample, a range into equal steps: a number whose bits are
    then interlaced with those of the other axes.
    """
    dimensions = cloud.shape[2]
    values = torch.where(usable[..., None], cloud, torch.inf).transpose(1, 2).contiguous()
    at = torch.arange(_SAMPLE, device=cloud.device) * lengths[:, None] // _SAMPLE
    sample = values.gather(2, at[:, None].expand(-1, dimensions, -1)).sort(dim=2).values
    low = values.amin(dim=2, keepdim=True)
    high = torch.where(values < torch.inf, values, -torch.inf).amax(dim=2, keepdim=True)
    step = _SAMPLE // _RANGES
    edges = torch.cat((low, torch.minimum(sample[..., step::step], high), high), dim=2)
    ranges = torch.searchsorted(edges[..., 1:-1].contiguous(), values, right=True)
    fine = 1 << (_BITS[dimensions] - _RANGES.bit_length() + 1)
    edges = edges.double()
    begin, end = edges.gather(2, ranges), edges.gather(2, ranges + 1)
    share = ((values - begin) / (end - begin)).nan_to_num(0.0).clamp(0, 1) * fine
    places = ranges * fine + share.long().clamp(max=fine - 1)
    spread = _spread(places, dimensions)
    key = spread[:, 0]
    for axis in range(1, dimensions):
        key = key | spread[:, axis] << axis
    return key


def _spread(numbers: Tensor, apart: int) -> Tensor:
    """int64 numbers, of 21 bits where `apart` is 3 and of 15 where it is 4, with their bits that far apart."""
    steps = {
        3: ((32, 0x1F00000000FFFF), (16, 0x1F0000FF0000FF), (8, 0x100F00F00F00F00F), (4, 0x10C30C30C30C30C3),
            (2, 0x1249249249249249)),
        4: ((24, 0x7F000000FF), (12, 0x7000F000F000F), (6, 0x303030303030303), (3, 0x111111111111111)),
    }  # fmt: skip
    for shift, kept in steps[apart]:
        numbers = (numbers | numbers << shift) & kept
    return numbers
