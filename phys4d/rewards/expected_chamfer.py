"""The moving Chamfer reward with a gradient: a generated pixel is a point with a probability, not by yes or no.

`moving_chamfer` asks of every generated pixel whether it changed, and the answer has no gradient: it pulls at depth and
motion of what moves and never at which pixels move. Here a pixel is present with the probability

    p = sigmoid((change - threshold) / softness)

and each frame's distance is the expectation of the Chamfer distance over which pixels are there, as far as that has a
simple form: from the generated points to the truth sum p d / sum p; from a true point to the generated ones the
distance of the nearest that is present, over the `neighbours` nearest pixels and, where none of them is, the nearest
with p >= 1/2. A frame in which nothing may be there counts `cap` with the probability of that. For softness -> 0 it is
`moving_chamfer`, but for rounding. The derivation is this project's own.
"""

import torch
from torch import Tensor

from phys4d.kernels.geometry import advect, nearest, unproject
from phys4d.rewards.moving_chamfer import changed

_PAIRS = 1 << 24  # distances that are held at once
_ABSENT = 0.01  # pixels that are less probable are left out


def expected_chamfer(
    video: Tensor,
    depth: Tensor,
    motion: Tensor,
    *,
    truth_video: Tensor,
    truth_depth: Tensor,
    truth_motion: Tensor,
    intrinsics: Tensor,
    frame_stride: int = 2,
    threshold: float = 0.3,
    softness: float = 0.1,
    neighbours: int = 8,
    cap: float = 2.0,
) -> Tensor:
    """Scores generated clips; higher is better. Differentiable in video, depth and motion, once.

    Args:
        video, depth, motion, truth_video, truth_depth, truth_motion, intrinsics, frame_stride, threshold, cap: as of
            `moving_chamfer`.
        softness: of the probability, in the unit of the video.
        neighbours: pixels that may be the nearest present one of a true point.

    Returns:
        reward: [B].
    """
    seen = depth > 0
    presence = torch.sigmoid(((video - video[:, :, :1]).abs().amax(1) - threshold) / softness) * seen
    truth_mask = changed(truth_video, threshold) & (truth_depth > 0)
    truth_depth = truth_depth.to(depth.dtype)
    distances = []
    for points, truth in (
        (unproject(depth, intrinsics), unproject(truth_depth, intrinsics)),
        (advect(depth, motion, intrinsics), advect(truth_depth, truth_motion.to(depth.dtype), intrinsics)),
    ):
        frames = range(frame_stride, points.shape[1], frame_stride)
        if frames:
            of_frames = [
                torch.stack([
                    _frame(points[b, t], presence[b, t], truth[b, t][truth_mask[b, t]], neighbours, cap) for t in frames
                ]).mean()
                for b in range(len(points))
            ]  # fmt: skip
            distances.append(torch.stack(of_frames))
    return -torch.stack(distances).mean(0)


def _frame(points: Tensor, presence: Tensor, truth: Tensor, neighbours: int, cap: float) -> Tensor:
    """The expected distance of one frame: points [H, W, 3] with their probabilities [H, W], true points [M, 3]."""
    keep = presence > _ABSENT
    x, p = points[keep], presence[keep]
    empty = (1 - p).clamp_min(1e-12).log().sum().exp() if len(p) else presence.new_ones(())
    if not len(truth):
        return (1 - empty) * cap
    if not len(x):
        return cap + 0 * presence.sum()  # a graph, though nothing moves it
    _, index = nearest(x, truth)
    towards = (p * _distance(x, truth[index])).sum() / p.sum()
    back = _first_present(truth, x, p, neighbours, cap).mean()
    return (1 - empty) * (towards + back).clamp_max(cap) + empty * cap


def _first_present(truth: Tensor, x: Tensor, p: Tensor, neighbours: int, cap: float) -> Tensor:
    """[M]: expected distance of each true point to the nearest of x [N, 3] that is present."""
    index = _nearest_of_all(truth, x, min(neighbours, len(x)))
    distance, there = _distance(x[index], truth[:, None]), p[index]
    before = torch.cat([torch.ones_like(there[:, :1]), (1 - there).cumprod(1)], 1)  # none of those nearer is there
    likely = p >= 0.5
    last = distance.new_full((len(truth),), cap)
    if likely.any():
        sure = x[likely]
        last = _distance(sure[nearest(truth, sure)[1]], truth)
    return (distance * there * before[:, :-1]).sum(1) + before[:, -1] * last


@torch.no_grad()
def _nearest_of_all(y: Tensor, x: Tensor, count: int) -> Tensor:
    """[M, count] places in x [N, 3] of the nearest points of each of y [M, 3], the nearest first."""
    rows = max(1, _PAIRS // len(x))
    return torch.cat([torch.cdist(part, x).topk(count, largest=False).indices for part in y.split(rows)])


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances [...] of points [..., 3]; its gradient is 0 where they coincide."""
    squared = (a - b).square().sum(-1)
    return torch.where(squared > 0, squared, 1.0).sqrt() * (squared > 0)
