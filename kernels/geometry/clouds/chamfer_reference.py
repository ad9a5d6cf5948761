"""Chamfer distance and its gradients in plain torch, any float dtype and device: the definition.

Memory is linear in the number of points: distances are computed for a chunk of points at a time. The order of all
additions is the same in every run.
"""

import torch
from torch import Tensor

_CHUNK = 1 << 22  # entries of a distance matrix held at once


def nearest_reference(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest point of y [M, D], M >= 1, for every point of x [N, D]: squared distances [N] and int64 indices [N].

    Of equal distances the lowest index is taken. A NaN distance is never the nearest; where all are NaN the index is 0.
    """
    if not len(x):
        return x.new_zeros(0), torch.zeros(0, dtype=torch.int64, device=x.device)
    rows = max(1, _CHUNK // len(y))
    index = torch.cat([_chosen(_squared_distances(part, y), dim=1) for part in x.split(rows)])
    return _squared(x, y[index]), index


def search_reference(
    x: Tensor, y: Tensor, x_lengths: Tensor, y_lengths: Tensor, squared: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Chamfer distances [B] of clouds x [B, N, D] and y [B, M, D], and the nearest indices int64 [B, N] and [B, M].

    x_lengths, y_lengths: int64 [B], the number of valid points, which are first.
    """
    nearest_in_y = torch.zeros(x.shape[:2], dtype=torch.int64, device=x.device)
    nearest_in_x = torch.zeros(y.shape[:2], dtype=torch.int64, device=x.device)
    for clip, (n, m) in enumerate(zip(x_lengths.tolist(), y_lengths.tolist(), strict=True)):
        if n and m:
            nearest_in_y[clip, :n], nearest_in_x[clip, :m] = _both_ways(x[clip, :n], y[clip, :m])
    return value_of(x, y, x_lengths, y_lengths, nearest_in_y, nearest_in_x, squared), nearest_in_y, nearest_in_x


def value_of(
    x: Tensor, y: Tensor, x_lengths: Tensor, y_lengths: Tensor, nearest_in_y: Tensor, nearest_in_x: Tensor,
    squared: bool,
) -> Tensor:  # fmt: skip
    """The Chamfer distances [B], given the indices of the nearest points; summed in float64."""
    if not x.shape[1] or not y.shape[1]:
        return x.new_zeros(len(x))
    to_y = mean_of(_squared(x, _taken(y, nearest_in_y)), x_lengths, squared)
    to_x = mean_of(_squared(y, _taken(x, nearest_in_x)), y_lengths, squared)
    return torch.where((x_lengths > 0) & (y_lengths > 0), to_y + to_x, 0).to(x.dtype)


def mean_of(squares: Tensor, lengths: Tensor, squared: bool) -> Tensor:
    """Mean in float64 of squared distances [B, N], or of their roots, over the first `lengths` [B] of each row."""
    counted = torch.arange(squares.shape[1], device=squares.device) < lengths[:, None]
    distances = torch.where(counted, squares if squared else squares.sqrt(), 0)
    return distances.sum(dim=1, dtype=torch.float64) / lengths.clamp_min(1)


def gradients_reference(
    gradient: Tensor, x: Tensor, y: Tensor, x_lengths: Tensor, y_lengths: Tensor, nearest_in_y: Tensor,
    nearest_in_x: Tensor, squared: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The gradients with respect to x and y, given `gradient` [B], that with respect to the value.

    Where two points coincide the distance is not differentiable, and 0 is taken. Where `gradient` is 0 or one of the
    clouds is empty the gradients are 0, whatever values the points have.
    """
    if not x.shape[1] or not y.shape[1]:
        return torch.zeros_like(x), torch.zeros_like(y)
    flows = (x_lengths > 0) & (y_lengths > 0) & (gradient != 0)
    pulls = []
    for here, there, nearest, lengths in ((x, y, nearest_in_y, x_lengths), (y, x, nearest_in_x, y_lengths)):
        difference = here - _taken(there, nearest)
        square = difference.square().sum(dim=-1)
        weight = (gradient / lengths.clamp_min(1).to(x.dtype))[:, None]
        slope = 2 * weight if squared else torch.where(square == 0, 0, weight / square.sqrt())
        counted = (torch.arange(here.shape[1], device=x.device) < lengths[:, None]) & flows[:, None]
        pulls.append(torch.where(counted[..., None], difference * slope[..., None], 0))
    from_x, from_y = pulls
    return _with_others(from_x, from_y, nearest_in_x, y_lengths), _with_others(from_y, from_x, nearest_in_y, x_lengths)


def _with_others(own: Tensor, others: Tensor, chosen: Tensor, lengths: Tensor) -> Tensor:
    """own [B, N, D] minus others [B, M, D] added up at their indices `chosen` [B, M] into N, in a fixed order."""
    batch, points, dimensions = own.shape
    columns = torch.arange(others.shape[1], device=own.device)
    spread = torch.where(columns < lengths[:, None], chosen, columns % points)  # padding, all 0
    rows = (spread + points * torch.arange(batch, device=own.device)[:, None]).flatten()
    total, parts = own.reshape(-1, dimensions), -others.reshape(-1, dimensions)
    if own.is_cuda:  # sorts the indices; index_add would use float atomics
        return total.index_put((rows,), parts, accumulate=True).view_as(own)
    return total.index_add(0, rows, parts).view_as(own)


def _both_ways(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    if len(x) * len(y) > _CHUNK:
        return nearest_reference(x, y)[1], nearest_reference(y, x)[1]
    distances = _squared_distances(x, y)
    return _chosen(distances, dim=1), _chosen(distances, dim=0)


def _chosen(distances: Tensor, dim: int) -> Tensor:
    return torch.where(distances.isnan(), torch.inf, distances).min(dim=dim).indices


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    # By differences: the |x|^2 + |y|^2 - 2xy form loses small distances to cancellation.
    total = (x[:, None, 0] - y[None, :, 0]).square_()
    for axis in range(1, x.shape[1]):
        total.add_((x[:, None, axis] - y[None, :, axis]).square_())
    return total


def _squared(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances [...] of paired points [..., D], with the order of additions of `_squared_distances`."""
    total = (x[..., 0] - y[..., 0]).square()
    for axis in range(1, x.shape[-1]):
        total = total + (x[..., axis] - y[..., axis]).square()
    return total


def _taken(points: Tensor, index: Tensor) -> Tensor:
    return points.gather(1, index.unsqueeze(-1).expand(*index.shape, points.shape[-1]))
