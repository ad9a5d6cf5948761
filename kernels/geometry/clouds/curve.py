"""Positions of points on the Hilbert curve through their cloud: neighbours on the curve are neighbours in space.

The curve visits a grid of cells, 2^20 per axis in space and 2^15 in space-time. Pieces of the curve with equal numbers
of points have bounding boxes that hardly overlap. The simpler Morton order jumps at every scale, and the box of a piece
with a jump is as large as the jump: with leaves of 8 points a query in 100,000 points in a cube visits 29 leaves with
Morton order and 7 with the Hilbert curve.

In a grid of equal cells one outlier would make the grid arbitrarily large, and all other points would fall into one
cell. So the axes are divided at quantiles of a sample of the cloud, and evenly between two quantiles.

On a CPU the keys are computed by torch, elsewhere by one kernel, which replaces hundreds of small operations; the keys
are the same.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from phys4d.kernels.dispatch import launch

NOWHERE = 2**63 - 1  # the key of a point that is not on the curve: larger than all other keys
_SAMPLE, _RANGES = 4096, 256  # points of the sample; ranges of an axis with equal numbers of them
_BITS = {3: 20, 4: 15}
_BLOCK = 128
# Shifts and masks that spread the bits of a number of up to 21 or 16 bits three or four places apart.
_SPREAD = {
    3: ((32, 0x1F00000000FFFF), (16, 0x1F0000FF0000FF), (8, 0x100F00F00F00F00F), (4, 0x10C30C30C30C30C3),
        (2, 0x1249249249249249)),
    4: ((24, 0xFF000000FF), (12, 0xF000F000F000F), (6, 0x303030303030303), (3, 0x1111111111111111)),
}  # fmt: skip


def keys(cloud: Tensor, lengths: Tensor) -> Tensor:
    """Positions on the curve, int64 [B, N] from 0, of cloud [B, N, D], D 3 or 4, N >= 1; each cloud has its own curve.

    lengths: int64 [B], the number of valid points. Points that are not valid or not finite get `NOWHERE`.
    """
    edges = edges_of(cloud, lengths)
    return (keys_by_torch if cloud.device.type == "cpu" else keys_by_triton)(cloud, lengths, edges)


def edges_of(cloud: Tensor, lengths: Tensor) -> Tensor:
    """Quantiles [B, D, _RANGES + 1] of a sample, in which points that are not finite count as infinite."""
    at = torch.arange(_SAMPLE, device=cloud.device) * lengths[:, None] // _SAMPLE
    sample = cloud.gather(1, at[..., None].expand(-1, -1, cloud.shape[2]))
    sample = torch.where(sample.isfinite(), sample, torch.inf).transpose(1, 2).sort(dim=2).values
    return torch.cat((sample[..., :: _SAMPLE // _RANGES], sample[..., -1:]), dim=2)


def keys_by_torch(cloud: Tensor, lengths: Tensor, edges: Tensor) -> Tensor:
    """`keys` in plain torch, on any device: the definition."""
    dimensions = cloud.shape[2]
    bits = _BITS[dimensions]
    fine = 1 << (bits - _RANGES.bit_length() + 1)
    values = cloud.transpose(1, 2).contiguous()
    ranges = torch.searchsorted(edges[..., 1:-1].contiguous(), values, right=True)
    edges = edges.double()
    begin, end = edges.gather(2, ranges), edges.gather(2, ranges + 1)
    width = end - begin
    share = (values - begin) / torch.where(width > 0, width, 1) * fine
    share = torch.where(share > 0, share, 0).clamp(max=fine - 1).long()
    key = torch.zeros_like(ranges[:, 0])
    for axis, place in enumerate(unfolded(list((ranges * fine + share).unbind(1)), bits)):
        for shift, kept in _SPREAD[dimensions]:
            place = (place | place << shift) & kept
        key |= place << (dimensions - 1 - axis)
    counted = torch.arange(cloud.shape[1], device=cloud.device) < lengths[:, None]
    return torch.where(cloud.isfinite().all(dim=-1) & counted, key, NOWHERE)


def unfolded(places: list[Tensor], bits: int) -> list[Tensor]:
    """Cell coordinates -> the bits of the cell's number along the curve, distributed over the axes in turn.

    J. Skilling, Programming the Hilbert curve (2004): from coarse to fine, undoes the reflections and rotations.
    """
    for bit in range(bits - 1, 0, -1):
        low = (1 << bit) - 1
        for axis, place in enumerate(places):
            high = place >> bit & 1
            exchanged = (places[0] ^ place) & (low * (1 - high))
            places[axis] = place ^ exchanged
            places[0] = places[0] ^ (low * high) ^ exchanged
    for axis in range(1, len(places)):
        places[axis] = places[axis] ^ places[axis - 1]
    turned = places[-1] >> 1
    for shift in (1, 2, 4, 8, 16):
        turned = turned ^ turned >> shift
    return [place ^ turned for place in places]


@triton.jit
def _place(value, Edges, RANGES: tl.constexpr, FINE: tl.constexpr, HALVINGS: tl.constexpr):
    """The cell of a coordinate: finds its range by bisection of the edges, then its place between two edges."""
    at = tl.zeros_like(value).to(tl.int32)
    for halving in tl.static_range(HALVINGS):
        further = at + (RANGES >> (halving + 1))
        at = tl.where(tl.load(Edges + further) <= value, further, at)
    begin, end = tl.load(Edges + at).to(tl.float64), tl.load(Edges + at + 1).to(tl.float64)
    width = end - begin
    share = (value.to(tl.float64) - begin) / tl.where(width > 0, width, 1.0) * FINE
    share = tl.minimum(tl.where(share > 0, share, 0.0), FINE - 1.0)
    return at * FINE + share.to(tl.int32)


@triton.jit
def _turned_back(first, place, bit: tl.constexpr):
    """One step of `unfolded` for one axis; returns the new first axis and the new axis."""
    low: tl.constexpr = (1 << bit) - 1
    high = place >> bit & 1
    exchanged = (first ^ place) & (low * (1 - high))
    return first ^ (low * high) ^ exchanged, place ^ exchanged


@triton.jit
def _spread(place, D: tl.constexpr):
    place = place.to(tl.int64)
    if D == 3:
        place = (place | place << 32) & 0x1F00000000FFFF
        place = (place | place << 16) & 0x1F0000FF0000FF
        place = (place | place << 8) & 0x100F00F00F00F00F
        place = (place | place << 4) & 0x10C30C30C30C30C3
        place = (place | place << 2) & 0x1249249249249249
    else:
        place = (place | place << 24) & 0xFF000000FF
        place = (place | place << 12) & 0xF000F000F000F
        place = (place | place << 6) & 0x303030303030303
        place = (place | place << 3) & 0x1111111111111111
    return place


@triton.jit
def keys_kernel(
    Cloud, Lengths, Edges, Keys, points, blocks,
    D: tl.constexpr, BITS: tl.constexpr, RANGES: tl.constexpr, HALVINGS: tl.constexpr, NOWHERE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Keys [B, points] of Cloud [B, points, D] as `keys_by_torch` has them, from Edges [B, D, RANGES + 1]."""
    program = tl.program_id(0)
    clip = (program // blocks).to(tl.int64)
    row = (program % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = row < points
    Cloud += (clip * points + row) * D
    Edges += clip * D * (RANGES + 1)
    fine: tl.constexpr = 1 << (BITS - HALVINGS)
    v0 = tl.load(Cloud, mask=inside, other=0.0)
    v1 = tl.load(Cloud + 1, mask=inside, other=0.0)
    v2 = tl.load(Cloud + 2, mask=inside, other=0.0)
    v3 = tl.load(Cloud + D - 1, mask=inside, other=0.0)
    usable = (tl.abs(v0) < float("inf")) & (tl.abs(v1) < float("inf")) & (tl.abs(v2) < float("inf"))
    usable = usable & (tl.abs(v3) < float("inf")) & (row < tl.load(Lengths + clip))
    p0 = _place(v0, Edges, RANGES, fine, HALVINGS)
    p1 = _place(v1, Edges + (RANGES + 1), RANGES, fine, HALVINGS)
    p2 = _place(v2, Edges + 2 * (RANGES + 1), RANGES, fine, HALVINGS)
    p3 = p2
    if D == 4:
        p3 = _place(v3, Edges + 3 * (RANGES + 1), RANGES, fine, HALVINGS)
    for step in tl.static_range(BITS - 1):
        p0 ^= ((1 << (BITS - 1 - step)) - 1) * (p0 >> (BITS - 1 - step) & 1)
        p0, p1 = _turned_back(p0, p1, BITS - 1 - step)
        p0, p2 = _turned_back(p0, p2, BITS - 1 - step)
        if D == 4:
            p0, p3 = _turned_back(p0, p3, BITS - 1 - step)
    p1 ^= p0
    p2 ^= p1
    turned = p2
    if D == 4:
        p3 ^= p2
        turned = p3
    turned = turned >> 1
    for shift in tl.static_range(5):
        turned ^= turned >> (1 << shift)
    key = (_spread(p0 ^ turned, D) << (D - 1)) | (_spread(p1 ^ turned, D) << (D - 2))
    key = key | (_spread(p2 ^ turned, D) << (D - 3))
    if D == 4:
        key = key | _spread(p3 ^ turned, D)
    tl.store(Keys + clip * points + row, tl.where(usable, key, NOWHERE), mask=inside)


def keys_by_triton(cloud: Tensor, lengths: Tensor, edges: Tensor) -> Tensor:
    """`keys` by one kernel; cloud and lengths are contiguous."""
    batch, points, dimensions = cloud.shape
    found = torch.empty((batch, points), dtype=torch.int64, device=cloud.device)
    blocks = triton.cdiv(points, _BLOCK)
    launch(
        keys_kernel, batch * blocks, cloud, lengths, edges, found, points, blocks,
        D=dimensions, BITS=_BITS[dimensions], RANGES=_RANGES, HALVINGS=_RANGES.bit_length() - 1, NOWHERE=NOWHERE,
        BLOCK=_BLOCK, num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip
    return found
